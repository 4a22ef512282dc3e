"""CVMFS settings: the client reads what was meant and its shell runs nothing; what would pin nothing is refused."""

import re
import subprocess
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from instances import software
from instances.checks import machines_can_be_told_about_the_software
from instances.software import Cvmfs, PinKind, Repository, SoftwareFault
from visa import environment
from visa.environment import Data

KEY = "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA\nAQAB\n-----END PUBLIC KEY-----\n"
NAME = "software.facility.eu"
SERVER = "http://s1.facility.eu:8000/cvmfs/@fqrn@;http://s2.facility.eu/cvmfs/@fqrn@"
HASH = "8d9f0a68be4f4405a953694108340e2b8d9f0a68"
CVMFS = Cvmfs(repositories=(Repository(name=NAME),), proxy="DIRECT")


def one(**settings: str) -> Cvmfs:
    """A client of one repository of which this is said."""
    return replace(CVMFS, repositories=(replace(Repository(name=NAME), **settings),))


# --- who reads it ----------------------------------------------------------------------------------------------------

#: one assignment a line and nothing else: a bare word, or one between single quotes without such a quote
_LINE = re.compile(r"(CVMFS_[A-Z_]+)=(?:([\w@%+=:,./-]+)|'([^'\n]+)')", re.ASCII)


def grammar(text: str) -> dict[str, str]:
    """The file by its documented grammar, read strictly."""
    assert text.endswith("\n")
    read: dict[str, str] = {}
    for line in text.removesuffix("\n").split("\n"):
        match = _LINE.fullmatch(line)
        assert match, line
        assert match[1] not in read, line
        read[match[1]] = match[2] or match[3]
    return read


def sourced(text: str, directory: Path) -> dict[str, str]:
    """The variables a real shell has more of after sourcing it. It must have done nothing else."""
    path = directory / "settings"
    path.write_text(text, encoding="utf-8")
    script = "set -eux; . ./settings; set +x; set"
    done = subprocess.run(
        ["/bin/sh", "-c", script], env={"PATH": "/nowhere"}, cwd=directory, capture_output=True, text=True, check=True
    )
    traced = [line for line in done.stderr.splitlines() if line not in {"+ . ./settings", "+ set +x"}]
    assert all(re.match(r"\+ CVMFS_[A-Z_]+=", line) for line in traced), traced
    assert [entry.name for entry in directory.iterdir()] == ["settings"]
    said = re.findall(r"^(CVMFS_[A-Z_]+)='(.*)'$", done.stdout, re.MULTILINE)
    assert len(said) == len(traced)
    return dict(said)


def by_client(text: str, directory: Path) -> dict[str, str]:
    """As the client does: each line into a shell, then an unquoted `echo` of what stands before each first `=`."""
    lines = [line.strip() for line in text.splitlines()]
    names = [line.split("=")[0] for line in lines if line and not line.startswith("#") and "=" in line]
    spoken = "\n".join([f'cd "{directory}"', *text.splitlines(), *(f"echo ${name}" for name in names)]) + "\n"
    # a name that a glob in a value would find
    (directory / "a").touch()
    done = subprocess.run(["/bin/sh"], input=spoken, env={}, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return dict(zip(names, done.stdout.splitlines(), strict=True))


def agreed(text: str, directory: Path) -> dict[str, str]:
    """What all three readers make of it; they must not differ."""
    for name in ("sourced", "client"):
        (directory / name).mkdir(exist_ok=True)
    (directory / "client" / "a").unlink(missing_ok=True)
    read = grammar(text)
    assert sourced(text, directory / "sourced") == read
    assert by_client(text, directory / "client") == read
    return read


# --- what is meant ---------------------------------------------------------------------------------------------------


def test_repositories_proxies_and_cache_are_told_to_the_client(tmp_path: Path) -> None:
    proxy = "http://p1.facility.eu:3128|http://p2.facility.eu:3128;DIRECT"
    names = ("software.eessi.io", "unpacked.cern.ch")

    made = software.files(
        Cvmfs(repositories=tuple(Repository(name=name) for name in names), proxy=proxy, quota_mb=2000)
    )

    assert {path: agreed(text, tmp_path) for path, text in made.items()} == {
        "/etc/cvmfs/default.local": {
            "CVMFS_REPOSITORIES": "software.eessi.io,unpacked.cern.ch",
            "CVMFS_HTTP_PROXY": proxy,
            "CVMFS_QUOTA_LIMIT": "2000",
            "CVMFS_STRICT_MOUNT": "yes",
        }
    }


def test_a_repository_of_ones_own_brings_its_server_its_key_and_its_snapshot(tmp_path: Path) -> None:
    made = software.files(one(server=SERVER, public_key=KEY, pin="date:2026-01-31T00:00:00Z"))

    assert made["/etc/cvmfs/keys/software.facility.eu.pub"] == KEY
    assert agreed(made["/etc/cvmfs/config.d/software.facility.eu.local"], tmp_path) == {
        "CVMFS_SERVER_URL": SERVER,
        "CVMFS_PUBLIC_KEY": "/etc/cvmfs/keys/software.facility.eu.pub",
        "CVMFS_REPOSITORY_DATE": "2026-01-31T00:00:00Z",
    }


@pytest.mark.parametrize(
    ("pin", "name", "value"),
    [
        ("date:2026-01-31T23:59:59Z", "CVMFS_REPOSITORY_DATE", "2026-01-31T23:59:59Z"),
        ("tag:release-2026.1", "CVMFS_REPOSITORY_TAG", "release-2026.1"),
        ("tag:generic-2022-11-16T07:52:35Z", "CVMFS_REPOSITORY_TAG", "generic-2022-11-16T07:52:35Z"),
        (f"hash:{HASH}", "CVMFS_ROOT_HASH", HASH),
    ],
)
def test_a_snapshot_is_pinned_for_its_repository_alone(tmp_path: Path, pin: str, name: str, value: str) -> None:
    both = (Repository(name=NAME, pin=pin), Repository(name="other.facility.eu"))

    made = software.files(replace(CVMFS, repositories=both))

    assert agreed(made["/etc/cvmfs/config.d/software.facility.eu.local"], tmp_path) == {name: value}
    assert sorted(made) == ["/etc/cvmfs/config.d/software.facility.eu.local", "/etc/cvmfs/default.local"]
    assert name not in agreed(made["/etc/cvmfs/default.local"], tmp_path)


@pytest.mark.parametrize(
    "pin",
    [
        "2026-01-31T00:00:00Z",
        "newest:1",
        "date:2026-01-31",
        "date:2026-01-31 00:00:00",
        "date:2026-02-30T00:00:00Z",
        "date:2026-01-31T00:00:00+01:00",
        "date:1970-01-01T00:00:00Z",
        "tag:",
        "tag:trunk",
        "tag:trunk-previous",
        "tag:-n",
        "tag:a b",
        "tag:a;reboot",
        "tag:$(reboot)",
        "tag:*",
        # the client takes each of these five and follows the newest revision
        f"hash:{HASH[:-1]}",
        f"hash:{HASH}0",
        "hash:8d9f0a6",
        "hash:hello",
        f"hash:{'0' * 40}",
        f"hash:{HASH.upper()}",
    ],
)
def test_what_would_pin_nothing_is_refused(pin: str) -> None:
    with pytest.raises(SoftwareFault, match="cvmfs pin"):
        software.files(one(pin=pin))


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"server": "http://s.eu"}, "server"),
        ({"server": "s.eu/cvmfs/@fqrn@"}, "server"),
        ({"server": "http://s.eu:99999/cvmfs/@fqrn@"}, "server"),
        ({"server": "http://user:secret@s.eu/cvmfs/@fqrn@"}, "server"),
        ({"server": "http://s.eu/cvmfs/@fqrn@;"}, "server"),
        ({"server": "http://s.eu/cvmfs/$(reboot)"}, "server"),
        ({"server": "http://s.eu/cvmfs/*"}, "server"),
        ({"server": "http://s.eu/cvmfs/a\nreboot"}, "server"),
        ({"public_key": KEY.replace("PUBLIC", "RSA PRIVATE")}, "public key"),
        ({"public_key": KEY.strip()}, "public key"),
        ({"public_key": f"{KEY}reboot\n"}, "public key"),
    ],
)
def test_a_server_or_key_the_client_would_stumble_over_is_refused(settings: dict[str, str], field: str) -> None:
    with pytest.raises(SoftwareFault, match=f"cvmfs {field}"):
        software.files(one(**settings))


@pytest.mark.parametrize(
    ("name", "proxy", "quota_mb"),
    [
        ("software", "DIRECT", 4000),
        ("-a.b.c", "DIRECT", 4000),
        ("a..b", "DIRECT", 4000),
        (f"{'a' * 58}.eu", "DIRECT", 4000),
        ('a.b";reboot;"', "DIRECT", 4000),
        ("a.b\n", "DIRECT", 4000),
        (NAME, "", 4000),
        (NAME, "direct", 4000),
        (NAME, "http://p:3128;", 4000),
        (NAME, "http://p:99999", 4000),
        (NAME, "http://p:3128$(reboot)", 4000),
        (NAME, "http://user:secret@p:3128", 4000),
        (NAME, "DIRECT", 0),
    ],
)
def test_what_a_shell_or_the_client_would_stumble_over_is_refused(name: str, proxy: str, quota_mb: int) -> None:
    with pytest.raises(SoftwareFault):
        software.files(Cvmfs(repositories=(Repository(name=name),), proxy=proxy, quota_mb=quota_mb))


def test_a_client_of_no_repository_is_not_set_up() -> None:
    with pytest.raises(SoftwareFault, match="none is named"):
        software.files(replace(CVMFS, repositories=()))


def test_a_repository_is_named_once() -> None:
    with pytest.raises(SoftwareFault, match="twice"):
        software.files(replace(CVMFS, repositories=(Repository(name=NAME), Repository(name=NAME))))


# --- whatever goes in ------------------------------------------------------------------------------------------------

#: a shell is started for each example, and how fast this machine draws one says nothing of what is tested
PATIENT = hypothesis_settings(suppress_health_check=[HealthCheck.too_slow])
HOSTILE = st.text(alphabet="a.-/:;|@$`'\"\\*?[]~#&()<>{}= \n\t%!0z", max_size=40) | st.text(max_size=30)
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
ADDRESS = st.from_regex(r"https?://[A-Za-z0-9.-]{1,20}(:[1-9][0-9]{0,3})?", fullmatch=True)
PATH = st.from_regex(r"(/[A-Za-z0-9._~@%+-]{1,12}){1,3}", fullmatch=True)
MOMENT = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1))  # noqa: DTZ001 - the pin says by itself that it is UTC
#: each setting: what is meant to be there
MEANT: dict[str, st.SearchStrategy[str]] = {
    "name": st.lists(LABEL, min_size=2, max_size=4).map(".".join).filter(lambda name: len(name) > 3),
    "proxy": st.lists(ADDRESS | st.just("DIRECT"), min_size=1, max_size=3).map(";".join)
    | st.lists(ADDRESS, min_size=1, max_size=3).map("|".join),
    "server": st.just("") | st.lists(st.builds(str.__add__, ADDRESS, PATH), min_size=1, max_size=3).map(";".join),
    "pin": st.just("")
    | MOMENT.map(lambda moment: f"date:{moment:%Y-%m-%dT%H:%M:%SZ}")
    | st.from_regex(r"tag:[A-Za-z0-9][A-Za-z0-9_.@/:-]{0,30}", fullmatch=True)
    | st.from_regex(r"hash:[0-9a-f]{38}[1-9a-f]{2}", fullmatch=True),
}


@st.composite
def sayings(draw: st.DrawFn, *, meant: bool) -> dict[str, str]:
    """What a site says: all of it meant, or one setting a text that somebody else chose."""
    said = {name: draw(strategy) for name, strategy in MEANT.items()}
    if not meant:
        name = draw(st.sampled_from(sorted(MEANT)))
        kind = draw(st.sampled_from(["", *(f"{one}:" for one in PinKind)])) if name == "pin" else ""
        said[name] = kind + draw(HOSTILE)
    return said


def client_of(name: str, proxy: str, server: str, pin: str) -> Cvmfs:
    return Cvmfs(repositories=(Repository(name=name, server=server, pin=pin),), proxy=proxy)


@PATIENT
@given(sayings(meant=True))
def test_whatever_is_meant_is_what_the_shell_sets(
    tmp_path_factory: pytest.TempPathFactory, said: dict[str, str]
) -> None:
    agreed_on(client_of(**said), tmp_path_factory.mktemp("client"))


@PATIENT
@given(sayings(meant=False))
def test_whatever_goes_in_runs_nothing(tmp_path_factory: pytest.TempPathFactory, said: dict[str, str]) -> None:
    try:
        software.files(client_of(**said))
    except SoftwareFault:
        return
    agreed_on(client_of(**said), tmp_path_factory.mktemp("client"))


def agreed_on(cvmfs: Cvmfs, place: Path) -> None:
    """Every reader finds exactly this client's settings in its files."""
    made, (repository,) = software.files(cvmfs), cvmfs.repositories
    own = agreed(made[repository.file], place) if repository.file in made else {}

    assert agreed(made[software.SITE_FILE], place) == {
        "CVMFS_REPOSITORIES": repository.name,
        "CVMFS_HTTP_PROXY": cvmfs.proxy,
        "CVMFS_QUOTA_LIMIT": "4000",
        "CVMFS_STRICT_MOUNT": "yes",
    }
    wanted = [repository.server, repository.pin.partition(":")[2]]
    assert sorted(own.values()) == sorted(value for value in wanted if value)


# --- the site's own words --------------------------------------------------------------------------------------------


def read(directory: Path, **more: str) -> Data:
    (directory / f"{NAME}.pub").write_text(KEY, encoding="utf-8")
    sample = (Path(environment.__file__).parent.parent / "deploy" / "env.sample").read_text(encoding="utf-8")
    said = dict(re.findall(r"^(VISA_[A-Z_]+)=(.*)$", sample, re.MULTILINE)) | {"VISA_PROCESS": "worker"}
    mine = {"VISA_CVMFS_REPOSITORIES": f"software.eessi.io {NAME}", "VISA_CVMFS_PROXY": "DIRECT"}
    return environment.read(said | mine | more).data


def test_the_environment_says_it_in_one_line_each(tmp_path: Path) -> None:
    data = read(
        tmp_path,
        VISA_CVMFS_KEYS=str(tmp_path),
        VISA_CVMFS_SERVERS=f"{NAME}={SERVER}",
        VISA_CVMFS_PINS=f"software.eessi.io=date:2026-01-31T00:00:00Z {NAME}=tag:2026.1",
    )

    assert software.of_site(data) == Cvmfs(
        repositories=(
            Repository(name="software.eessi.io", pin="date:2026-01-31T00:00:00Z"),
            Repository(name=NAME, server=SERVER, public_key=KEY, pin="tag:2026.1"),
        ),
        proxy="DIRECT",
    )


def test_a_site_without_repositories_tells_the_client_nothing(tmp_path: Path) -> None:
    assert software.of_site(read(tmp_path, VISA_CVMFS_REPOSITORIES="")) is None


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("VISA_CVMFS_PINS", "software.eessi.io", "is not REPOSITORY=VALUE"),
        ("VISA_CVMFS_PINS", "other.eu=tag:1", "is not among VISA_CVMFS_REPOSITORIES"),
        ("VISA_CVMFS_SERVERS", f"{NAME}=http://a/b {NAME}=http://b/c", "stands there twice"),
        ("VISA_CVMFS_KEYS", "/nowhere", "holds no REPOSITORY.pub"),
    ],
)
def test_what_the_environment_says_of_no_repository_is_a_fault(
    tmp_path: Path, variable: str, value: str, told: str
) -> None:
    with pytest.raises(environment.EnvironmentFaults, match=told):
        read(tmp_path, **{variable: value})


def test_settings_no_machine_could_use_are_found_before_the_first_launch(tmp_path: Path, settings: Any) -> None:
    good = read(tmp_path, VISA_CVMFS_PINS="software.eessi.io=tag:2026.1")
    bad = replace(good, cvmfs_pins={"software.eessi.io": "hash:8d9f0a6"})

    for data, ids in ((good, []), (bad, ["instances.E003"])):
        settings.ENVIRONMENT = replace(settings.ENVIRONMENT, data=data)
        assert [message.id for message in machines_can_be_told_about_the_software(None)] == ids
