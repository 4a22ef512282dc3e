"""DOIs: every spelling people and sites use, and what is none."""

import contextlib
import time
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.doi import Doi, Fault, MalformedDoi, candidates, fold, parse, path, url

ILL = "10.5291/ILL-DATA.8-02-912"

#: Real DOIs of facilities, as they are minted.
MINTED = [
    "10.5291/ILL-DATA.8-02-912",
    "10.5291/ILL-DATA.TEST-3346",
    "10.5291/ILL-DATA.CRG-3064",
    "10.15151/ESRF-ES-2210534378",
    "10.15151/ESRF-DC-2493599001",
    "10.15151/ESRF-INSTR-GCO8",
    "10.16907/d699e1f7-e822-4396-8c64-34ed405f07b7",
    "10.22003/XFEL.EU-DATA-900390-00",
    "10.3204/PUBDB-2022-03562",
    "10.3204/DESY-PROC-2014-05/23",
    "10.5442/ND000001",
    "10.5442/NI000001",
    "10.5286/ISIS.E.RB1810842",
    "10.5286/ISIS.E.84939772",
    "10.17199/BRIGHTNESS/V200111",
    "10.17199/NXMV08.DSC0001",
    "10.34965/i10645",
]

SPELLINGS = [
    # as people write it
    (ILL, ILL),
    (f"  {ILL}\n", ILL),
    (f"doi:{ILL}", ILL),
    (f"DOI:{ILL}", ILL),
    (f"doi: {ILL}", ILL),
    (f"DOI {ILL}", ILL),
    (f"Doi:  {ILL}", ILL),
    (f"info:doi/{ILL}", ILL),
    (f"urn:doi:{ILL}", ILL),
    (f"doi:https://doi.org/{ILL}", ILL),
    (f"DOI: doi:{ILL}", ILL),
    # as addresses
    (f"https://doi.org/{ILL}", ILL),
    (f"http://doi.org/{ILL}", ILL),
    (f"HTTPS://DOI.ORG/{ILL}", ILL),
    (f"http://dx.doi.org/{ILL}", ILL),
    (f"https://dx.doi.org/{ILL}", ILL),
    (f"https://www.doi.org/{ILL}", ILL),
    (f"https://doi.org:443/{ILL}", ILL),
    (f"doi.org/{ILL}", ILL),
    (f"dx.doi.org/{ILL}", ILL),
    (f"/{ILL}", ILL),
    # by proxies that make one slash of two
    (f"https:/doi.org/{ILL}", ILL),
    (f"https:/doi.ill.fr/{ILL}", ILL),
    # landing pages
    (f"https://doi.ill.fr/{ILL}", ILL),
    ("https://doi.esrf.fr/10.15151/ESRF-ES-90632739", "10.15151/ESRF-ES-90632739"),
    ("https://doi.psi.ch/detail/10.16907%2Fd699e1f7-e822", "10.16907/d699e1f7-e822"),
    ("https://doi.psi.ch/detail/10.16907%252Fd699e1f7-e822", "10.16907/d699e1f7-e822"),
    ("https://example.org/resolve?doi=10.5442/ND000001", "10.5442/ND000001"),
    # percent-encoding: undone once, and only in addresses
    ("https://doi.org/10.1000/456%23789", "10.1000/456#789"),
    ("https://doi.org/10.1000/a%3Cb%3E", "10.1000/a<b>"),
    ("https://doi.org/10.1000/a%2523b", "10.1000/a%23b"),
    ("https://doi.org/10.1000%2Fabc", "10.1000/abc"),
    ("10.1000%2Fabc", "10.1000/abc"),
    ("10.1000/456%23789", "10.1000/456%23789"),
    ("doi:10.1000/100%25", "10.1000/100%25"),
    ("10.1000/456#789", "10.1000/456#789"),
    ("10.1002/(SICI)1097-0258(19980815)17:15<1661::AID-SIM968>3.0.CO;2-2",) * 2,
    # invisible characters
    ("\ufeff10.5442/ND000001", "10.5442/ND000001"),
    ("10.5442/ND00\u200b0001", "10.5442/ND000001"),
    ("10.5442/ND\u00ad000001\u200f", "10.5442/ND000001"),
    ("https://doi.org/10.5442/ND%E2%80%8B000001", "10.5442/ND000001"),
    # Unicode suffixes, composed
    ("10.1000/Universität", "10.1000/Universität"),
    ("10.1000/Universita\u0308t", "10.1000/Universität"),
    ("https://doi.org/10.1000/Universit%C3%A4t", "10.1000/Universität"),
    # registrants of any depth, suffixes of any depth
    ("10.1000.10.5/x", "10.1000.10.5/x"),
    ("10.123456789/x", "10.123456789/x"),
    ("10.1000/a/b//c/", "10.1000/a/b//c/"),
    # endings that belong to the DOI
    ("10.1000/etc.", "10.1000/etc."),
    ("10.1000/etc..", "10.1000/etc.."),
    ("10.1000/C++", "10.1000/C++"),
    ("10.1000/f(x)", "10.1000/f(x)"),
    ("10.1000/note#", "10.1000/note#"),
]

MALFORMED = [
    ("", Fault.EMPTY),
    ("   ", Fault.EMPTY),
    ("\u200b\u200b", Fault.EMPTY),
    ("///", Fault.EMPTY),
    ("hello", Fault.NO_PREFIX),
    ("11.5291/x", Fault.NO_PREFIX),
    ("10.12/x", Fault.NO_PREFIX),
    ("10.1234567890/x", Fault.NO_PREFIX),
    ("10.5291x/y", Fault.NO_PREFIX),
    ("10.5291.a/y", Fault.NO_PREFIX),
    ("10.٥٢٩١/x", Fault.NO_PREFIX),  # Arabic digits are digits to \d
    ("https://example.org/", Fault.NO_PREFIX),
    ("https://doi.org/", Fault.NO_PREFIX),
    ("https://[::1/10.5291/x", None),  # an address no URL parser takes
    ("https://host:99999999/nothing", Fault.NO_PREFIX),
    ("20.500.12269/abc", Fault.NO_PREFIX),
    ("doi:doi:doi:doi:doi:doi:10.5291/x", Fault.NO_PREFIX),
    ("10.5291", Fault.NO_SUFFIX),
    ("10.5291/", Fault.NO_SUFFIX),
    ("10.5291/ ", Fault.NO_SUFFIX),
    ("10.5291 /x", Fault.NO_SUFFIX),
    ("10.5291/a b", Fault.SPACE),
    ("10.5291/a\u00a0b", Fault.SPACE),
    ("https://doi.org/10.5291/a%20b", Fault.SPACE),
    ("10.5291/a\x00", Fault.CONTROL),
    ("10.5291/a\nb", Fault.CONTROL),
    ("10.5291/a\u2028b", Fault.CONTROL),
    ("https://doi.org/10.5291/a%00", Fault.CONTROL),
    ("https://doi.org/10.5291/a%0A", Fault.CONTROL),
    ("https://doi.org/10.5291/a%FF", Fault.CONTROL),
    ("10.5291/\ud800", Fault.CONTROL),
    ("10.5291/" + "x" * 505, Fault.TOO_LONG),
    ("x" * 2049, Fault.TOO_LONG),
]


@pytest.mark.parametrize("minted", MINTED)
def test_a_real_doi_is_read_as_minted_and_compared_folded(minted: str) -> None:
    assert parse(minted) == Doi(minted=minted, key=minted.lower())
    assert parse(minted.lower()).key == parse(minted.upper()).key == minted.lower()


@pytest.mark.parametrize(("text", "minted"), SPELLINGS)
def test_every_spelling_names_the_doi(text: str, minted: str) -> None:
    assert parse(text).minted == minted


@pytest.mark.parametrize(("text", "fault"), MALFORMED)
def test_what_is_no_doi_is_refused_with_its_fault(text: str, fault: Fault | None) -> None:
    if fault is None:
        assert parse(text).minted == "10.5291/x"
        return

    with pytest.raises(MalformedDoi) as refused:
        parse(text)

    assert refused.value.fault is fault


def test_case_is_folded_in_ascii_only() -> None:
    assert fold("10.1000/ÄBC-İ") == "10.1000/Äbc-İ"
    assert parse("10.1000/Ä").key != parse("10.1000/ä").key


@pytest.mark.parametrize(
    ("text", "shorter"),
    [
        ("10.5442/ND000001.", "10.5442/ND000001"),
        ("10.5442/ND000001..", "10.5442/ND000001"),
        ("10.5442/ND000001,", "10.5442/ND000001"),
        ("10.5442/ND000001;", "10.5442/ND000001"),
        ("10.5442/ND000001”.", "10.5442/ND000001"),
        ("10.5442/ND000001)", "10.5442/ND000001"),
        ("10.5442/ND000001>.", "10.5442/ND000001"),
        ("10.5442/ND000001/", "10.5442/ND000001"),
        ("10.1000/f(x))", "10.1000/f(x)"),
        ("10.1000/f(x).", "10.1000/f(x)"),
        ("10.1000/f(x)", None),
        ("10.1000/C++", None),
        ("10.1000/note#", None),
        ("10.1000/....", None),
        ("10.5442/ND000001", None),
    ],
)
def test_the_exact_doi_is_tried_first_then_without_what_was_copied_along(text: str, shorter: str | None) -> None:
    found = [doi.minted for doi in candidates(parse(text))]

    assert found == ([text] if shorter is None else [text, shorter])


@pytest.mark.parametrize(
    ("minted", "written"),
    [
        (ILL, ILL),
        ("10.1000/456#789", "10.1000/456%23789"),
        ("10.1000/a?b", "10.1000/a%3Fb"),
        ("10.1000/100%", "10.1000/100%25"),
        ('10.1000/a<b>[c]{d}|e\\f^g`h"', "10.1000/a%3Cb%3E%5Bc%5D%7Bd%7D%7Ce%5Cf%5Eg%60h%22"),
        ("10.1000/ä", "10.1000/%C3%A4"),
        ("10.1000/../admin", "10.1000%2F../admin"),
        ("10.1000/a/./b//c/", "10.1000/a%2F./b%2F/c%2F"),
    ],
)
def test_a_doi_in_an_address_neither_ends_it_nor_walks_upward(minted: str, written: str) -> None:
    assert path(parse(minted)) == written
    assert unquote(written) == minted


suffixes = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=60)


@given(st.from_regex(r"10\.[0-9]{4,9}(\.[0-9]{1,4}){0,2}/", fullmatch=True), suffixes)
def test_reading_what_was_written_gives_the_same_doi(prefix: str, suffix: str) -> None:
    doi = parse(prefix + suffix)

    assert parse(doi.minted) == doi
    assert parse(url(doi)) == doi
    assert parse(f"doi:{doi.minted}") == doi
    assert parse(unquote(path(doi))) == doi
    assert candidates(doi)[0] == doi


@given(st.text(max_size=300))
def test_any_text_is_a_doi_or_malformed_and_nothing_else(text: str) -> None:
    try:
        doi = parse(text)
    except MalformedDoi:
        return
    assert doi.key == fold(doi.minted)
    assert doi.minted.startswith("10.")
    assert not set("?#\x00\r\n") & set(path(doi))


@pytest.mark.parametrize(
    "text",
    [
        "https://doi.org/10.1000/" + "." * 1_000_000,
        "10.1000/" + ")" * 1_000_000,
        "doi:" * 250_000,
        "https://" + "/10." * 250_000,
        "10.1000" + ".1" * 500_000,
        " " * 1_000_000,
        "\u200b" * 1_000_000,
        # the same just below the limit, where they are read
        "10.1000/" + ")" * 500,
        "https://" + "/10.1" * 400,
        "doi:" * 500,
    ],
    ids=range(10),
)
def test_hostile_texts_are_answered_at_once(text: str) -> None:
    begun = time.process_time()

    with contextlib.suppress(MalformedDoi):
        candidates(parse(text))

    assert time.process_time() - begun < 0.05
