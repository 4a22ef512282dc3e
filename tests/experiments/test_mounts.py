"""Mounts: whatever path a record names, it stays below the storage, read-only, at a place the DOI decides."""

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.doi import parse
from experiments.mounts import Mount, PathFault, UnsafePath, checked, mounts, target
from instances import userdata

KEY = parse("10.5291/ILL-DATA.8-02-912").key

GOOD = [
    "a",
    "a/b",
    "i01/2026/0417",
    "ill/8-02-912",
    "a b/c",
    "données/été",
    "a.b/..c/d..",
    "x" * 1000,
    "a/...b",
    "(1)/[2]",
]

_UPWARD = [
    "..",
    "../x",
    "x/..",
    "x/../y",
    "./x",
    "x/.",
    "x/./y",
    "x/../../etc",
    ".",
    "...",
    "x/.../y",
    ". .",
    "x/.. /y",
    "．．/x",
    "x/‥/y",
    "x/…/y",
]
_ABSOLUTE = ["/", "/etc", "//etc", "///", "~", "~root/x", "／etc", "～/x"]
_CONTROL = [
    "a\x00b",
    "a\nb",
    "a\tb",
    "\r",
    "a\x7fb",
    "a\u0085b",
    "a\u2028b",
    "a\u202eb",
    "a\u200bb",
    "\ufeffa",
    "a\ud800b",
    "a\u00adb",
]
_BLANK = ["a//b", "a/ /b", " a", "a ", "a/ b", "a /b", " ", "a///", "a\u00a0/b", "\u3000"]
_MARKS = [
    "C:\\x",
    "a\\b",
    "host:/x",
    "a$HOME",
    "a$(id)",
    "a`id`",
    "a'b",
    'a"b',
    "a*",
    "a?",
    "a<b",
    "a>b",
    "a|b",
    "a;b",
    "a&b",
    "a,b",
    "a%2e",
    "{path}",
    "a}",
    "a#b",
    "a：b",
    "a％2e％2e",
]
CORPUS = [
    *((text, PathFault.UPWARD) for text in _UPWARD),
    *((text, PathFault.ABSOLUTE) for text in _ABSOLUTE),
    *((text, PathFault.CONTROL) for text in _CONTROL),
    *((text, PathFault.BLANK) for text in _BLANK),
    *((text, PathFault.MARK) for text in _MARKS),
    ("", PathFault.EMPTY),
    ("x" * 1001, PathFault.TOO_LONG),
]
#: every way of writing "upward", before, inside and behind a path that is fine
WRITINGS = [
    "..",
    ". .",
    "..\\",
    "%2e%2e",
    "%252e%252e",
    "..;",
    "．．",
    "‥",
    "..\u200b",
    "..\x00",
    "\\..",
    "..//",
    "…",
]
PLACES = [
    "{0}",
    "{0}/x",
    "x/{0}",
    "x/{0}/y",
    "{0}/{0}/x",
    "x/y/{0}/{0}/{0}/etc",
    "/{0}",
    "{0}/",
    "x//{0}",
    "x/{0}/../y",
    " {0}",
    "{0} ",
    "x/ {0}/y",
    "./{0}",
    "{0}/.",
    "a:{0}",
    "a\n{0}",
]


@pytest.mark.parametrize("path", GOOD)
def test_a_path_below_the_storage_is_mounted_read_only(path: str) -> None:
    (mount,) = mounts(path, KEY, source="nfs.facility.example:/data/{path}", fstype="nfs4")

    assert mount.source == f"nfs.facility.example:/data/{path}"
    assert mount.target == "/data/10.5291-ill-data.8-02-912"
    assert {"ro", "nosuid", "nodev"} <= set(mount.options)


@pytest.mark.parametrize(("path", "fault"), CORPUS)
def test_a_path_that_could_leave_is_refused(path: str, fault: PathFault) -> None:
    with pytest.raises(UnsafePath) as refused:
        checked(path)

    assert refused.value.fault is fault


@pytest.mark.parametrize("writing", WRITINGS)
@pytest.mark.parametrize("place", PLACES)
def test_no_writing_of_upward_passes_anywhere(place: str, writing: str) -> None:
    with pytest.raises(UnsafePath):
        checked(place.format(writing))


@given(st.text(max_size=60))
def test_whatever_passes_stays_below(path: str) -> None:
    try:
        passed = checked(path)
    except UnsafePath:
        return
    assert posixpath.normpath(posixpath.join("/storage", passed)) == f"/storage/{passed}"
    assert checked(passed) == passed


def test_a_slash_at_the_end_is_cut() -> None:
    assert checked("a/b/") == "a/b"


def test_the_kinds_of_mounts() -> None:
    assert mounts("a", KEY, source="/srv/data/{path}", fstype="none") == (
        Mount(
            source="/srv/data/a",
            target="/data/10.5291-ill-data.8-02-912",
            fstype="none",
            options=("bind", "ro", "nosuid", "nodev"),
        ),
    )
    (other,) = mounts("a", KEY, source="{path}", fstype="ceph")
    assert (other.source, other.options) == ("a", ("ro", "nosuid", "nodev"))
    (nfs,) = mounts("a", KEY, source="h:/{path}", fstype="nfs")
    assert {"soft", "nofail", "_netdev"} <= set(nfs.options)


@pytest.mark.parametrize(
    ("minted", "place"),
    [
        ("10.5442/ND000001", "/data/10.5442-nd000001"),
        ("10.22003/XFEL.EU-DATA-900390-00", "/data/10.22003-xfel.eu-data-900390-00"),
        ("10.1000/etc..", "/data/10.1000-etc.."),
    ],
)
def test_a_plain_doi_is_its_place(minted: str, place: str) -> None:
    assert target(parse(minted).key) == place


def test_other_dois_stay_apart_and_need_no_quoting() -> None:
    minted = [
        "10.1000/a/b",
        "10.1000/a-b",
        "10.1000/a#b",
        "10.1000/ä",
        "10.1000/../../etc",
        "10.1000/a$(id)",
        "10.1000/" + "x" * 500,
        "10.1000/" + "x" * 501,
    ]

    places = [target(parse(text).key) for text in minted]

    assert len(set(places)) == len(minted)
    for place in places:
        assert place.startswith("/data/10.1000-")
        assert place.count("/") == 2
        assert set(place) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-/")
        assert len(place) <= 130


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize(("source", "fstype"), [("nfs.facility.example:/data/{path}", "nfs"), ("/srv/{path}", "none")])
def test_a_machine_can_be_told_of_every_mount(path: str, source: str, fstype: str) -> None:
    (mount,) = mounts(path, KEY, source=source, fstype=fstype)

    line = userdata._mount(
        userdata.MountPoint(source=mount.source, target=mount.target, fstype=mount.fstype, options=mount.options)
    )

    assert userdata.from_fstab(line[0]) == mount.source
