"""DOIs: read from any spelling, compared folded, shown as minted. Pure, and linear in the length of the text.

A DOI is `10.<registrant>/<suffix>`; the suffix is any printable text, may hold further slashes, and often ends in what
looks like punctuation (`.`, `+`, `)`, `#`). So `candidates` offers the exact DOI first, and only then what remains when
punctuation copied along with it is cut off. Case differs only in ASCII letters.

Sources: DOI Handbook, chapter 2 (numbering); ANSI/NISO Z39.84; RFC 3986 (percent-encoding).
"""

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote

from typing_extensions import override

#: What is longer is refused unread; every later step is linear, but nothing is gained by reading a novel.
LONGEST_TEXT = 2048
LONGEST_DOI = 512

_FOLD = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")

_SHAPE = re.compile(r"10\.[0-9]{4,9}(?:\.[0-9]+)*/\S+")
_SCHEME = re.compile(r"https?:/{1,2}", re.ASCII | re.IGNORECASE)  # a proxy that merges slashes makes https:/doi.org
_LABEL = re.compile(r"(?:info:doi/|(?:urn:)?doi:(?!//)|doi )\s*", re.ASCII | re.IGNORECASE)
_RESOLVER = re.compile(r"(?:www\.|dx\.)?doi\.org(?::[0-9]{1,5})?/", re.ASCII | re.IGNORECASE)
# Landing pages of facilities and others carry the DOI as the rest of the path, or as a parameter, after some host.
_IN_PATH = re.compile(r"[/=](?=10(?:\.|%2[Ee])[0-9]{4,9})", re.ASCII)

_TRAILING = frozenset(".,;:'\"`´‘’“”«»…!?")
_BRACKETS = {")": "(", "]": "[", "}": "{", ">": "<"}
# A slash is part of no registrant: where it stands encoded, the text was an address, or was encoded once too often.
_ENCODED_SLASH = re.compile(r"10(?:\.|%2E)[0-9.]{4,60}%(?:25)?2F", re.ASCII | re.IGNORECASE)
# RFC 3986 lets these stand in a path; everything else is encoded, above all what starts a query or a fragment.
_SAFE = "!$&'()*+,;=:@-._~"


class Fault(StrEnum):
    """What is wrong with a text that is no DOI."""

    EMPTY = "empty"
    TOO_LONG = "too_long"
    CONTROL = "control_characters"
    NO_PREFIX = "no_prefix"
    NO_SUFFIX = "no_suffix"
    SPACE = "space"


class MalformedDoi(ValueError):
    """A text that is no DOI; `fault` says why."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


@dataclass(frozen=True)
class Doi:
    """A DOI: `minted` as it was written, to show; `key` with ASCII letters folded, to compare."""

    minted: str
    key: str

    @override
    def __str__(self) -> str:
        return self.minted


def fold(text: str) -> str:
    """A DOI as it is compared: ASCII letters in lower case, no other character changed."""
    return text.translate(_FOLD)


def _control(text: str) -> bool:
    """Whether there are characters that no DOI has: controls, surrogates, unassigned line separators."""
    return any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in text)


def _visible(text: str) -> str:
    """The text without what nobody sees and PDF readers copy along: zero-width characters, marks of direction, BOM."""
    return "".join(character for character in text if unicodedata.category(character) != "Cf")


def _without_address(text: str) -> tuple[str, bool]:
    """The text after any label, scheme and host, and whether it came as an address (and so percent-encoded)."""
    as_url = False
    # Bounded: "doi:https://doi.org/…" and "DOI: doi:10…" are seen, an endless chain of labels is not followed.
    for _round in range(4):
        before = text
        if match := _LABEL.match(text):
            as_url = as_url or match.group().lower().startswith("info:")
            text = text[match.end() :].lstrip()
        if match := _SCHEME.match(text):
            as_url, text = True, text[match.end() :]
            if (match := _RESOLVER.match(text)) or (match := _IN_PATH.search(text)):
                text = text[match.end() :]
        elif match := _RESOLVER.match(text):
            as_url, text = True, text[match.end() :]
        if text == before:
            break
    return text, as_url


def parse(text: str) -> Doi:
    """The DOI a person typed, pasted or followed, in any usual spelling. Raises `MalformedDoi` with the fault.

    Punctuation at the end is kept: it may belong to the DOI. See `candidates`.
    """
    if len(text) > LONGEST_TEXT:
        raise MalformedDoi(Fault.TOO_LONG)
    text = _visible(text).strip().lstrip("/")
    if not text:
        raise MalformedDoi(Fault.EMPTY)
    if _control(text):
        raise MalformedDoi(Fault.CONTROL)
    text, as_url = _without_address(text)
    if as_url or _ENCODED_SLASH.match(text):
        # Once, and only for what came as an address: in a bare DOI a percent sign is a percent sign.
        text = unquote(text)
    if _ENCODED_SLASH.match(text):  # some landing pages encode the slash twice
        text = unquote(text)
    if _control(text) or "\ufffd" in text:
        raise MalformedDoi(Fault.CONTROL)
    text = unicodedata.normalize("NFC", _visible(text).strip())
    if len(text) > LONGEST_DOI:
        raise MalformedDoi(Fault.TOO_LONG)
    if not _SHAPE.fullmatch(text):
        raise MalformedDoi(_fault_of(text))
    return Doi(minted=text, key=fold(text))


def _fault_of(text: str) -> Fault:
    if not re.match(r"10\.[0-9]{4,9}(?:\.[0-9]+)*(?:/|$|\s)", text):
        return Fault.NO_PREFIX
    head, _slash, suffix = text.partition("/")
    if not suffix.strip() or head != head.strip():
        return Fault.NO_SUFFIX
    return Fault.SPACE


def candidates(doi: Doi) -> tuple[Doi, ...]:
    """What may have been meant, most likely first: the DOI itself, then without punctuation copied along with it.

    Real DOIs end in `.`, `..`, `+`, `)` and `#`, so the exact one always comes first. A bracket goes only where it was
    not opened inside the DOI. Slashes at the end are cut as well: landing pages are registered with one.
    """
    text = doi.minted
    depth = {bracket: text.count(opening) - text.count(bracket) for bracket, opening in _BRACKETS.items()}
    end = len(text)
    while end:
        last = text[end - 1]
        if last in _BRACKETS and depth[last] < 0:
            depth[last] += 1
        elif last not in _TRAILING and last != "/":
            break
        end -= 1
    shorter = text[:end]
    if shorter == text or not _SHAPE.fullmatch(shorter):
        return (doi,)
    return (doi, Doi(minted=shorter, key=fold(shorter)))


def path(doi: Doi) -> str:
    """The DOI as part of an address's path: everything encoded that would end the path or be read as something else.

    The slash before an empty or dotted segment is encoded too: browsers resolve `/data/10.1000/..` to `/data/`, and
    front proxies make one slash of two.
    """
    first, *others = (quote(segment, safe=_SAFE) for segment in doi.minted.split("/"))
    return first + "".join(("%2F" if segment in {"", ".", ".."} else "/") + segment for segment in others)


def url(doi: Doi) -> str:
    """The DOI's address at the resolver of the DOI Foundation."""
    return f"https://doi.org/{path(doi)}"
