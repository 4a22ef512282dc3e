"""The settings of CernVM-FS in a machine: which repositories, from where, by which proxies, and at which snapshot.

Pure: values in, the text of files out. The client reads these files by handing their lines to a shell and asking it for
each variable with an unquoted `echo` (cvmfs/options.cc, BashOptionsManager), so every value is of a narrow alphabet
that no shell gives a meaning, and quoted where `;` and `|` stand between addresses. What a client would take and then
do something else with is refused as well.
"""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

from visa.environment import Data

SITE_FILE: Final = "/etc/cvmfs/default.local"
KEYS: Final = "/etc/cvmfs/keys"
SMALLEST_CACHE_MB: Final = 100
LARGEST_CACHE_MB: Final = 10_000_000

#: sixty characters at most: sanitizer.h of the client
_NAME = re.compile(r"(?=.{4,60}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")
_HOST = r"https?://[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?"
_PROXY = re.compile(_HOST)
_SERVER = re.compile(_HOST + r"(/[A-Za-z0-9._~@%+-]{1,100}){1,10}")
_KEY = re.compile(r"-----BEGIN PUBLIC KEY-----\n([A-Za-z0-9+/=]{1,76}\n){1,40}-----END PUBLIC KEY-----\n")
#: names that every repository moves with each revision
_MOVING = frozenset({"trunk", "trunk-previous"})


class SoftwareFault(ValueError):
    """The client would not do with this what was meant; `field` names what is at fault, `reason` says why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class PinKind(StrEnum):
    """How a snapshot is named. The value is how the site writes it: `tag:2026.1`."""

    HASH = "hash"
    TAG = "tag"
    DATE = "date"


#: where the client looks, in this order; beside the repository's server, since for all it would hold for each of them
_PINS: Final[Mapping[PinKind, str]] = {
    PinKind.HASH: "CVMFS_ROOT_HASH",
    PinKind.TAG: "CVMFS_REPOSITORY_TAG",
    PinKind.DATE: "CVMFS_REPOSITORY_DATE",
}


_PIN_VALUES: Final[Mapping[PinKind, re.Pattern[str]]] = {
    PinKind.HASH: re.compile(r"[0-9a-f]{40}"),
    PinKind.TAG: re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@/:-]{0,120}"),
    PinKind.DATE: re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"),
}


@dataclass(frozen=True, kw_only=True)
class Repository:
    """One repository. Server, key and pin are what the image does not know already, or knows otherwise.

    `server` is the client's own notation, `http://a.eu/cvmfs/@fqrn@;http://b.eu/cvmfs/@fqrn@` (`;` is the next
    resort, `@fqrn@` the repository's name). `public_key` is PEM. `pin` is one snapshot for ever, the same software
    tomorrow as today: `date:2026-01-31T00:00:00Z`, `tag:2026.1`, or `hash:` and forty digits.
    """

    name: str
    server: str = ""
    public_key: str = ""
    pin: str = ""

    @property
    def file(self) -> str:
        """Read last of all, after what the image's packages say of the same repository."""
        return f"/etc/cvmfs/config.d/{self.name}.local"

    @property
    def key_file(self) -> str:
        return f"{KEYS}/{self.name}.pub"


@dataclass(frozen=True, kw_only=True)
class Cvmfs:
    """All a machine's client is told. `proxy` is its own notation: `http://a:3128|http://b:3128;DIRECT` (`|` shares
    the load, `;` is the next resort); `quota_mb` is the size of its cache (MB)."""

    repositories: tuple[Repository, ...]
    proxy: str
    quota_mb: int = 4000


def of_site(data: Data) -> Cvmfs | None:
    """What the site's environment says; None where it names no repository."""
    if not data.cvmfs_repositories:
        return None
    repositories = tuple(
        Repository(
            name=name,
            server=data.cvmfs_servers.get(name, ""),
            public_key=data.cvmfs_keys.get(name, ""),
            pin=data.cvmfs_pins.get(name, ""),
        )
        for name in data.cvmfs_repositories
    )
    return Cvmfs(repositories=repositories, proxy=data.cvmfs_proxy, quota_mb=data.cvmfs_quota_mb)


def files(cvmfs: Cvmfs) -> dict[str, str]:
    """The files a machine's client is set up by: their text by their path. Raises SoftwareFault."""
    names = [repository.name for repository in cvmfs.repositories]
    if not names:
        raise SoftwareFault("cvmfs repositories", "none is named")
    if doubled := {name for name in names if names.count(name) > 1}:
        raise SoftwareFault("cvmfs repositories", f"{min(doubled)} is named twice")
    for name in names:
        _matching("cvmfs repository", name, _NAME)
    for proxy in re.split(r"[|;]", cvmfs.proxy):
        if proxy != "DIRECT":
            _address("cvmfs proxy", proxy, _PROXY)
    if not SMALLEST_CACHE_MB <= cvmfs.quota_mb <= LARGEST_CACHE_MB:
        least, most = f"{SMALLEST_CACHE_MB:,}", f"{LARGEST_CACHE_MB:,}"
        raise SoftwareFault("cvmfs quota", f"{cvmfs.quota_mb} MB is not between {least} and {most}")
    made = {
        SITE_FILE: _assignments(
            {
                "CVMFS_REPOSITORIES": ",".join(names),
                "CVMFS_HTTP_PROXY": cvmfs.proxy,
                "CVMFS_QUOTA_LIMIT": str(cvmfs.quota_mb),
                # Without it the list above would not limit what can be mounted.
                "CVMFS_STRICT_MOUNT": "yes",
            }
        )
    }
    for repository in cvmfs.repositories:
        made |= _own_files(repository)
    return made


def _own_files(repository: Repository) -> dict[str, str]:
    """What is said of one repository alone; nothing where the image knows all of it."""
    settings: dict[str, str] = {}
    made: dict[str, str] = {}
    if repository.server:
        for server in repository.server.split(";"):
            _address("cvmfs server", server, _SERVER)
        settings["CVMFS_SERVER_URL"] = repository.server
    if repository.public_key:
        _matching("cvmfs public key", repository.public_key, _KEY)
        made[repository.key_file] = repository.public_key
        settings["CVMFS_PUBLIC_KEY"] = repository.key_file
    if repository.pin:
        settings |= _pinned(repository.pin)
    if settings:
        made[repository.file] = _assignments(settings)
    return made


def _pinned(pin: str) -> dict[str, str]:
    """The pin, if it pins. A malformed hash is no error for the client: it follows the newest revision then."""
    word, _, value = pin.partition(":")
    try:
        kind = PinKind(word)
    except ValueError as error:
        kinds = ", ".join(f"{one}:" for one in PinKind)
        raise SoftwareFault("cvmfs pin", f"{pin[:80]!r} begins with none of {kinds}") from error
    _matching("cvmfs pin", value, _PIN_VALUES[kind])
    if kind is PinKind.HASH and not value.strip("0"):
        raise SoftwareFault("cvmfs pin", "a hash of zeros alone pins nothing")
    if kind is PinKind.TAG and value in _MOVING:
        raise SoftwareFault("cvmfs pin", f"{value!r} moves with every revision")
    if kind is PinKind.DATE:
        try:
            when = datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError as error:
            raise SoftwareFault("cvmfs pin", f"{value} is on no calendar") from error
        if when.timestamp() <= 0:
            raise SoftwareFault("cvmfs pin", f"{value} is before any repository")
    return {_PINS[kind]: value}


def _assignments(settings: Mapping[str, str]) -> str:
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())


def _address(field: str, address: str, pattern: re.Pattern[str]) -> None:
    _matching(field, address, pattern)
    try:
        port = urlsplit(address).port
    except ValueError:
        port = 0
    if port == 0:
        raise SoftwareFault(field, f"{address!r} has a port that does not exist")


def _matching(field: str, value: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(value):
        raise SoftwareFault(field, f"{value[:200]!r} is not allowed there")
