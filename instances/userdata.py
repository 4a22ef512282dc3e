"""The cloud-init document a machine boots with: desktop, data, software. Pure.

Values in, one YAML document out, made by a dumper and never by a text template, so that no name can become an
instruction. What reaches a shell, fstab or a file that is sourced there is held to an allowlist besides.

Every cloud interprets the same document; so it uses no more of cloud-init than `hostname`, `write_files` (path,
content, permissions, owner), `mounts` (source, target, type, options, dump, pass) and `runcmd`
(lists, never shell lines).
"""

import json
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from uuid import UUID

import yaml

from instances import software
from instances.software import Cvmfs, SoftwareFault

#: what Nova takes: 65,535 characters of base64
LIMIT_BYTES: Final = 49_149

#: how data and software are mounted over NFS: read-only, and failing rather than hanging where the server is away.
#: `retry=0` because mount would otherwise hold up the boot for two minutes
NFS_OPTIONS: Final = ("ro", "nosuid", "nodev", "_netdev", "nofail", "soft", "timeo=100", "retrans=3", "retry=0")

#: how a directory of the same host is mounted, where there is no network between
BIND_OPTIONS: Final = ("bind", "ro", "nosuid", "nodev", "nofail")

_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")
_SIZE = re.compile(r"[1-9][0-9]{2,3}x[1-9][0-9]{2,3}")
_TOKEN = re.compile(r"[A-Za-z0-9_:.=-]{20,500}")
_ADDRESS = re.compile(r"https?://[A-Za-z0-9.:\[\]-]{1,260}")
_FSTYPE = re.compile(r"[a-z0-9]{1,16}")
_OPTION = re.compile(r"[a-z0-9_.-]{1,40}(=[A-Za-z0-9_.:/@%+-]{1,120})?")
# What a shell, fstab or a glob gives a meaning is refused; a blank, which datasets do have, is escaped for fstab.
_TARGET = re.compile(r"(/[A-Za-z0-9_.:@%+,=()<>;~-]{1,255})+")
_SOURCE = re.compile(r"""[^\\#$`'"*?<>|;&{}]{1,1100}""")
_PEM = re.compile(r"(-----BEGIN [A-Z ]+-----\n([A-Za-z0-9+/=]{1,76}\n)+-----END [A-Z ]+-----\n)+")


class Unrenderable(ValueError):
    """These values cannot become a machine; `field` names the one at fault. The sentence never quotes a secret."""

    def __init__(self, field_name: str, reason: str) -> None:
        super().__init__(f"{field_name}: {reason}")
        self.field = field_name


@dataclass(frozen=True, kw_only=True)
class DesktopSecret:
    """What proves a machine to the gateway, and the gateway to the machine. It stands in no user-data: a machine
    fetches it, once (`Enrolment`).

    `password` is VNC's: eight printable ASCII characters, since the protocol looks at no more (RFC 6143 section 7.2.2).
    Key and certificate (PEM) are the machine's own; the gateway pins the certificate.
    """

    password: str = field(repr=False)
    key: str = field(repr=False)
    certificate: str


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """How a machine gets its secrets: with this token, once, from the platform at `url` (scheme, host, port).

    User-data is no secret: any process of the machine reads it, and so does whoever runs the cloud. `authority` (PEM)
    is whom the machine knows that address by, beside the authorities of its image.
    """

    url: str
    token: str = field(repr=False)
    authority: str = ""


class Holds(StrEnum):
    """What is mounted, by which the machine says what is missing."""

    DATA = "data"
    SOFTWARE = "software"


@dataclass(frozen=True, kw_only=True)
class MountPoint:
    """One line of fstab. `source` is what the machine mounts, `target` an absolute path in it."""

    source: str
    target: str
    fstype: str = "nfs"
    options: tuple[str, ...] = NFS_OPTIONS
    holds: Holds = Holds.DATA


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a machine is to be. `name` is the person's own word for it, shown as the desktop's name; any text may stand
    there. `size` is the desktop's, in pixels."""

    instance_id: UUID
    hostname: str
    name: str
    enrolment: Enrolment
    desktop_user: str = "visa"
    size: str = "1280x800"
    mounts: tuple[MountPoint, ...] = ()
    cvmfs: Cvmfs | None = None


def render(machine: Machine) -> str:
    """The cloud-init document for a machine.

    Raises Unrenderable where a value is outside its allowlist or the document is larger than a cloud takes.
    """
    document = "#cloud-config\n" + yaml.safe_dump(_document(machine), sort_keys=False, allow_unicode=False)
    size = len(document.encode())
    if size > LIMIT_BYTES:
        raise Unrenderable("mounts", f"the cloud-init document has {size:,} bytes; a cloud takes {LIMIT_BYTES:,}")
    return document


def _document(machine: Machine) -> dict[str, object]:
    _matching("hostname", machine.hostname, _HOSTNAME)
    _matching("desktop_user", machine.desktop_user, _USER)
    _matching("size", machine.size, _SIZE)
    _matching("platform address", machine.enrolment.url, _ADDRESS)
    _secret("token", machine.enrolment.token, _TOKEN)
    if machine.enrolment.authority:
        _secret("authority", machine.enrolment.authority, _PEM)
    targets = [mount.target for mount in machine.mounts]
    if doubled := {target for target in targets if targets.count(target) > 1}:
        raise Unrenderable("mounts", f"{min(doubled)} is mounted twice")
    files = [
        _file("/etc/visa/instance", f"{machine.instance_id}\n", "0644"),
        _file("/etc/visa/name", f"{one_line(machine.name)}\n", "0644"),
        _file("/etc/motd", _welcome(machine), "0644"),
        _file("/etc/visa/desktop.env", f"DESKTOP_USER={machine.desktop_user}\nDESKTOP_SIZE={machine.size}\n", "0644"),
        _file("/etc/visa/guest.json", f"{_guest(machine)}\n", "0600"),
    ]
    if machine.enrolment.authority:
        files.append(_file("/etc/visa/platform-ca.pem", machine.enrolment.authority, "0644"))
    commands: list[list[str]] = []
    if machine.cvmfs is not None:
        files += [_file(path, text, "0644") for path, text in _cvmfs(machine.cvmfs).items()]
        # Where the image brings no client, nothing is to be started, and that is not a fault of the boot.
        commands.append(["sh", "-c", "! command -v cvmfs_config >/dev/null || systemctl enable --now autofs"])
    document: dict[str, object] = {"hostname": machine.hostname, "write_files": files}
    if machine.mounts:
        document["mounts"] = [_mount(mount) for mount in machine.mounts]
    if commands:
        document["runcmd"] = commands
    return document


def _guest(machine: Machine) -> str:
    """What the machine's own program goes by (`instances/cloud/machine/visa_guest.py`), as one line of JSON."""
    told: dict[str, object] = {
        "url": f"{machine.enrolment.url}/api/v1/guest/{machine.instance_id}/",
        "token": machine.enrolment.token,
    }
    for holds in Holds:
        told[holds] = [mount.target for mount in machine.mounts if mount.holds is holds]
    told["cvmfs"] = [repository.name for repository in machine.cvmfs.repositories] if machine.cvmfs else []
    return json.dumps(told)


def one_line(text: str) -> str:
    """A person's text as one line of at most 120 characters that no terminal and no YAML reader stumbles over."""
    shown = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(shown.split())[:120].rstrip()


def _welcome(machine: Machine) -> str:
    """What the first terminal says: what this machine is, and where things are."""
    lines = [one_line(machine.name)]
    lines += [f"Data, read-only:  {mount.target}" for mount in machine.mounts if mount.target.startswith("/data/")]
    lines += [
        "Software:         module avail, module load NAME",
        "Your own files:   ~ (kept until you delete the machine)",
    ]
    return "\n".join(lines) + "\n\n"


def from_fstab(field_text: str) -> str:
    """A field of fstab as `render` writes it, read back: `\\040` is a blank (fstab(5))."""
    return field_text.replace(r"\040", " ")


def _file(path: str, content: str, permissions: str) -> dict[str, str]:
    return {"path": path, "content": content, "permissions": permissions, "owner": "root:root"}


def _mount(mount: MountPoint) -> list[str]:
    if not mount.source.isprintable():
        raise Unrenderable("mount source", f"{mount.source[:200]!r} is not one line of text")
    _matching("mount source", mount.source, _SOURCE)
    _matching("mount target", mount.target, _TARGET)
    if {".", ".."} & set(mount.target.split("/")) or ".." in mount.source.split("/"):
        raise Unrenderable("mount target", f"{mount.target[:200]!r} leads elsewhere")
    _matching("mount type", mount.fstype, _FSTYPE)
    for option in mount.options:
        _matching("mount option", option, _OPTION)
    if "ro" not in mount.options:
        raise Unrenderable("mount option", f"{mount.target[:200]!r} would be writable")
    return [mount.source.replace(" ", r"\040"), mount.target, mount.fstype, ",".join(mount.options), "0", "0"]


def _cvmfs(cvmfs: Cvmfs) -> dict[str, str]:
    try:
        return software.files(cvmfs)
    except SoftwareFault as fault:
        raise Unrenderable(fault.field, fault.reason) from fault


def _matching(name: str, value: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(value):
        raise Unrenderable(name, f"{value[:200]!r} is not allowed there")


def _secret(name: str, value: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(value):
        raise Unrenderable(name, "it is not of the form it should have")
