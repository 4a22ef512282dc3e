"""The cloud-init document: what was meant is what is read, whatever people type; what cannot be meant is refused."""

import json
import shlex
from dataclasses import replace
from uuid import UUID

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from instances.credentials import generate
from instances.software import Cvmfs, Repository
from instances.userdata import (
    BIND_OPTIONS,
    LIMIT_BYTES,
    NFS_OPTIONS,
    Enrolment,
    Holds,
    Machine,
    MountPoint,
    Unrenderable,
    from_fstab,
    one_line,
    render,
)

AUTHORITY = generate("an authority").certificate
ENROLMENT = Enrolment(url="https://visa.facility.example", token="a-signed-token:of:one-machine")
MACHINE = Machine(
    instance_id=UUID("1f0e6a3c-6f0b-4d4e-9a53-0c7f3f1d2b3a"),
    hostname="visa-1f0e6a3c",
    name="Tomography of a fossil",
    enrolment=ENROLMENT,
    mounts=(MountPoint(source="10.77.0.1:/data/10.15151/ESRF-ES-1234", target="/data/10.15151/ESRF-ES-1234"),),
)


def parsed(machine: Machine) -> dict[str, object]:
    text = render(machine)
    assert text.startswith("#cloud-config\n")
    document = yaml.safe_load(text)
    assert isinstance(document, dict)
    return document


def mounts_of(machine: Machine) -> list[list[str]]:
    mounts = parsed(machine)["mounts"]
    assert isinstance(mounts, list)
    return mounts


def file_of(machine: Machine, path: str) -> str:
    files = parsed(machine)["write_files"]
    assert isinstance(files, list)
    (content,) = [entry["content"] for entry in files if entry["path"] == path]
    assert isinstance(content, str)
    return content


def test_the_document_says_exactly_what_was_meant() -> None:
    document = parsed(MACHINE)

    assert set(document) == {"hostname", "write_files", "mounts"}
    assert document["hostname"] == "visa-1f0e6a3c"
    assert document["mounts"] == [
        [
            "10.77.0.1:/data/10.15151/ESRF-ES-1234",
            "/data/10.15151/ESRF-ES-1234",
            "nfs",
            "ro,nosuid,nodev,_netdev,nofail,soft,timeo=100,retrans=3,retry=0",
            "0",
            "0",
        ]
    ]
    assert file_of(MACHINE, "/etc/visa/desktop.env") == "DESKTOP_USER=visa\nDESKTOP_SIZE=1280x800\n"
    assert file_of(MACHINE, "/etc/visa/instance") == "1f0e6a3c-6f0b-4d4e-9a53-0c7f3f1d2b3a\n"


def test_what_a_machine_goes_by_names_the_platform_its_token_and_what_to_look_at() -> None:
    mounts = (
        MountPoint(source="nfs:/data/a", target="/data/a"),
        MountPoint(source="nfs:/software", target="/cvmfs/software.demo", holds=Holds.SOFTWARE),
    )
    cvmfs = Cvmfs(repositories=(Repository(name="software.eessi.io"),), proxy="DIRECT")

    told = json.loads(file_of(replace(MACHINE, mounts=mounts, cvmfs=cvmfs), "/etc/visa/guest.json"))

    assert told == {
        "url": "https://visa.facility.example/api/v1/guest/1f0e6a3c-6f0b-4d4e-9a53-0c7f3f1d2b3a/",
        "token": "a-signed-token:of:one-machine",
        "data": ["/data/a"],
        "software": ["/cvmfs/software.demo"],
        "cvmfs": ["software.eessi.io"],
    }


def test_no_secret_of_a_desktop_is_in_the_document() -> None:
    text = render(replace(MACHINE, enrolment=replace(ENROLMENT, authority=AUTHORITY)))

    assert "PRIVATE KEY" not in text
    assert "password" not in text
    files = yaml.safe_load(text)["write_files"]
    modes = {entry["path"]: entry["permissions"] for entry in files}
    assert modes["/etc/visa/guest.json"] == "0600"


def test_an_authority_of_the_sites_own_is_brought_along() -> None:
    machine = replace(MACHINE, enrolment=replace(ENROLMENT, authority=AUTHORITY))

    assert file_of(machine, "/etc/visa/platform-ca.pem") == AUTHORITY
    assert "platform-ca" not in render(MACHINE)


@given(st.text(max_size=300))
def test_any_name_comes_out_as_the_one_line_of_text_it_is(name: str) -> None:
    machine = replace(MACHINE, name=name)

    assert file_of(machine, "/etc/visa/name") == f"{one_line(name)}\n"
    assert {key: value for key, value in parsed(machine).items() if key != "write_files"} == {
        key: value for key, value in parsed(MACHINE).items() if key != "write_files"
    }


@pytest.mark.parametrize(
    "name",
    [
        "a\nruncmd: [[reboot]]",
        "#cloud-config\nusers: []",
        "## template: jinja\n{{ 7 * 7 }}",
        "'; reboot #",
        "${HOME} $(reboot) `reboot`",
        "!!python/object/apply:os.system [reboot]",
        "&a [*a, *a]",
        "\U0001f9ea 実験 \u202e\x1b]0;x\x07",
        "x" * 4000,
    ],
)
def test_a_name_that_looks_like_an_instruction_stays_text(name: str) -> None:
    text = render(replace(MACHINE, name=name))

    assert text.isascii()
    assert set(yaml.safe_load(text)) == {"hostname", "write_files", "mounts"}
    line = file_of(replace(MACHINE, name=name), "/etc/visa/name")
    assert file_of(replace(MACHINE, name=name), "/etc/motd").startswith(line)
    assert line.count("\n") == 1
    assert line.removesuffix("\n").isprintable()
    assert len(line) <= 121


@given(st.text(max_size=60), st.sampled_from(["hostname", "desktop_user", "size"]))
def test_what_a_shell_would_read_is_plain_or_refused(text: str, field: str) -> None:
    machine = replace(MACHINE, **{field: text})  # type: ignore[arg-type]  # one text field at a time

    try:
        document = parsed(machine)
    except Unrenderable:
        return

    assert shlex.split(text) == [text]
    assert text in str(document)


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=20), st.text(max_size=20))
def test_a_mount_is_the_one_meant_or_refused(source: str, target: str, fstype: str, option: str) -> None:
    mount = MountPoint(source=source, target=target, fstype=fstype, options=("ro", option))

    try:
        ((written, *rest),) = mounts_of(replace(MACHINE, mounts=(mount,)))
    except Unrenderable:
        return

    assert rest == [target, fstype, f"ro,{option}", "0", "0"]
    assert from_fstab(written) == source
    assert len("\t".join([written, *rest]).split()) == 6
    assert "#" not in written


@pytest.mark.parametrize(
    ("mount", "field"),
    [
        (MountPoint(source="nfs:/data/a\tb", target="/data/a"), "mount source"),
        (MountPoint(source="nfs:/data/a\\040b", target="/data/a"), "mount source"),
        (MountPoint(source="nfs:/data/$(reboot)", target="/data/a"), "mount source"),
        (MountPoint(source="nfs:/data/../etc", target="/data/a"), "mount target"),
        (MountPoint(source="nfs:/data", target="/data/../etc"), "mount target"),
        (MountPoint(source="nfs:/data", target="/data/./x"), "mount target"),
        (MountPoint(source="nfs:/data", target="data"), "mount target"),
        (MountPoint(source="nfs:/data", target="/data\n/etc"), "mount target"),
        (MountPoint(source="nfs:/data", target="/data/#a"), "mount target"),
        (MountPoint(source="nfs:/data", target="/data/\\040"), "mount target"),
        (MountPoint(source="nfs:/data", target="/data", fstype="nfs,rw"), "mount type"),
        (MountPoint(source="nfs:/data", target="/data", options=("ro", "x,rw")), "mount option"),
        (MountPoint(source="nfs:/data", target="/data", options=("soft",)), "mount option"),
        (MountPoint(source="nfs:/data", target="/data", options=("rw",)), "mount option"),
    ],
)
def test_a_mount_that_leads_elsewhere_or_could_be_written_is_refused(mount: MountPoint, field: str) -> None:
    with pytest.raises(Unrenderable) as refusal:
        render(replace(MACHINE, mounts=(mount,)))

    assert refusal.value.field == field


def test_a_blank_in_a_datasets_path_is_escaped_for_fstab() -> None:
    mount = MountPoint(source="nfs:/data/visitor/hc 1234 実験", target="/data/a")

    ((source, *_),) = mounts_of(replace(MACHINE, mounts=(mount,)))

    assert source == r"nfs:/data/visitor/hc\0401234\040実験"
    assert from_fstab(source) == mount.source


def test_every_way_of_mounting_is_read_only() -> None:
    assert "ro" in NFS_OPTIONS
    assert "ro" in BIND_OPTIONS


def test_one_place_holds_one_mount() -> None:
    twice = (
        MountPoint(source="nfs:/data/a", target="/data/x"),
        MountPoint(source="nfs:/data/b", target="/data/x"),
    )

    with pytest.raises(Unrenderable, match="/data/x is mounted twice"):
        render(replace(MACHINE, mounts=twice))


def test_the_software_client_gets_its_files_and_is_started_where_there_is_one() -> None:
    repository = Repository(name="software.facility.eu", pin="tag:2026.1")
    machine = replace(MACHINE, cvmfs=Cvmfs(repositories=(repository,), proxy="DIRECT"))

    assert "CVMFS_REPOSITORIES=software.facility.eu\n" in file_of(machine, "/etc/cvmfs/default.local")
    assert file_of(machine, repository.file) == "CVMFS_REPOSITORY_TAG=2026.1\n"
    assert parsed(machine)["runcmd"] == [
        ["sh", "-c", "! command -v cvmfs_config >/dev/null || systemctl enable --now autofs"]
    ]


def test_software_settings_that_cannot_be_meant_make_no_machine() -> None:
    cvmfs = Cvmfs(repositories=(Repository(name="software.facility.eu", pin="hash:hello"),), proxy="DIRECT")

    with pytest.raises(Unrenderable, match="cvmfs pin"):
        render(replace(MACHINE, cvmfs=cvmfs))


@pytest.mark.parametrize(
    "enrolment",
    [
        replace(ENROLMENT, token="short"),
        replace(ENROLMENT, token="a-token-with-a\nruncmd: [[reboot]]"),
        replace(ENROLMENT, token="a-token-with-a-'quote'-in-it"),
        replace(ENROLMENT, url="file:///etc"),
        replace(ENROLMENT, url="https://visa.facility.example/path"),
        replace(ENROLMENT, url="https://user:word@visa.facility.example"),
        replace(ENROLMENT, authority="none"),
        replace(ENROLMENT, authority=AUTHORITY + "runcmd: []"),
    ],
)
def test_a_malformed_enrolment_is_refused_without_its_token_being_quoted(enrolment: Enrolment) -> None:
    with pytest.raises(Unrenderable) as refusal:
        render(replace(MACHINE, enrolment=enrolment))

    assert enrolment.token not in str(refusal.value)


def test_a_document_larger_than_a_cloud_takes_is_refused_with_the_numbers() -> None:
    mounts = tuple(
        MountPoint(source=f"10.77.0.1:/data/{number:04}", target=f"/data/{number:04}") for number in range(1000)
    )

    with pytest.raises(Unrenderable, match=rf"bytes; a cloud takes {LIMIT_BYTES:,}"):
        render(replace(MACHINE, mounts=mounts))
