"""The environment: every VISA_* variable, read once into one frozen, typed value.

Pure: takes a mapping, returns an `Environment` or raises `EnvironmentFaults` that lists *all* missing and malformed
variables at once. Each process type asks only for what it needs, so that a process without a use for a secret need
not be given it. Any variable may be given as NAME_FILE instead, holding the path of a file with the value.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")


class Process(StrEnum):
    """What kind of process this is: VISA_PROCESS."""

    WEB = "web"
    WORKER = "worker"
    RECONCILER = "reconciler"
    COMMAND = "command"


class CloudKind(StrEnum):
    """Where machines come from: VISA_CLOUD_KIND."""

    OPENSTACK = "openstack"
    LOCAL = "local"
    MEMORY = "memory"


class MailTls(StrEnum):
    """How mail is kept from others' eyes on its way to our mail server: VISA_MAIL_TLS."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


class SweepMode(StrEnum):
    """What becomes of things in the cloud that no machine explains: VISA_SWEEP."""

    REPORT = "report"
    DELETE = "delete"


class EnvironmentFaults(Exception):
    """All faults of the environment, one line each."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("The environment is not complete:\n" + "\n".join(f"  - {fault}" for fault in self.faults))


@dataclass(frozen=True, kw_only=True)
class Site:
    """The site as people see it. `url` is scheme, host and port, without a slash at the end."""

    name: str
    url: str
    demo: bool
    accent: str
    debug: bool
    #: where collectstatic puts the pages' parts; empty means .visa/static of the checkout
    static_root: str

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def secure(self) -> bool:
        return self.url.startswith("https://")


@dataclass(frozen=True, kw_only=True)
class Guests:
    """How machines reach the platform: scheme, host and port, as in `Site.url`, and whom they trust for it.

    `authority` is PEM, empty where the authorities of the machines' image suffice.
    """

    url: str
    authority: str

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""


@dataclass(frozen=True, kw_only=True)
class Database:
    """PostgreSQL. `host` may be the directory of a Unix socket."""

    host: str
    port: int
    name: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One OpenID provider people may sign in with. `preset` names a profile of claims in `visa.accounts.oidc`."""

    slug: str
    label: str
    preset: str
    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    scopes: str
    #: clients whose access tokens the REST API accepts, besides our own
    api_clients: tuple[str, ...]
    #: URN namespaces whose groups this issuer may state, e.g. `urn:geant:eduteams.org`
    namespaces: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Who is what, as the site maps it: each entry is `entitlement:<urn>` or `subject:<issuer>#<sub>`."""

    administrator: tuple[str, ...]
    support: tuple[str, ...]
    instrument_scientist: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Where machines run. `environment` is the tag that tells our machines from those of another installation."""

    kind: CloudKind
    environment: str
    #: openstack: name of the cloud in clouds.yaml, and of the network machines are put on
    name: str
    network: str
    #: local: the directory that holds the machines, and what they may use in all
    directory: str
    cores: int
    memory_mib: int
    gpus: int
    #: seconds after which a create request that was given up can no longer be executed
    quiet_seconds: int
    #: at most so many machines are being made at once, for the whole site
    creates: int
    sweep: SweepMode


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where datasets and software stand, as a machine mounts them.

    `source` is what is mounted, with `{path}` for the dataset's path: `nfs.facility.eu:/data/{path}` with
    fstype nfs, or a directory of this host with fstype none. The same for `software_source`, which has no `{path}`.
    """

    source: str
    fstype: str
    software_source: str
    software_fstype: str
    software_target: str
    cvmfs_repositories: tuple[str, ...]
    cvmfs_proxy: str
    cvmfs_quota_mb: int
    #: by repository, of those that have one: server, public key (PEM), pinned snapshot (`date:2026-01-31T00:00:00Z`)
    cvmfs_servers: Mapping[str, str]
    cvmfs_keys: Mapping[str, str]
    cvmfs_pins: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Tests:
    """What only tests may ask for; system check instances.E002 refuses it elsewhere. No operator's concern.

    `checkpoints` is a directory of named pipes (`instances.checkpoints`); `scale` multiplies all waiting times.
    """

    checkpoints: str
    scale: float


@dataclass(frozen=True, kw_only=True)
class Mail:
    """The mail server that takes our mail. Without a user nothing is logged in to."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    tls: MailTls
    #: the address mail comes from
    sender: str


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Everything a process is told by its environment."""

    process: Process
    site: Site
    guests: Guests
    database: Database
    redis_url: str = field(repr=False)
    #: signs sessions and forms; empty in processes that serve no pages
    signing_key: str = field(repr=False)
    #: Fernet keys for the machines' secrets at rest, newest first
    machine_keys: tuple[str, ...] = field(repr=False)
    #: networks in which a machine's desktop may stand
    desktop_ranges: tuple[str, ...]
    providers: tuple[Provider, ...]
    roles: Roles
    cloud: Cloud | None
    data: Data
    #: directory that takes the hourly heads of the audit trail; empty: they are only logged
    audit_heads: str
    #: None where no mail is sent: the site has no mail server, or this process sends none
    mail: Mail | None = None
    tests: Tests


class _Reader:
    """Takes values out of a mapping and collects what is wrong with them."""

    def __init__(self, mapping: Mapping[str, str]) -> None:
        self.mapping = mapping
        self.faults: list[str] = []

    def raw(self, name: str) -> str | None:
        """The value of NAME, or of the file NAME_FILE names; None where neither is set."""
        path = self.mapping.get(f"{name}_FILE")
        if path is not None and name in self.mapping:
            self.faults.append(f"{name} and {name}_FILE are both set; keep one")
        if path is None:
            return self.mapping.get(name)
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            self.faults.append(f"{name}_FILE: {path} cannot be read ({type(error).__name__})")
            return ""

    def text(self, name: str, default: str | None = None, *, wanted: bool = True) -> str:
        """A text; required where there is no default and the process wants it."""
        value = self.raw(name)
        if value is None or not value.strip():
            if default is None and wanted:
                self.faults.append(f"{name} is not set")
            return default or ""
        return value.strip()

    def parsed(self, name: str, parse: Callable[[str], T], expected: str, default: T) -> T:
        """A value parsed from text; `expected` says in words what would have been right."""
        value = self.raw(name)
        if value is None or not value.strip():
            return default
        try:
            return parse(value.strip())
        except ValueError:
            self.faults.append(f"{name}: {value.strip()[:80]!r} is not {expected}")
            return default

    def number(self, name: str, default: int, *, low: int = 0) -> int:
        def parse(text: str) -> int:
            number = int(text)
            if number < low:
                raise ValueError(text)
            return number

        return self.parsed(name, parse, f"a whole number of at least {low}", default)

    def yes(self, name: str, *, default: bool = False) -> bool:
        words = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}

        def parse(text: str) -> bool:
            if text.lower() not in words:
                raise ValueError(text)
            return words[text.lower()]

        return self.parsed(name, parse, "yes or no", default)

    def words(self, name: str) -> tuple[str, ...]:
        return tuple((self.raw(name) or "").split())


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"} or parts.query:
        raise ValueError(text)
    return text.rstrip("/")


def _pem(reader: _Reader, name: str) -> str:
    """Certificates in PEM, and nothing else; empty where there are none."""
    text = reader.text(name, "")
    found = re.findall(r"-----BEGIN CERTIFICATE-----\n(?:[A-Za-z0-9+/=]{1,76}\n)+-----END CERTIFICATE-----", text)
    if text and not found:
        reader.faults.append(f"{name}: there is no certificate in it (PEM)")
    return "".join(f"{one}\n" for one in found)


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text))


def _colour(text: str) -> str:
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise ValueError(text)
    return text.lower()


def _providers(reader: _Reader) -> tuple[Provider, ...]:
    providers = []
    for slug in reader.words("VISA_OIDC_PROVIDERS"):
        if not re.fullmatch(r"[a-z][a-z0-9]{0,30}", slug):
            reader.faults.append(
                f"VISA_OIDC_PROVIDERS: {slug[:40]!r} is not a short name in lower-case letters and digits"
            )
            continue
        prefix = f"VISA_OIDC_{slug.upper()}"
        providers.append(
            Provider(
                slug=slug,
                label=reader.text(f"{prefix}_LABEL", slug),
                preset=reader.text(f"{prefix}_PRESET", slug),
                issuer=reader.text(f"{prefix}_ISSUER"),
                client_id=reader.text(f"{prefix}_CLIENT_ID"),
                client_secret=reader.text(f"{prefix}_CLIENT_SECRET"),
                scopes=reader.text(f"{prefix}_SCOPES", ""),
                api_clients=reader.words(f"{prefix}_API_CLIENTS"),
                namespaces=reader.words(f"{prefix}_NAMESPACES"),
            )
        )
    return tuple(providers)


def _of_repositories(reader: _Reader, name: str) -> dict[str, str]:
    """`repository=value`, separated by blanks; each repository one of those that are mounted, and once."""
    said: dict[str, str] = {}
    for word in reader.words(name):
        repository, _, value = word.partition("=")
        if not value:
            reader.faults.append(f"{name}: {word[:80]!r} is not REPOSITORY=VALUE")
        elif repository not in reader.words("VISA_CVMFS_REPOSITORIES"):
            reader.faults.append(f"{name}: {repository[:60]!r} is not among VISA_CVMFS_REPOSITORIES")
        elif repository in said:
            reader.faults.append(f"{name}: {repository} stands there twice")
        said[repository] = value
    return said


def _keys_of_repositories(reader: _Reader) -> dict[str, str]:
    """The public keys a directory holds as REPOSITORY.pub."""
    directory = reader.text("VISA_CVMFS_KEYS", "")
    if not directory:
        return {}
    said: dict[str, str] = {}
    for path in sorted(Path(directory).glob("*.pub")):
        try:
            said[path.stem] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reader.faults.append(f"VISA_CVMFS_KEYS: {path} cannot be read ({type(error).__name__})")
    if not said and not reader.faults:
        reader.faults.append(f"VISA_CVMFS_KEYS: {directory} holds no REPOSITORY.pub")
    return said


def _cloud(reader: _Reader) -> Cloud:
    kind = reader.parsed("VISA_CLOUD_KIND", CloudKind, "openstack, local or memory", None)
    if kind is None:
        if not any(fault.startswith("VISA_CLOUD_KIND") for fault in reader.faults):
            reader.faults.append("VISA_CLOUD_KIND is not set; it is openstack, local or memory")
        kind = CloudKind.MEMORY
    openstack, local = kind is CloudKind.OPENSTACK, kind is CloudKind.LOCAL
    environment = reader.text("VISA_CLOUD_ENVIRONMENT")
    if environment and not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", environment):
        reader.faults.append("VISA_CLOUD_ENVIRONMENT: lower-case letters, digits and hyphens only, at most 32")
    return Cloud(
        kind=kind,
        environment=environment,
        name=reader.text("VISA_CLOUD_NAME", wanted=openstack),
        network=reader.text("VISA_CLOUD_NETWORK", wanted=openstack),
        directory=reader.text("VISA_CLOUD_DIRECTORY", wanted=local),
        cores=reader.number("VISA_CLOUD_CORES", 8, low=1),
        memory_mib=reader.number("VISA_CLOUD_MEMORY_MIB", 8192, low=1),
        gpus=reader.number("VISA_CLOUD_GPUS", 1),
        quiet_seconds=reader.number("VISA_CLOUD_QUIET_SECONDS", 120),
        creates=reader.number("VISA_CLOUD_CREATES", 20, low=1),
        sweep=reader.parsed("VISA_SWEEP", SweepMode, "report or delete", SweepMode.DELETE),
    )


def _tests(reader: _Reader) -> Tests:
    def parse(text: str) -> float:
        scale = float(text)
        if not 0.001 <= scale <= 10:
            raise ValueError(text)
        return scale

    return Tests(
        checkpoints=reader.text("VISA_TEST_CHECKPOINTS", ""),
        scale=reader.parsed("VISA_TEST_SCALE", parse, "a factor from 0.001 to 10", 1.0),
    )


def _address(text: str) -> str:
    if not re.fullmatch(r"[^@\s<>,;]+@[^@\s<>,;]+", text):
        raise ValueError(text)
    return text


def _mail(reader: _Reader) -> Mail | None:
    host = reader.text("VISA_MAIL_HOST", "")
    mail = Mail(
        host=host,
        port=reader.number("VISA_MAIL_PORT", 587, low=1),
        user=reader.text("VISA_MAIL_USER", ""),
        password=reader.text("VISA_MAIL_PASSWORD", ""),
        tls=reader.parsed("VISA_MAIL_TLS", MailTls, "starttls, tls or none", MailTls.STARTTLS),
        sender=reader.parsed("VISA_MAIL_FROM", _address, "a mail address such as visa@facility.eu", ""),
    )
    if not host:
        return None
    if not mail.sender and not any(fault.startswith("VISA_MAIL_FROM") for fault in reader.faults):
        reader.faults.append("VISA_MAIL_FROM is not set; it is the address mail comes from, such as visa@facility.eu")
    if bool(mail.user) != bool(mail.password):
        reader.faults.append("VISA_MAIL_USER and VISA_MAIL_PASSWORD go together; set both or neither")
    if mail.password and mail.tls is MailTls.NONE:
        reader.faults.append("VISA_MAIL_TLS: none would send VISA_MAIL_PASSWORD readable for everybody on the way")
    return mail


def read(mapping: Mapping[str, str]) -> Environment:
    """The environment of a process, from its variables.

    Raises `EnvironmentFaults` with every missing and malformed variable, one line each.
    """
    reader = _Reader(mapping)
    process = reader.parsed("VISA_PROCESS", Process, f"one of {', '.join(Process)}", None)
    if process is None:
        if not reader.faults:
            reader.faults.append(f"VISA_PROCESS is not set; it is one of {', '.join(Process)}")
        process = Process.COMMAND
    pages = process in {Process.WEB, Process.COMMAND}
    drives = process in {Process.WORKER, Process.RECONCILER, Process.COMMAND}
    ranges = []
    for word in reader.words("VISA_DESKTOP_RANGES"):
        try:
            ranges.append(_network(word))
        except ValueError:
            reader.faults.append(f"VISA_DESKTOP_RANGES: {word[:60]!r} is not a network such as 10.77.0.0/20")
    if not ranges and not any(fault.startswith("VISA_DESKTOP_RANGES") for fault in reader.faults):
        reader.faults.append(
            "VISA_DESKTOP_RANGES is not set; it lists the networks machines stand in, such as 10.77.0.0/20"
        )
    url = reader.parsed("VISA_SITE_URL", _url, "an address such as https://visa.facility.eu, without a path", "")
    if not url and "VISA_SITE_URL" not in mapping:
        reader.faults.append(
            "VISA_SITE_URL is not set; it is the address people open, such as https://visa.facility.eu"
        )
    if reader.words("VISA_CVMFS_REPOSITORIES") and not reader.text("VISA_CVMFS_PROXY", ""):
        reader.faults.append("VISA_CVMFS_PROXY is not set; CVMFS wants one where repositories are named, or DIRECT")
    environment = Environment(
        process=process,
        site=Site(
            name=reader.text("VISA_SITE_NAME", "VISA"),
            url=url,
            demo=reader.yes("VISA_SITE_DEMO"),
            accent=reader.parsed("VISA_SITE_ACCENT", _colour, "a colour such as #0a5c8a", "#0a5c8a"),
            debug=reader.yes("VISA_SITE_DEBUG"),
            static_root=reader.text("VISA_SITE_STATIC_ROOT", ""),
        ),
        guests=Guests(
            url=reader.parsed(
                "VISA_GUEST_URL", _url, "an address such as https://visa.facility.eu, without a path", url
            ),
            authority=_pem(reader, "VISA_GUEST_CA"),
        ),
        database=Database(
            host=reader.text("VISA_DATABASE_HOST"),
            port=reader.number("VISA_DATABASE_PORT", 5432, low=1),
            name=reader.text("VISA_DATABASE_NAME", "visa"),
            user=reader.text("VISA_DATABASE_USER", "visa"),
            password=reader.text("VISA_DATABASE_PASSWORD", ""),
        ),
        redis_url=reader.text("VISA_REDIS_URL"),
        signing_key=reader.text("VISA_SIGNING_KEY", wanted=pages),
        machine_keys=tuple(reader.text("VISA_MACHINE_KEYS").split()),
        desktop_ranges=tuple(ranges),
        providers=_providers(reader) if pages else (),
        roles=Roles(
            administrator=reader.words("VISA_ROLES_ADMINISTRATOR"),
            support=reader.words("VISA_ROLES_SUPPORT"),
            instrument_scientist=reader.words("VISA_ROLES_INSTRUMENT_SCIENTIST"),
        ),
        cloud=_cloud(reader) if drives else None,
        mail=_mail(reader) if drives else None,
        data=Data(
            source=reader.text("VISA_DATA_SOURCE"),
            fstype=reader.text("VISA_DATA_FSTYPE", "nfs"),
            software_source=reader.text("VISA_SOFTWARE_SOURCE", ""),
            software_fstype=reader.text("VISA_SOFTWARE_FSTYPE", "nfs"),
            software_target=reader.text("VISA_SOFTWARE_TARGET", "/cvmfs/software.demo"),
            cvmfs_repositories=reader.words("VISA_CVMFS_REPOSITORIES"),
            cvmfs_proxy=reader.text("VISA_CVMFS_PROXY", ""),
            cvmfs_quota_mb=reader.number("VISA_CVMFS_QUOTA_MB", 4000, low=100),
            cvmfs_servers=_of_repositories(reader, "VISA_CVMFS_SERVERS"),
            cvmfs_keys=_keys_of_repositories(reader),
            cvmfs_pins=_of_repositories(reader, "VISA_CVMFS_PINS"),
        ),
        audit_heads=reader.text("VISA_AUDIT_HEADS", ""),
        tests=_tests(reader),
    )
    if reader.faults:
        raise EnvironmentFaults(reader.faults)
    return environment
