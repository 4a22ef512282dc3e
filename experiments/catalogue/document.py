"""The import document: a JSON file of one source's records, read into frozen values. Pure.

The shape is described in docs/import.md. Reading never stops at the first fault: `read` returns everything, or raises
`DocumentFaults` with all faults at once, each with the place in the document. Unknown names are faults too: a misspelt
`"availabel"` would otherwise open or close data without anybody noticing.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

from experiments import doi, mounts, openness

FORMAT = "visa-experiments/1"
#: bytes of a document, and how many faults are worth listing
LARGEST, MOST_FAULTS = 64 * 1024 * 1024, 1000

KINDS = ("dataset", "collection", "instrument", "award", "text", "software", "other")
ROLES = ("leader", "member", "instrument_scientist")

T = TypeVar("T")
_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")


@dataclass(frozen=True)
class Fault:
    """One fault: where (`$.datasets[3].doi`) and what."""

    place: str
    message: str


class DocumentFaults(ValueError):
    """All faults of a document."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(f"{fault.place}: {fault.message}" for fault in self.faults))


@dataclass(frozen=True, kw_only=True, order=True)
class StatedPerson:
    """Somebody, as a record names them; `role` is empty for scientists of an instrument."""

    issuer: str
    subject: str = ""
    voperson_id: str = ""
    role: str = ""


@dataclass(frozen=True, kw_only=True)
class StatedFacility:
    """A facility."""

    slug: str
    name: str
    timezone: str = ""
    contact: str = ""


@dataclass(frozen=True, kw_only=True)
class StatedInstrument:
    """An instrument. `scientists` is None where the document says nothing about them."""

    facility: str
    slug: str
    name: str
    scientists: tuple[StatedPerson, ...] | None = None

    @property
    def key(self) -> str:
        return f"{self.facility}/{self.slug}"


@dataclass(frozen=True, kw_only=True)
class StatedTechnique:
    """A technique."""

    pid: str
    name: str


@dataclass(frozen=True, kw_only=True)
class StatedExperiment:
    """An experiment; `key` is the source's own id, `instrument` is `facility/slug`."""

    key: str
    proposal: str = ""
    title: str
    instrument: str
    start: date | None = None
    end: date | None = None
    participants: tuple[StatedPerson, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StatedDataset:
    """A dataset; `minted` and `key` are its DOI. `techniques` are sorted pids; `flags` sorted (name, value) pairs."""

    key: str
    minted: str
    kind: str
    title: str
    creators: tuple[str, ...] = ()
    publisher: str = ""
    publication_year: int | None = None
    licence: str = ""
    facility: str
    instrument: str = ""
    experiment: str = ""
    techniques: tuple[str, ...] = ()
    size_bytes: int | None = None
    files: int | None = None
    path: str = ""
    landing_url: str = ""
    contact: str = ""
    metadata_public: bool = False
    available: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    rights: tuple[str, ...] = ()
    flags: tuple[tuple[str, object], ...] = ()
    tombstone: bool = False


@dataclass(frozen=True, kw_only=True)
class Records:
    """Everything one source states, at the moment `harvested_at`."""

    source: str
    source_name: str
    harvested_at: datetime
    facilities: tuple[StatedFacility, ...] = ()
    instruments: tuple[StatedInstrument, ...] = ()
    techniques: tuple[StatedTechnique, ...] = ()
    experiments: tuple[StatedExperiment, ...] = ()
    datasets: tuple[StatedDataset, ...] = ()


class _Object:
    """One JSON object being read: takes values by name, collects faults, and knows which names were asked for."""

    def __init__(self, value: object, place: str, faults: list[Fault]) -> None:
        self.place, self.faults = place, faults
        self.asked: set[str] = set()
        self.members: dict[str, object] = {}
        if isinstance(value, dict):
            self.members = value
        else:
            self.fault("", "must be an object")

    def fault(self, name: str, message: str) -> None:
        self.faults.append(Fault(f"{self.place}.{name}" if name else self.place, message))

    def take(self, name: str) -> object:
        self.asked.add(name)
        return self.members.get(name)

    def text(self, name: str, *, longest: int, required: bool = False) -> str:
        value = self.take(name)
        if value is None and not required:
            return ""
        return self._text(value, name, longest, required=required)

    def _text(self, value: object, name: str, longest: int, *, required: bool) -> str:
        if not isinstance(value, str):
            self.fault(name, "is missing" if value is None else "must be a text")
            return ""
        text = unicodedata.normalize("NFC", value).strip()
        if required and not text:
            self.fault(name, "is empty")
        elif len(text) > longest:
            self.fault(name, f"has {len(text):,} characters; {longest:,} are the most")
        elif any(unicodedata.category(character) in {"Cc", "Cs"} for character in text):
            self.fault(name, "has control characters")
        else:
            return text
        return ""

    def texts(self, name: str, *, longest: int, most: int) -> tuple[str, ...]:
        value = self.take(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.fault(name, "must be a list of texts")
            return ()
        if len(value) > most:
            self.fault(name, f"has {len(value):,} entries; {most:,} are the most")
            return ()
        return tuple(self._text(one, f"{name}[{place}]", longest, required=True) for place, one in enumerate(value))

    def number(self, name: str, *, low: int, high: int) -> int | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fault(name, f"must be a whole number from {low} to {high}")
            return None
        return value

    def yes(self, name: str) -> bool:
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            self.fault(name, "must be true or false")
        return value is True

    def one_of(self, name: str, words: tuple[str, ...], default: str) -> str:
        value = self.take(name)
        if value is None:
            return default
        if value not in words:
            self.fault(name, f"must be one of {', '.join(words)}")
            return default
        return str(value)

    def day(self, name: str) -> date | None:
        value = self.take(name)
        if value is None:
            return None
        if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
            try:
                return date.fromisoformat(value)
            except ValueError:
                pass  # a thirtieth of February: told below
        self.fault(name, "must be a day such as 2026-11-21")
        return None

    def objects(self, name: str, read: Callable[["_Object"], T]) -> tuple[T, ...]:
        value = self.take(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            self.fault(name, "must be a list of objects")
            return ()
        found = []
        for place, one in enumerate(value):
            item = _Object(one, f"{self.place}.{name}[{place}]", self.faults)
            if isinstance(one, dict):
                found.append(read(item))
                item.end()
        return tuple(found)

    def end(self) -> None:
        """Whatever was not asked for is not part of the shape."""
        for name in self.members:
            if name not in self.asked:
                self.fault(name[:60], "is not a name of this shape")


class _Reader:
    """Reads one document. Keeps what was named, so that references can be checked."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        self.seen: dict[str, set[str]] = {}

    def once(self, item: _Object, what: str, key: str, name: str) -> None:
        known = self.seen.setdefault(what, set())
        if key in known:
            item.fault(name, f"there is this {what} already: {key}")
        known.add(key)

    def known(self, item: _Object, what: str, key: str, name: str) -> None:
        if key and key not in self.seen.get(what, set()):
            item.fault(name, f"there is no {what} {key!r} in this document")

    def slug(self, item: _Object, name: str) -> str:
        text = item.text(name, longest=60, required=True)
        if text and not _SLUG.fullmatch(text):
            item.fault(name, "must be lower-case letters, digits, - and _, at most 60")
        return text

    def person(self, item: _Object, *, role: bool) -> StatedPerson:
        issuer = item.text("issuer", longest=300, required=True)
        subject, voperson_id = item.text("subject", longest=255), item.text("voperson_id", longest=255)
        if not subject and not voperson_id:
            item.fault("", "names nobody: give subject or voperson_id, as the issuer states it")
        return StatedPerson(
            issuer=issuer,
            subject=subject,
            voperson_id=voperson_id,
            role=item.one_of("role", ROLES, "member") if role else "",
        )

    def people(self, item: _Object, name: str, *, role: bool) -> tuple[StatedPerson, ...]:
        found = item.objects(name, lambda one: self.person(one, role=role))
        names: set[tuple[str, str, str]] = set()
        for place, one in enumerate(found):
            key = (one.issuer, one.subject, one.voperson_id)
            if key in names:
                item.fault(f"{name}[{place}]", "is named before in this list")
            names.add(key)
        return tuple(sorted(found))

    def facility(self, item: _Object) -> StatedFacility:
        slug = self.slug(item, "id")
        self.once(item, "facility", slug, "id")
        zone = item.text("timezone", longest=60)
        if zone and openness.zone_named(zone) is None:
            item.fault("timezone", f"{zone!r} is no zone of the IANA database, such as Europe/Paris")
        return StatedFacility(
            slug=slug,
            name=item.text("name", longest=200, required=True),
            timezone=zone,
            contact=item.text("contact", longest=300),
        )

    def instrument(self, item: _Object) -> StatedInstrument:
        facility = item.text("facility", longest=60, required=True)
        self.known(item, "facility", facility, "facility")
        slug = self.slug(item, "id")
        self.once(item, "instrument", f"{facility}/{slug}", "id")
        return StatedInstrument(
            facility=facility,
            slug=slug,
            name=item.text("name", longest=200, required=True),
            scientists=self.people(item, "scientists", role=False) if "scientists" in item.members else None,
        )

    def technique(self, item: _Object) -> StatedTechnique:
        pid = item.text("pid", longest=300, required=True)
        self.once(item, "technique", pid, "pid")
        return StatedTechnique(pid=pid, name=item.text("name", longest=200, required=True))

    def experiment(self, item: _Object) -> StatedExperiment:
        key = item.text("id", longest=200, required=True)
        self.once(item, "experiment", key, "id")
        instrument = item.text("instrument", longest=121, required=True)
        self.known(item, "instrument", instrument, "instrument")
        start, end = item.day("start"), item.day("end")
        if start and end and end < start:
            item.fault("end", "is before start")
        return StatedExperiment(
            key=key,
            proposal=item.text("proposal", longest=200),
            title=item.text("title", longest=500, required=True),
            instrument=instrument,
            start=start,
            end=end,
            participants=self.people(item, "participants", role=True),
        )

    def dataset(self, item: _Object) -> StatedDataset:
        name = self.doi(item)
        facility = item.text("facility", longest=60, required=True)
        self.known(item, "facility", facility, "facility")
        instrument = item.text("instrument", longest=121)
        self.known(item, "instrument", instrument, "instrument")
        experiment = item.text("experiment", longest=200)
        self.known(item, "experiment", experiment, "experiment")
        techniques = item.texts("techniques", longest=300, most=50)
        for place, pid in enumerate(techniques):
            self.known(item, "technique", pid, f"techniques[{place}]")
        return StatedDataset(
            key=name.key,
            minted=name.minted,
            kind=item.one_of("kind", KINDS, "dataset"),
            title=item.text("title", longest=500, required=True),
            creators=item.texts("creators", longest=300, most=1000),
            publisher=item.text("publisher", longest=300),
            publication_year=item.number("publication_year", low=1000, high=9999),
            licence=item.text("licence", longest=200),
            facility=facility,
            instrument=instrument,
            experiment=experiment,
            techniques=tuple(sorted(set(techniques))),
            size_bytes=item.number("size_bytes", low=0, high=2**63 - 1),
            files=item.number("files", low=0, high=2**31 - 1),
            path=self.path(item),
            landing_url=self.address(item),
            contact=item.text("contact", longest=300),
            metadata_public=item.yes("metadata_public"),
            available=item.texts("available", longest=100, most=20),
            withdrawn=item.texts("withdrawn", longest=100, most=20),
            rights=item.texts("rights", longest=500, most=50),
            flags=self.flags(item),
            tombstone=item.yes("tombstone"),
        )

    def doi(self, item: _Object) -> doi.Doi:
        text = item.text("doi", longest=doi.LONGEST_TEXT, required=True)
        try:
            found = doi.parse(text)
        except doi.MalformedDoi as error:
            if text:
                item.fault("doi", f"is no DOI ({error.fault.value.replace('_', ' ')})")
            return doi.Doi(minted="", key="")
        self.once(item, "dataset", found.key, "doi")
        return found

    def path(self, item: _Object) -> str:
        text = item.text("path", longest=mounts.LONGEST_PATH)
        if not text:
            return ""
        try:
            return mounts.checked(text)
        except mounts.UnsafePath as error:
            item.fault("path", f"could leave the storage ({error.fault.value.replace('_', ' ')})")
            return ""

    def address(self, item: _Object) -> str:
        text = item.text("landing_url", longest=1000)
        try:
            parts = urlsplit(text)
            good = not text or (parts.scheme in {"http", "https"} and bool(parts.hostname) and " " not in text)
        except ValueError:
            good = False
        if not good:
            item.fault("landing_url", "must be an address that begins with https:// or http://")
        return text if good else ""

    def flags(self, item: _Object) -> tuple[tuple[str, object], ...]:
        value = item.take("flags")
        if value is None:
            return ()
        if not isinstance(value, dict) or len(value) > 20:
            item.fault("flags", "must be an object of at most 20 flags as the source gives them")
            return ()
        for name, one in value.items():
            if not isinstance(one, str | bool | int | float | None) or len(str(one)) > 200 or len(name) > 60:
                item.fault(f"flags.{name[:60]}", "must be a short value: true, false, null, a number or a text")
            elif isinstance(one, float) and not math.isfinite(one):
                item.fault(f"flags.{name[:60]}", "is a number larger than can be kept")
            elif any(unicodedata.category(character) in {"Cc", "Cs"} for character in f"{name}{one}"):
                item.fault(f"flags.{name[:60]}", "has control characters")
        return tuple(sorted(value.items(), key=lambda flag: flag[0]))


def _harvested(top: _Object, now: datetime) -> datetime:
    value = top.text("harvested_at", longest=40, required=True)
    if not value:
        return now
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        top.fault("harvested_at", "must be a moment with offset, such as 2026-11-21T08:00:00+01:00")
        return now
    if moment.tzinfo is None:
        top.fault("harvested_at", "has no offset; add Z or one such as +01:00")
        return now
    if moment > now + timedelta(minutes=5):
        top.fault("harvested_at", "lies in the future")
    return moment


def _json(text: bytes) -> object:
    """The JSON value. Raises `DocumentFaults`, also for what Python's reader would let pass."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _value in pairs]
            twice = next(name for place, name in enumerate(names) if name in names[:place])
            raise ValueError(f"the name {twice[:60]!r} stands twice in one object")
        return found

    def never(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    if len(text) > LARGEST:
        raise DocumentFaults([Fault("$", f"has {len(text):,} bytes; {LARGEST:,} are the most")])
    try:
        return json.loads(text.decode("utf-8-sig"), object_pairs_hook=once, parse_constant=never)
    except RecursionError:
        raise DocumentFaults([Fault("$", "is nested too deeply")]) from None
    except ValueError as error:
        raise DocumentFaults([Fault("$", f"is no JSON in UTF-8: {error}")]) from error


def read(text: bytes, *, now: datetime) -> Records:
    """The records of a document. Raises `DocumentFaults` with all its faults; nothing is half read."""
    faults: list[Fault] = []
    top = _Object(_json(text), "$", faults)
    if faults:
        raise DocumentFaults(faults)
    reader = _Reader(faults)
    if top.take("format") != FORMAT:
        top.fault("format", f'must be "{FORMAT}"')
    source = _Object(top.take("source"), "$.source", faults)
    slug, name = reader.slug(source, "id"), source.text("name", longest=200, required=True)
    source.end()
    records = Records(
        source=slug,
        source_name=name,
        harvested_at=_harvested(top, now),
        # in the order of their references
        facilities=top.objects("facilities", reader.facility),
        instruments=top.objects("instruments", reader.instrument),
        techniques=top.objects("techniques", reader.technique),
        experiments=top.objects("experiments", reader.experiment),
        datasets=top.objects("datasets", reader.dataset),
    )
    top.end()
    if faults:
        more = len(faults) - MOST_FAULTS
        rest = [Fault("$", f"and {more:,} further faults")] if more > 0 else []
        raise DocumentFaults([*faults[:MOST_FAULTS], *rest])
    return records
