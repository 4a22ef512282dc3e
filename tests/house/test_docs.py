"""The guides keep to what is there: links, variables, sentences of pages, tests they name."""

import re
from pathlib import Path

import pytest

from deploy import catalogues
from deploy.processes import ROOT

GUIDES = sorted([*(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").glob("*.md"), *ROOT.glob("*.md")])
GUIDES.append(ROOT / "deploy" / "openstack" / "README.md")
OPERATORS = ROOT / "deploy" / "README.md"
SECURITY = ROOT / "docs" / "security.md"
#: variables of tools beside the platform, which deploy/openstack/README.md describes
OF_TOOLS = ("VISA_OPENSTACK_", "VISA_IMAGE_")


def text_of(guide: Path) -> str:
    return guide.read_text(encoding="utf-8")


def name_of(guide: Path) -> str:
    return str(guide.relative_to(ROOT))


def anchors_of(guide: Path) -> set[str]:
    """The headings of a guide, as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.+)$", text_of(guide), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("guide", GUIDES, ids=name_of)
def test_every_link_leads_somewhere(guide: Path) -> None:
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(guide)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (guide.parent / path).resolve() if path else guide
        if not place.exists() or (anchor and anchor not in anchors_of(place)):
            lost.append(target)

    assert lost == []


def test_the_index_names_every_guide() -> None:
    index = text_of(ROOT / "docs" / "README.md")
    guides = {guide.name for guide in (ROOT / "docs").glob("*.md")} - {"README.md"}

    assert {name for name in guides if f"]({name})" not in index} == set()


def test_operators_are_told_of_every_variable_and_of_no_other() -> None:
    code = text_of(ROOT / "visa" / "environment.py")
    read = set(re.findall(r'"(VISA_(?!TEST_)[A-Z_]+)"', code))
    read |= {f"VISA_OIDC_NAME_{suffix}" for suffix in re.findall(r'"\{prefix\}_([A-Z_]+)"', code)}
    tables = {
        name
        for row in re.findall(r"^\| (VISA_[^|]*)\|", text_of(OPERATORS), re.MULTILINE)
        for name in re.findall(r"VISA_[A-Z_]+", row)
    }

    assert tables == read


@pytest.mark.parametrize("guide", GUIDES, ids=name_of)
def test_no_guide_names_a_variable_that_nothing_reads(guide: Path) -> None:
    sample = set(re.findall(r"^(VISA_[A-Z_]+)=", text_of(ROOT / "deploy" / "env.sample"), re.MULTILINE))
    named = {
        name
        for name in re.findall(r"\bVISA_[A-Z_]*[A-Z]\b(?!_?…)", text_of(guide))
        if not name.startswith((*OF_TOOLS, "VISA_OIDC_NAME_"))
    }

    assert named - sample == set()


@pytest.mark.parametrize("name", ["using.md", "administering.md"])
def test_what_a_guide_quotes_from_a_page_is_what_pages_say(name: str) -> None:
    said = {text for one in catalogues.listed() for text in ([one.id] if isinstance(one.id, str) else one.id)}
    # the quotes of our own sentences, which may hold a pair of their own
    quoted = re.findall(r"^\| “(.+?)” \|", text_of(ROOT / "docs" / name), re.MULTILINE)
    quoted += re.findall(r"^- “(.+?)”:", text_of(ROOT / "docs" / name), re.MULTILINE)

    assert quoted
    assert [one for one in quoted if one not in said] == []


def test_every_claim_of_safety_names_a_test_that_exists() -> None:
    claims = re.findall(r"`([\w/]+\.py)` `(test_\w+)`", text_of(SECURITY))
    missing = [
        f"{path} {name}"
        for path, name in claims
        if not (ROOT / "tests" / path).exists() or f"def {name}(" not in text_of(ROOT / "tests" / path)
    ]

    assert len(claims) > 40
    assert missing == []
