"""Request side: bring what a source states into our tables; first as a difference that can be read, then applied whole.

`difference` is pure: what is known, what is stated, and what would follow. Four things are held back until somebody
confirms them, because a fault of a catalogue must neither open data nor take them away:

- opening: a known dataset would be open at a moment when it was not, as last known; its description would become
  public; or a facility would get another time zone;
- moving: a known DOI would name another path, experiment or instrument; or another DOI would name data that a known one
  keeps closed;
- withdrawing: a known experiment or dataset is no longer listed, as after a file that came short;
- emptying: a team would have nobody left, or a fifth of all memberships would end at once.

Narrowing is at once: a later date, a closing right, a person who leaves a team. A known opening date that passes needs
nobody's word.
"""

import logging
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from django.db import transaction
from django.utils import timezone

from experiments import openness
from experiments.catalogue.document import (
    DocumentFaults,
    Fault,
    Records,
    StatedDataset,
    StatedExperiment,
    StatedFacility,
    StatedInstrument,
    StatedPerson,
    StatedTechnique,
)
from experiments.models import (
    Dataset,
    Experiment,
    Facility,
    Instrument,
    InstrumentScientist,
    Participant,
    Source,
    Technique,
)
from visa.audit import trail
from visa.audit.trail import Deed

log = logging.getLogger(__name__)

#: the share of a source's memberships that may end in one import unconfirmed; below so many it does not matter
SHRINKING, FEW = 0.2, 5
#: records of one import that the audit trail names for being held back, and for being withdrawn; it counts all
RECORDED = 200


class Step(StrEnum):
    """What an import does with one record."""

    ADDED = "added"
    CHANGED = "changed"
    WITHDRAWN = "withdrawn"
    HELD = "held"


class Confirm(StrEnum):
    """What somebody may confirm."""

    OPENING = "opening"
    WITHDRAWALS = "withdrawals"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One record that would not stay as it is: the fields that differ, and what holds it back where something does."""

    kind: str
    key: str
    step: Step
    names: tuple[str, ...] = ()
    why: str = ""
    needs: Confirm | None = None


@dataclass(frozen=True, kw_only=True)
class Ruled:
    """What besides the statement decides on a known dataset."""

    ruling: openness.Ruling | None
    harvested_at: datetime


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the data of a known DOI stand, when they are open, and whose they are (source, experiment)."""

    path: str
    key: str
    minted: str
    window: openness.Window
    team: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of one source's records, in the words of its document. Facilities and others are of all sources."""

    trusts_flags: bool = False
    imported_at: datetime | None = None
    facilities: Mapping[str, StatedFacility] = field(default_factory=dict)
    instruments: Mapping[str, StatedInstrument] = field(default_factory=dict)
    techniques: Mapping[str, StatedTechnique] = field(default_factory=dict)
    experiments: Mapping[str, StatedExperiment] = field(default_factory=dict)
    datasets: Mapping[str, StatedDataset] = field(default_factory=dict)
    ruled: Mapping[str, Ruled] = field(default_factory=dict)
    #: records that an earlier import withdrew
    withdrawn_experiments: frozenset[str] = frozenset()
    withdrawn_datasets: frozenset[str] = frozenset()
    #: DOIs that another source states, with its name
    others: Mapping[str, str] = field(default_factory=dict)
    #: what stands where in the storage, of all sources
    places: tuple[Place, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What an import does, in the order of its doing, and how many records stay as they are."""

    changes: tuple[Change, ...]
    unchanged: int

    def of(self, step: Step) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.step is step)


def _differing(before: Any, after: Any, *, without: Collection[str] = ()) -> tuple[str, ...]:
    """The names of the fields that differ. By their print too: to Python, `1 == True`."""
    return tuple(
        one.name
        for one in fields(after)
        if one.name not in without and repr(getattr(before, one.name)) != repr(getattr(after, one.name))
    )


def _people(
    kind: str,
    key: str,
    before: tuple[StatedPerson, ...],
    after: tuple[StatedPerson, ...],
    *,
    shrinks: bool,
    confirmed: bool,
) -> Change | None:
    """The change of a team, or of an instrument's scientists."""
    gone, come = _names(before) - _names(after), set(after) - set(before)
    if not gone and not come:
        return None
    names = tuple(
        filter(None, [f"{len(come)} added or changed" if come else "", f"{len(gone)} removed" if gone else ""])
    )
    why = ""
    if gone and not after:
        why = "nobody would be left"
    elif gone and shrinks:
        why = "too many people would leave their teams in one import"
    if why and not confirmed:
        return Change(kind=kind, key=key, step=Step.HELD, names=names, why=why, needs=Confirm.WITHDRAWALS)
    return Change(kind=kind, key=key, step=Step.CHANGED if before else Step.ADDED, names=names)


def _names(people: Iterable[StatedPerson]) -> set[StatedPerson]:
    return {replace(person, role="") for person in people}


def _facts(
    stated: StatedDataset, *, zone: str, trusted: bool, ruled: Ruled | None, harvested: datetime
) -> openness.Facts:
    return openness.Facts(
        is_data=stated.kind in {Dataset.Kind.DATASET, Dataset.Kind.COLLECTION},
        available=stated.available,
        withdrawn=stated.withdrawn,
        rights=stated.rights,
        flags=stated.flags,
        flags_trusted=trusted,
        harvested_at=harvested,
        tombstone=stated.tombstone,
        timezone=zone,
        ruling=ruled.ruling if ruled else None,
    )


class _Comparison:
    """Compares one document with what is known; collects the changes."""

    def __init__(self, known: Known, stated: Records, confirmed: Collection[Confirm], now: datetime) -> None:
        self.known, self.stated, self.confirmed, self.now = known, stated, confirmed, now
        self.changes: list[Change] = []
        self.unchanged = 0
        self.zones = {slug: facility.timezone for slug, facility in known.facilities.items()}
        self.places = sorted(known.places, key=lambda place: place.path + "/")
        self.paths = [place.path + "/" for place in self.places]

    def note(self, change: Change | None) -> None:
        if change is None:
            self.unchanged += 1
        else:
            self.changes.append(change)

    def plain(self, kind: str, key: str, before: Any, after: Any, *, without: Collection[str] = ()) -> None:
        """A record that opens nothing and takes nothing away."""
        if before is None:
            self.note(Change(kind=kind, key=key, step=Step.ADDED))
            return
        names = _differing(before, after, without=without)
        self.note(Change(kind=kind, key=key, step=Step.CHANGED, names=names) if names else None)

    def facility(self, after: StatedFacility) -> None:
        before = self.known.facilities.get(after.slug)
        if before and before.timezone != after.timezone and Confirm.OPENING not in self.confirmed:
            why = (
                f"its days would begin at another time: {before.timezone or 'no zone'} to {after.timezone or 'no zone'}"
            )
            names = _differing(before, after)
            self.note(
                Change(kind="facility", key=after.slug, step=Step.HELD, names=names, why=why, needs=Confirm.OPENING)
            )
            return
        self.zones[after.slug] = after.timezone
        self.plain("facility", after.slug, before, after)

    def teams(self) -> None:
        before = {key: one.participants for key, one in self.known.experiments.items()}
        after = {one.key: one.participants for one in self.stated.experiments}
        all_before = sum(len(team) for team in before.values())
        leaving = sum(len(_names(team) - _names(after[key])) for key, team in before.items() if key in after)
        shrinks = leaving >= FEW and leaving > all_before * SHRINKING
        confirmed = Confirm.WITHDRAWALS in self.confirmed
        for key, team in after.items():
            change = _people("team", key, before.get(key, ()), team, shrinks=shrinks, confirmed=confirmed)
            if change is not None:
                self.note(change)
        for instrument in self.stated.instruments:
            if instrument.scientists is None:
                continue
            known = self.known.instruments.get(instrument.key)
            scientists = (known.scientists if known else None) or ()
            change = _people(
                "scientists", instrument.key, scientists, instrument.scientists, shrinks=False, confirmed=confirmed
            )
            if change is not None:
                self.note(change)

    def experiment(self, after: StatedExperiment) -> None:
        if after.key in self.known.withdrawn_experiments:
            self.note(Change(kind="experiment", key=after.key, step=Step.CHANGED, names=("listed again",)))
            return
        self.plain("experiment", after.key, self.known.experiments.get(after.key), after, without=("participants",))

    def dataset(self, after: StatedDataset) -> None:
        before = self.known.datasets.get(after.key)
        names = _differing(before, after) if before else ()
        returned = after.key in self.known.withdrawn_datasets
        if before and not names and not returned:
            self.note(None)
            return
        why = ""
        if Confirm.OPENING not in self.confirmed:
            new = self.window(after)
            why = (self.held(before, after, new, returned=returned) if before else "") or self.covered(after, new)
        if why:
            self.note(
                Change(kind="dataset", key=after.minted, step=Step.HELD, names=names, why=why, needs=Confirm.OPENING)
            )
        elif before:
            names = (*names, "listed again") if returned else names
            self.note(Change(kind="dataset", key=after.minted, step=Step.CHANGED, names=names))
        else:
            self.note(Change(kind="dataset", key=after.minted, step=Step.ADDED))

    def window(self, after: StatedDataset) -> openness.Window:
        """When a stated dataset would be open."""
        facts = _facts(
            after,
            zone=self.zones.get(after.facility, ""),
            trusted=self.known.trusts_flags,
            ruled=self.known.ruled.get(after.key),
            harvested=self.stated.harvested_at,
        )
        return openness.window(facts)

    def held(self, before: StatedDataset, after: StatedDataset, new: openness.Window, *, returned: bool) -> str:
        """Why the change of a known dataset waits for somebody's word; empty where it does not."""
        ruled = self.known.ruled[after.key]
        facts = _facts(
            before,
            zone=self.known.facilities[before.facility].timezone,
            trusted=self.known.trusts_flags,
            ruled=ruled,
            harvested=ruled.harvested_at,
        )
        old = openness.window(replace(facts, tombstone=before.tombstone or returned))
        if openness.opens_more(old, new, self.now):
            opens = max(new.opens_at or self.now, self.now)
            return f"it would be open from {opens:%Y-%m-%d %H:%M} UTC, earlier or longer than last known"
        moved = [
            name
            for name in ("path", "experiment", "instrument", "facility")
            if getattr(before, name) and getattr(before, name) != getattr(after, name) and getattr(after, name)
        ]
        if moved:
            return f"the DOI would name other data: another {', another '.join(moved)}"
        if after.metadata_public and not before.metadata_public and not old.is_open(self.now):
            return "its description would become public while the data are closed"
        return ""

    def covered(self, after: StatedDataset, new: openness.Window) -> str:
        """Whether data of another DOI stand at, above or below the path, and more people would see them through it."""
        if not after.path:
            return ""
        own = after.path + "/"
        first = bisect_left(self.paths, own)
        # "\U0010ffff" sorts after everything that can follow the path
        below = self.places[first : bisect_left(self.paths, own + "\U0010ffff")]
        above = []
        parts = after.path.split("/")
        for count in range(1, len(parts)):
            upper = "/".join(parts[:count]) + "/"
            place = bisect_left(self.paths, upper)
            while place < len(self.paths) and self.paths[place] == upper:
                above.append(self.places[place])
                place += 1
        team = (self.stated.source, after.experiment)
        for other in (*below, *above):
            if other.key == after.key:
                continue
            other_team = other.team != team and bool(after.experiment) and not other.window.is_open(self.now)
            if openness.opens_more(other.window, new, self.now) or other_team:
                return f"it names data that {other.minted} keeps closed"
        return ""

    def withdrawn(self) -> None:
        kinds = (
            (
                "experiment",
                {key: key for key in self.known.experiments if key not in self.known.withdrawn_experiments},
                {one.key for one in self.stated.experiments},
            ),
            (
                "dataset",
                {
                    key: one.minted
                    for key, one in self.known.datasets.items()
                    if key not in self.known.withdrawn_datasets
                },
                {one.key for one in self.stated.datasets},
            ),
        )
        for kind, listed, still in kinds:
            for key in sorted(set(listed) - still):
                if Confirm.WITHDRAWALS in self.confirmed:
                    self.note(Change(kind=kind, key=listed[key], step=Step.WITHDRAWN))
                else:
                    why = "it is no longer listed"
                    self.note(Change(kind=kind, key=listed[key], step=Step.HELD, why=why, needs=Confirm.WITHDRAWALS))


def difference(
    known: Known, stated: Records, *, now: datetime, confirmed: Collection[Confirm] = frozenset()
) -> Difference:
    """What importing `stated` over `known` does. Pure.

    Raises `DocumentFaults` for a document that is older than the last one, and for DOIs that another source states.
    """
    faults = [
        Fault(f"$.datasets[{place}].doi", f"is stated by another source already: {known.others[one.key]}")
        for place, one in enumerate(stated.datasets)
        if one.key in known.others
    ]
    if known.imported_at is not None and stated.harvested_at < known.imported_at:
        # An old file would undo what a newer one said, embargoes among it.
        last = f"{known.imported_at:%Y-%m-%d %H:%M:%S} UTC"
        faults.append(Fault("$.harvested_at", f"is earlier than that of the last import, {last}"))
    if faults:
        raise DocumentFaults(faults)

    compared = _Comparison(known, stated, confirmed, now)
    for facility in stated.facilities:
        compared.facility(facility)
    for instrument in stated.instruments:
        before = known.instruments.get(instrument.key)
        compared.plain("instrument", instrument.key, before, instrument, without=("scientists",))
    for technique in stated.techniques:
        compared.plain("technique", technique.pid, known.techniques.get(technique.pid), technique)
    for experiment in stated.experiments:
        compared.experiment(experiment)
    compared.teams()
    for dataset in stated.datasets:
        compared.dataset(dataset)
    compared.withdrawn()
    return Difference(changes=tuple(compared.changes), unchanged=compared.unchanged)


def _person(row: InstrumentScientist | Participant, role: str = "") -> StatedPerson:
    return StatedPerson(issuer=row.issuer, subject=row.subject, voperson_id=row.voperson_id, role=role)


def _stated(row: Dataset) -> StatedDataset:
    return StatedDataset(
        key=row.key,
        minted=row.minted,
        kind=str(row.kind),
        title=row.title,
        creators=tuple(row.creators),
        publisher=row.publisher,
        publication_year=row.publication_year,
        licence=row.licence,
        facility=row.facility.slug,
        instrument=f"{row.instrument.facility.slug}/{row.instrument.slug}" if row.instrument else "",
        experiment=row.experiment.source_key if row.experiment else "",
        techniques=tuple(sorted(one.pid for one in row.techniques.all())),
        size_bytes=row.size_bytes,
        files=row.files,
        path=row.path,
        landing_url=row.landing_url,
        contact=row.contact,
        metadata_public=row.metadata_public,
        available=tuple(row.available),
        withdrawn=tuple(row.withdrawn),
        rights=tuple(row.rights),
        flags=tuple(sorted(row.flags.items())),
        tombstone=row.tombstone,
    )


def known_of(slug: str, keys: Collection[str]) -> Known:
    """What is known of the source with this slug, and which of `keys` (folded DOIs) another source states.

    A constant number of queries.
    """
    source = Source.objects.filter(slug=slug).first()
    experiments = (
        Experiment.objects.filter(source__slug=slug)
        .select_related("instrument__facility")
        .prefetch_related("participants")
    )
    datasets = list(
        Dataset.objects.filter(source__slug=slug)
        .select_related("source", "facility", "instrument__facility", "experiment")
        .prefetch_related("techniques")
    )
    instruments = {}
    for row in Instrument.objects.select_related("facility").prefetch_related("scientists"):
        found = StatedInstrument(
            facility=row.facility.slug,
            slug=row.slug,
            name=row.name,
            scientists=tuple(sorted(_person(one) for one in row.scientists.all())),
        )
        instruments[found.key] = found
    return Known(
        trusts_flags=bool(source and source.trusts_flags),
        imported_at=source.imported_at if source else None,
        facilities={
            row.slug: StatedFacility(slug=row.slug, name=row.name, timezone=row.timezone, contact=row.contact)
            for row in Facility.objects.all()
        },
        instruments=instruments,
        techniques={row.pid: StatedTechnique(pid=row.pid, name=row.name) for row in Technique.objects.all()},
        experiments={
            row.source_key: StatedExperiment(
                key=row.source_key,
                proposal=row.proposal,
                title=row.title,
                instrument=f"{row.instrument.facility.slug}/{row.instrument.slug}",
                start=row.start,
                end=row.end,
                participants=tuple(sorted(_person(one, str(one.role)) for one in row.participants.all())),
            )
            for row in experiments
        },
        datasets={row.key: _stated(row) for row in datasets},
        ruled={
            row.key: Ruled(ruling=openness.Ruling(row.ruling) if row.ruling else None, harvested_at=row.harvested_at)
            for row in datasets
        },
        withdrawn_experiments=frozenset(row.source_key for row in experiments if row.withdrawn_at),
        withdrawn_datasets=frozenset(row.key for row in datasets if row.withdrawn_at),
        others={
            row.key: row.source.name
            for row in Dataset.objects.filter(key__in=keys).exclude(source__slug=slug).select_related("source")
        },
        places=tuple(
            Place(
                path=row.path,
                key=row.key,
                minted=row.minted,
                window=openness.window(row.facts()),
                team=(row.source.slug, row.experiment.source_key if row.experiment else ""),
            )
            for row in Dataset.objects.exclude(path="").select_related("source", "facility", "experiment")
        ),
    )


def preview(stated: Records, *, confirmed: Collection[Confirm] = frozenset()) -> Difference:
    """What `import_records` would do. Changes nothing. Raises `DocumentFaults`."""
    known = known_of(stated.source, [one.key for one in stated.datasets])
    return difference(known, stated, now=timezone.now(), confirmed=confirmed)


@transaction.atomic
def import_records(stated: Records, *, confirmed: Collection[Confirm] = frozenset()) -> Difference:
    """Bring the records in, all that is not held back, in one transaction; the answer says what was done.

    Raises `DocumentFaults`, and then nothing was changed.
    """
    Source.objects.get_or_create(slug=stated.source, defaults={"name": stated.source_name})
    # Two imports of one source come one after the other: each compares with what the other left.
    source = Source.objects.select_for_update().get(slug=stated.source)
    found = preview(stated, confirmed=confirmed)
    _Writer(source, stated, found).write()
    Source.objects.filter(pk=source.pk).update(name=stated.source_name, imported_at=stated.harvested_at)
    for change in found.changes:
        words = ", ".join([*change.names, *filter(None, [change.why])])
        log.info("import of %s: %s %s %s: %s", source.slug, change.step, change.kind, change.key, words)
    _record(source.slug, found, confirmed)
    return found


def _record(source: str, found: Difference, confirmed: Collection[Confirm]) -> None:
    """The import in the audit trail: its numbers, and each record that was held back or withdrawn, up to a bound."""
    counts = {step.value: len(found.of(step)) for step in Step} | {"unchanged": found.unchanged}
    deeds = [
        Deed(
            action="import.apply",
            kind="source",
            object_id=source,
            detail=counts | {"confirmed": sorted(confirm.value for confirm in confirmed)},
        )
    ]
    deeds += [
        Deed(
            action="import.hold" if change.step is Step.HELD else "import.withdraw",
            kind=change.kind,
            object_id=change.key,
            reason=change.needs.value if change.needs else "",
            detail={"source": source, "fields": list(change.names)},
        )
        for step in (Step.HELD, Step.WITHDRAWN)
        for change in found.of(step)[:RECORDED]
    ]
    trail.record_all(deeds)


class _Writer:
    """Writes what a difference takes. Rows of facilities and others are read once, by their keys."""

    def __init__(self, source: Source, stated: Records, found: Difference) -> None:
        self.source, self.stated = source, stated
        self.taken = {(change.kind, change.key) for change in found.changes if change.step is not Step.HELD}
        self.held = {(change.kind, change.key) for change in found.changes if change.step is Step.HELD}
        self.gone = {(change.kind, change.key) for change in found.of(Step.WITHDRAWN)}

    def write(self) -> None:
        for one in self.stated.facilities:
            if ("facility", one.slug) in self.taken:
                Facility.objects.update_or_create(
                    slug=one.slug, defaults={"name": one.name, "timezone": one.timezone, "contact": one.contact}
                )
        facilities = {row.slug: row for row in Facility.objects.all()}
        for each in self.stated.instruments:
            if ("instrument", each.key) in self.taken:
                Instrument.objects.update_or_create(
                    facility=facilities[each.facility], slug=each.slug, defaults={"name": each.name}
                )
        instruments = {f"{row.facility.slug}/{row.slug}": row for row in Instrument.objects.select_related("facility")}
        for technique in self.stated.techniques:
            if ("technique", technique.pid) in self.taken:
                Technique.objects.update_or_create(pid=technique.pid, defaults={"name": technique.name})
        self._experiments(instruments)
        self._people(instruments)
        self._datasets(facilities, instruments)
        self._withdraw()

    def _experiments(self, instruments: Mapping[str, Instrument]) -> None:
        for one in self.stated.experiments:
            if ("experiment", one.key) in self.taken:
                Experiment.objects.update_or_create(
                    source=self.source,
                    source_key=one.key,
                    defaults={
                        "proposal": one.proposal,
                        "title": one.title,
                        "instrument": instruments[one.instrument],
                        "start": one.start,
                        "end": one.end,
                        "withdrawn_at": None,
                    },
                )

    def _people(self, instruments: Mapping[str, Instrument]) -> None:
        rows = {row.source_key: row for row in Experiment.objects.filter(source=self.source)}
        for one in self.stated.experiments:
            if ("team", one.key) in self.taken:
                Participant.objects.filter(experiment=rows[one.key]).delete()
                Participant.objects.bulk_create(
                    Participant(
                        experiment=rows[one.key],
                        issuer=person.issuer,
                        subject=person.subject,
                        voperson_id=person.voperson_id,
                        role=person.role,
                    )
                    for person in one.participants
                )
        for each in self.stated.instruments:
            if ("scientists", each.key) in self.taken:
                instrument = instruments[each.key]
                InstrumentScientist.objects.filter(instrument=instrument).delete()
                InstrumentScientist.objects.bulk_create(
                    InstrumentScientist(
                        instrument=instrument,
                        issuer=person.issuer,
                        subject=person.subject,
                        voperson_id=person.voperson_id,
                    )
                    for person in each.scientists or ()
                )

    def _datasets(self, facilities: Mapping[str, Facility], instruments: Mapping[str, Instrument]) -> None:
        rows = {row.key: row for row in Dataset.objects.filter(source=self.source)}
        experiments = {row.source_key: row for row in Experiment.objects.filter(source=self.source)}
        techniques = {row.pid: row for row in Technique.objects.all()}
        for one in self.stated.datasets:
            if ("dataset", one.minted) in self.held:
                continue
            row = rows.get(one.key) or Dataset(key=one.key)
            row.source, row.harvested_at = self.source, self.stated.harvested_at
            row.facility = facilities[one.facility]
            if ("dataset", one.minted) in self.taken:
                row.withdrawn_at = None
                row.instrument = instruments[one.instrument] if one.instrument else None
                row.experiment = experiments[one.experiment] if one.experiment else None
                row.flags = dict(one.flags)
                for name in _PLAIN:
                    setattr(row, name, getattr(one, name))
                for name in ("creators", "available", "withdrawn", "rights"):
                    setattr(row, name, list(getattr(one, name)))
                row.save()
                row.techniques.set([techniques[pid] for pid in one.techniques])
            elif row.flags:
                # A flag is a statement of its harvest, and was made again.
                row.save(update_fields=["harvested_at", "opens_at", "closes_at"])

    def _withdraw(self) -> None:
        now = timezone.now()
        for kind, key in self.gone:
            if kind == "experiment":
                Experiment.objects.filter(source=self.source, source_key=key).update(withdrawn_at=now)
            else:
                dataset = Dataset.objects.get(source=self.source, minted=key)
                dataset.withdrawn_at = now
                dataset.save()


_PLAIN = (
    "minted",
    "kind",
    "title",
    "publisher",
    "publication_year",
    "licence",
    "size_bytes",
    "files",
    "path",
    "landing_url",
    "contact",
    "metadata_public",
    "tombstone",
)
