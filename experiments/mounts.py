"""Where a dataset stands in a machine: its path below the site's storage becomes a read-only mount. Pure.

Paths come from catalogues, so they are judged as foreign text: relative, without `..`, without control characters. The
target is made from the DOI and never from the path, so that no record can choose what it covers in a machine.
"""

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum

#: Below this directory every dataset stands in a machine.
ROOT = "/data"
LONGEST_PATH = 1000

#: Read-only, and nothing in it runs with others' rights. Neither a desktop nor a boot hangs on a storage that is away.
NFS_OPTIONS: tuple[str, ...] = (
    "ro",
    "nosuid",
    "nodev",
    "_netdev",
    "nofail",
    "soft",
    "timeo=100",
    "retrans=3",
    "retry=0",
)
OPTIONS: tuple[str, ...] = ("ro", "nosuid", "nodev")


class PathFault(StrEnum):
    """What is wrong with a path."""

    EMPTY = "empty"
    TOO_LONG = "too_long"
    ABSOLUTE = "absolute"
    UPWARD = "upward"
    CONTROL = "control_characters"
    BLANK = "blank_segment"
    MARK = "mark"


class UnsafePath(ValueError):
    """A path that must not be mounted; `fault` says why."""

    def __init__(self, fault: PathFault) -> None:
        super().__init__(fault.value)
        self.fault = fault


@dataclass(frozen=True)
class Mount:
    """One mount: `source` in the words of its `fstype`, `target` in the machine, `options` as mount(8) takes them."""

    source: str
    target: str
    fstype: str
    options: tuple[str, ...]


def checked(path: str) -> str:
    """The path, if it names something below the storage's root and nothing else. Raises `UnsafePath`.

    Colons, backslashes, dollars, quotes and commas are refused although a file system allows them: mount tables,
    shells and cloud-init documents further on read something into them.
    """
    if not path:
        raise UnsafePath(PathFault.EMPTY)
    if len(path) > LONGEST_PATH:
        raise UnsafePath(PathFault.TOO_LONG)
    if any(unicodedata.category(character) in {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"} for character in path):
        raise UnsafePath(PathFault.CONTROL)
    # Judged in the widest reading too: ．． (full width) is .. after a normalising file system, ％ and ／ likewise.
    wide = unicodedata.normalize("NFKC", path)
    if wide.startswith(("/", "~")):
        raise UnsafePath(PathFault.ABSOLUTE)
    if re.search(r"[\\:$`'\"*?<>|;&,%{}#]", wide):
        raise UnsafePath(PathFault.MARK)
    segments = wide.removesuffix("/").split("/")
    if any(segment.strip(". ") == "" and segment.strip() not in {""} for segment in segments):
        raise UnsafePath(PathFault.UPWARD)
    if any(segment.strip() == "" or segment != segment.strip() for segment in segments):
        raise UnsafePath(PathFault.BLANK)
    return path.removesuffix("/")


def target(key: str) -> str:
    """The directory of a dataset in a machine: `/data/` and the DOI in characters that need no quoting anywhere.

    Where more than the first slash had to be replaced, a digest keeps two DOIs apart that would look the same.
    """
    plain = re.sub(r"[^a-z0-9._-]", "-", key)
    if plain == key.replace("/", "-", 1) and len(plain) <= 120:
        return f"{ROOT}/{plain}"
    return f"{ROOT}/{plain[:100]}-{_digest(key)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def mounts(path: str, key: str, *, source: str, fstype: str) -> tuple[Mount, ...]:
    """The mounts of one dataset: today exactly one, read-only.

    `key` is its folded DOI. `source` is the site's template with `{path}`, as `visa.environment.Data` has it; `fstype`
    is `nfs`, or `none` for a directory of the same host. Raises `UnsafePath`.
    """
    # replace and not format: a template's other braces, and a path's, are text.
    place = source.replace("{path}", checked(path))
    if fstype.startswith("nfs"):
        options = NFS_OPTIONS
    elif fstype == "none":
        options = ("bind", *OPTIONS)
    else:
        options = OPTIONS
    return (Mount(source=place, target=target(key), fstype=fstype, options=options),)
