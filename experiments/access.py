"""The only door from a person to data: who may see a dataset or an experiment, and who may work with it.

The rule, in one place:

- Open data: anybody may see them, anybody signed in may work with them.
- Closed data: the experiment's team and the scientists of its instrument may see and work with them. Strangers see the
  description where the record says that it is public; else the DOI looks unknown, in every answer alike.
- Nobody sees data by being an administrator: a role in the platform is no membership of a team.
- Withdrawn data, and what is not data, nobody can work with.

One queryset, `_visible_to`, stands before every answer. Values leave this room, rows do not.
"""

import unicodedata
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, tzinfo
from enum import StrEnum
from typing import Generic, TypeVar

from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.db.models import Prefetch, Q, QuerySet
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from experiments import doi, mounts, openness
from experiments.doi import Doi, MalformedDoi
from experiments.models import Dataset, DatasetQuerySet, Experiment, InstrumentScientist, Participant
from experiments.mounts import Mount, UnsafePath
from experiments.openness import Reason, Verdict
from visa.accounts.models import Identity, User
from visa.errors import Conflict, Invalid, NotAllowed, NotFound, Unavailable

Person = User | AnonymousUser | None
T = TypeVar("T")

#: what a search reads of its text
LONGEST_SEARCH, MOST_WORDS = 200, 8


class NotADoi(Invalid):
    """The text is no DOI."""

    code = "malformed_doi"


class UnknownDoi(NotFound):
    """No record of this DOI, or none that this person may know of."""

    code = "unknown_doi"


class DatasetClosed(NotAllowed):
    """The data are not open, and this person is not of the team."""

    code, title = "dataset_closed", gettext_noop("These data are not open")


class DatasetElsewhere(Conflict):
    """The data are open, but not held by this site."""

    code, title = "dataset_elsewhere", gettext_noop("These data are held elsewhere")


class NotData(Conflict):
    """The DOI names an instrument, an award or a text."""

    code, title = "not_data", gettext_noop("This DOI does not name data")


class StorageUnknown(Unavailable):
    """This process is not told where the site's storage is, or the record names no usable path."""

    code = "storage_unknown"


@dataclass(frozen=True, kw_only=True)
class TechniqueRecord:
    """A technique; `pid` is its persistent identifier."""

    pid: str
    name: str


@dataclass(frozen=True, kw_only=True)
class DatasetRecord:
    """The description of a dataset. `path` is the DOI as part of an address, `url` its address at doi.org.

    `here` says whether this site holds the data; `size_bytes` and `files` are None where unknown.
    """

    id: int
    public_id: uuid.UUID
    minted: str
    key: str
    path: str
    url: str
    kind: str
    title: str
    creators: tuple[str, ...]
    publisher: str
    publication_year: int | None
    licence: str
    facility: str
    instrument: str
    techniques: tuple[TechniqueRecord, ...]
    size_bytes: int | None
    files: int | None
    landing_url: str
    contact: str
    here: bool


class Outcome(StrEnum):
    """Which page a DOI gets."""

    OPEN = "open"
    TEAM = "team"
    CLOSED = "closed"
    ELSEWHERE = "elsewhere"
    NOT_DATA = "not_data"


@dataclass(frozen=True, kw_only=True)
class DatasetPage:
    """A dataset as one person may see it.

    `why` is a sentence with the reason, `way_out` one that says what would work (empty where nothing is in the way).
    `may_launch` is about this person now; where only signing in is missing, `sign_in` is true. `opens_on` is `opens_at`
    as a day in the facility's zone. `experiment` is told to the team alone.
    """

    dataset: DatasetRecord
    outcome: Outcome
    verdict: Verdict
    may_launch: bool
    sign_in: bool
    why: str
    way_out: str
    opens_on: date | None
    experiment: uuid.UUID | None


@dataclass(frozen=True, kw_only=True)
class LaunchableDataset:
    """A dataset this person may work with now, and what their machine mounts."""

    id: int
    public_id: uuid.UUID
    minted: str
    key: str
    path: str
    title: str
    mounts: tuple[Mount, ...]


@dataclass(frozen=True, kw_only=True)
class DatasetRow:
    """A dataset in a list. `opens_at` says from when, where that is known; `opens_on` is its day at the facility."""

    dataset: DatasetRecord
    open: bool
    reason: Reason
    opens_at: datetime | None
    opens_on: date | None


@dataclass(frozen=True, kw_only=True)
class ExperimentRow:
    """An experiment of one's own. `role` is the person's part in it, `team` its number of members."""

    public_id: uuid.UUID
    proposal: str
    title: str
    facility: str
    instrument: str
    start: date | None
    end: date | None
    role: str
    team: int
    datasets: tuple[DatasetRow, ...]


@dataclass(frozen=True, kw_only=True)
class Page(Generic[T]):
    """A part of a list, and how long the whole is: counted after filtering."""

    items: tuple[T, ...]
    total: int


def _identities(person: Person) -> tuple[Identity, ...]:
    """How this person may be named in records; none for somebody signed out or no longer active."""
    if not isinstance(person, User) or not person.is_active:
        return ()
    return tuple(person.identities.all())


def _names(identities: Iterable[Identity], prefix: str = "") -> Q:
    """The condition that a record names one of these identities; never true for none of them."""
    condition = Q(pk__in=[])
    for identity in identities:
        condition |= Q(**{f"{prefix}issuer": identity.issuer, f"{prefix}subject": identity.subject})
        if identity.voperson_id:
            condition |= Q(**{f"{prefix}issuer": identity.issuer, f"{prefix}voperson_id": identity.voperson_id})
    return condition


def _teams(identities: tuple[Identity, ...]) -> Q:
    """The condition that an experiment is theirs: as a member of its team, or as a scientist of its instrument."""
    if not identities:
        return Q(pk__in=[])
    return Q(pk__in=Participant.objects.filter(_names(identities)).values("experiment")) | Q(
        instrument__in=InstrumentScientist.objects.filter(_names(identities)).values("instrument")
    )


def _own_experiments(identities: tuple[Identity, ...]) -> QuerySet[Experiment]:
    return Experiment.objects.filter(_teams(identities), withdrawn_at__isnull=True)


def _own(identities: tuple[Identity, ...]) -> Q:
    """The condition that a dataset is theirs: of their experiment, or measured at their instrument."""
    if not identities:
        return Q(pk__in=[])
    return Q(experiment__in=_own_experiments(identities)) | Q(
        instrument__in=InstrumentScientist.objects.filter(_names(identities)).values("instrument")
    )


def _visible_to(identities: tuple[Identity, ...], now: datetime) -> DatasetQuerySet:
    """Every dataset this person may know of at `now`. No other query of datasets answers a person."""
    open_now = Dataset.objects.open_at(now)
    return Dataset.objects.filter(Q(pk__in=open_now.values("pk")) | Q(metadata_public=True) | _own(identities))


_WITH = ("source", "facility", "instrument")


def _record(row: Dataset) -> DatasetRecord:
    name = Doi(minted=row.minted, key=row.key)
    return DatasetRecord(
        id=row.pk,
        public_id=row.public_id,
        minted=row.minted,
        key=row.key,
        path=doi.path(name),
        url=doi.url(name),
        kind=row.kind,
        title=row.title,
        creators=tuple(row.creators),
        publisher=row.publisher,
        publication_year=row.publication_year,
        licence=row.licence,
        facility=row.facility.name,
        instrument=row.instrument.name if row.instrument else "",
        techniques=tuple(TechniqueRecord(pid=one.pid, name=one.name) for one in row.techniques.all()),
        size_bytes=row.size_bytes,
        files=row.files,
        landing_url=row.landing_url,
        contact=row.contact or row.facility.contact,
        here=bool(row.path),
    )


def _row(row: Dataset, now: datetime) -> DatasetRow:
    verdict = row.verdict(now)
    return DatasetRow(
        dataset=_record(row),
        open=verdict.open,
        reason=verdict.reason,
        opens_at=verdict.opens_at,
        opens_on=_opens_on(verdict, row),
    )


def _day(moment: datetime, row: Dataset) -> date:
    """The day of a moment where the facility is; the day of that name opens there at midnight."""
    zone: tzinfo = openness.zone_named(row.facility.timezone) or openness.LATEST_ZONE
    return moment.astimezone(zone).date()


def _opens_on(verdict: Verdict, row: Dataset) -> date | None:
    return _day(verdict.opens_at, row) if verdict.opens_at is not None else None


def _why_closed(reason: Reason, opens_on: date | None) -> str:
    if reason is Reason.EMBARGO and opens_on is not None:
        return _("These data are under embargo. They open on %(day)s.") % {"day": date_format(opens_on, "DATE_FORMAT")}
    return {
        Reason.EMBARGO: _("These data are under embargo, without a known end."),
        Reason.RESTRICTED: _("These data are restricted by their facility."),
        Reason.WITHDRAWN: _("These data were withdrawn."),
        Reason.NOT_PUBLISHED: _("These data are not published by their facility."),
        Reason.SITE_CLOSED: _("These data were closed by this site."),
        Reason.UNREADABLE_DATE: _(
            "The record of these data gives a date that cannot be read, so they count as closed."
        ),
    }.get(reason, _("The record of these data does not say when they open, so they count as closed."))


def parse(text: str) -> Doi:
    """The DOI in `text`. Raises `NotADoi` with the reason and what one looks like."""
    try:
        return doi.parse(text)
    except MalformedDoi as error:
        reasons = {
            doi.Fault.EMPTY: _("There is no DOI."),
            doi.Fault.TOO_LONG: _("This is too long for a DOI."),
            doi.Fault.CONTROL: _("There are characters in it that no DOI has."),
            doi.Fault.NO_PREFIX: _("A DOI begins with “10.”, a number and a slash; this does not."),
            doi.Fault.NO_SUFFIX: _("Nothing stands after the slash of this DOI."),
            doi.Fault.SPACE: _("There is a space inside this DOI."),
        }
        raise NotADoi(
            reasons[error.fault],
            way_out=_("A DOI looks like 10.5291/ILL-DATA.8-02-912, or https://doi.org/10.5291/ILL-DATA.8-02-912."),
            field="doi",
            detail={"fault": error.fault.value},
        ) from error


def _found(identities: tuple[Identity, ...], person: Person, text: str, now: datetime) -> Dataset:
    """The row a text names, exactly first and then without punctuation at its end. Raises `NotADoi`, `UnknownDoi`."""
    asked = parse(text)
    keys = [candidate.key for candidate in doi.candidates(asked)]
    rows = {row.key: row for row in _visible_to(identities, now).filter(key__in=keys).select_related(*_WITH)}
    for key in keys:
        if key in rows:
            return rows[key]
    # The same words for what is not there and for what this person may not know of; the DOI as it was asked.
    way_out = _("Check the DOI for a slip. Data that are not open are shown to their team only.")
    if not isinstance(person, User):
        way_out += " " + _("If they are your team’s, sign in first.")
    raise UnknownDoi(
        _("Nothing is known here under the DOI %(doi)s.") % {"doi": asked.minted}, way_out=way_out, field="doi"
    )


def _page(row: Dataset, identities: tuple[Identity, ...], person: Person, now: datetime) -> DatasetPage:
    verdict = row.verdict(now)
    own = Dataset.objects.filter(_own(identities), pk=row.pk).exists() if identities else False
    signed_in = isinstance(person, User) and person.is_active
    contact = row.contact or row.facility.contact
    opens_on = _opens_on(verdict, row)

    why, way_out, free = "", "", False
    if verdict.reason is Reason.NOT_DATA:
        outcome = Outcome.NOT_DATA
        why = _("This DOI does not name data but something else: %(kind)s.") % {"kind": row.get_kind_display()}
        way_out = _("There is nothing to open here. Its own page tells more.")
    elif not verdict.open and (not own or verdict.reason is Reason.WITHDRAWN):
        outcome = Outcome.CLOSED
        why = _why_closed(verdict.reason, opens_on)
        if contact:
            way_out = _("Ask %(contact)s about them.") % {"contact": contact}
        if not signed_in and verdict.reason is not Reason.WITHDRAWN:
            way_out = (way_out + " " + _("If you are of the team, sign in first.")).strip()
    elif not row.path:
        outcome = Outcome.ELSEWHERE
        why = _("These data are not held by this site, so no machine here can read them.")
        way_out = _("Their own page says how to get them.")
    else:
        outcome, free = (Outcome.OPEN if verdict.open else Outcome.TEAM), True
        why = _("These data are open.") if verdict.open else _("These data are not open, but they are your team’s.")
        if not signed_in:
            way_out = _("Sign in to work with them.")
    return DatasetPage(
        dataset=_record(row),
        outcome=outcome,
        verdict=verdict,
        may_launch=free and signed_in,
        sign_in=free and not signed_in,
        why=why,
        way_out=way_out,
        opens_on=opens_on,
        experiment=row.experiment.public_id if own and row.experiment is not None else None,
    )


def dataset_for(person: Person, text: str) -> DatasetPage:
    """The dataset a text names, as this person may see it.

    Raises `NotADoi` for what is no DOI and `UnknownDoi` for what this person may not know of. Closed data whose
    description is public, data held elsewhere and what is not data are answers, told by `outcome`.
    """
    now, identities = timezone.now(), _identities(person)
    return _page(_found(identities, person, text, now), identities, person, now)


def launchable(person: User, text: str) -> LaunchableDataset:
    """The dataset a text names, if this person may work with it at this very moment.

    Raises `NotADoi`, `UnknownDoi`, `DatasetClosed`, `DatasetElsewhere`, `NotData`, `StorageUnknown`.
    """
    now, identities = timezone.now(), _identities(person)
    return _launchable(_found(identities, person, text, now), identities, person, now)


def still_launchable(person: User, dataset_id: int) -> LaunchableDataset:
    """The same by the dataset's id: asked again where time has passed since the launch was accepted."""
    now, identities = timezone.now(), _identities(person)
    row = _visible_to(identities, now).filter(pk=dataset_id).select_related(*_WITH).first()
    if row is None:
        raise UnknownDoi(_("These data are not known here any more."))
    return _launchable(row, identities, person, now)


def _launchable(row: Dataset, identities: tuple[Identity, ...], person: User, now: datetime) -> LaunchableDataset:
    verdict = row.verdict(now)
    if verdict.open and row.path and person.is_active:
        return _to_launch(row)  # open data that are here: whose they are need not be asked
    page = _page(row, identities, person, now)
    refusals = {
        Outcome.CLOSED: DatasetClosed,
        Outcome.ELSEWHERE: DatasetElsewhere,
        Outcome.NOT_DATA: NotData,
    }
    if page.outcome in refusals or not page.may_launch:
        detail = {
            "doi": row.minted,
            "reason": page.verdict.reason.value,
            "opens_at": page.verdict.opens_at.isoformat() if page.verdict.opens_at else None,
            "landing_url": row.landing_url,
        }
        refusal = refusals.get(page.outcome, DatasetClosed)
        raise refusal(page.why, way_out=page.way_out, field="doi", detail=detail)
    return _to_launch(row)


def _to_launch(row: Dataset) -> LaunchableDataset:
    return LaunchableDataset(
        id=row.pk,
        public_id=row.public_id,
        minted=row.minted,
        key=row.key,
        path=doi.path(Doi(minted=row.minted, key=row.key)),
        title=row.title,
        mounts=_mounts(row),
    )


def _mounts(row: Dataset) -> tuple[Mount, ...]:
    data = settings.ENVIRONMENT.data
    if not data.source:
        raise StorageUnknown(_("This site’s storage is not set up."), way_out=_("Tell the people who run this site."))
    try:
        return mounts.mounts(row.path, row.key, source=data.source, fstype=data.fstype)
    except UnsafePath as error:
        # The import refuses such a path, so this is a row written by hand.
        raise StorageUnknown(
            _("The record of these data names no usable place."), way_out=_("Tell the people who run this site.")
        ) from error


def datasets_by_id(person: Person, ids: Iterable[int]) -> dict[int, DatasetRow]:
    """Descriptions of several datasets at once, as far as this person may know of them; for lists of machines."""
    now, identities = timezone.now(), _identities(person)
    rows = _visible_to(identities, now).filter(pk__in=list(ids)).select_related(*_WITH).prefetch_related("techniques")
    return {row.pk: _row(row, now) for row in rows}


def search_open(text: str = "", *, offset: int = 0, limit: int = 50) -> Page[DatasetRow]:
    """Open data whose title, DOI, facility, instrument or technique has every word of `text`; all for no word.

    The same for everybody, signed in or not. Newest publication first.
    """
    now = timezone.now()
    found = Dataset.objects.open_at(now).filter(_matches(text))
    return _part(found, now, offset, limit)


def datasets_of(person: Person, text: str = "", *, offset: int = 0, limit: int = 50) -> Page[DatasetRow]:
    """The datasets of one's own experiments and instruments, open or not."""
    now, identities = timezone.now(), _identities(person)
    found = _visible_to(identities, now).filter(_own(identities), _matches(text))
    return _part(found, now, offset, limit)


def _part(found: DatasetQuerySet, now: datetime, offset: int, limit: int) -> Page[DatasetRow]:
    rows = (
        found.select_related(*_WITH)
        .prefetch_related("techniques")
        .order_by("-publication_year", "title", "key")[offset : offset + limit]
    )
    return Page(items=tuple(_row(row, now) for row in rows), total=found.count())


def _matches(text: str) -> Q:
    """The condition that a dataset has every word, or is the DOI that the text is in some spelling."""
    readable = "".join(one if unicodedata.category(one)[0] != "C" else " " for one in text[:LONGEST_SEARCH])
    try:
        keys = [candidate.key for candidate in doi.candidates(doi.parse(readable))]
    except MalformedDoi:
        keys = []
    if keys:
        return Q(key__in=keys) | Q(key__startswith=keys[-1])
    condition = Q()
    for word in readable.split()[:MOST_WORDS]:
        condition &= (
            Q(title__icontains=word)
            | Q(key__contains=doi.fold(word))
            | Q(facility__name__icontains=word)
            | Q(instrument__name__icontains=word)
            # a subquery, so that a dataset with several techniques is found once
            | Q(pk__in=Dataset.techniques.through.objects.filter(technique__name__icontains=word).values("dataset"))
        )
    return condition


def experiments_visible_to(person: Person, *, offset: int = 0, limit: int = 50) -> Page[ExperimentRow]:
    """One's own experiments with their datasets, the latest first; none for somebody signed out."""
    now, identities = timezone.now(), _identities(person)
    found = _own_experiments(identities)
    part = found.select_related("instrument__facility").prefetch_related(
        "participants",
        Prefetch(
            "datasets",
            _visible_to(identities, now).select_related(*_WITH).prefetch_related("techniques").order_by("key"),
        ),
    )
    rows = part.order_by("-end", "-start", "source_key")[offset : offset + limit]
    return Page(items=tuple(_experiment(row, identities, now) for row in rows), total=found.count())


def experiment_for(person: Person, public_id: uuid.UUID) -> ExperimentRow:
    """One experiment of one's own. Raises `NotFound` for any other, whether it exists or not."""
    now, identities = timezone.now(), _identities(person)
    row = (
        _own_experiments(identities)
        .filter(public_id=public_id)
        .select_related("instrument__facility")
        .prefetch_related(
            "participants",
            Prefetch(
                "datasets",
                _visible_to(identities, now).select_related(*_WITH).prefetch_related("techniques").order_by("key"),
            ),
        )
        .first()
    )
    if row is None:
        raise NotFound(_("There is no such experiment among yours."))
    return _experiment(row, identities, now)


def _experiment(row: Experiment, identities: tuple[Identity, ...], now: datetime) -> ExperimentRow:
    pairs = {(one.issuer, one.subject) for one in identities}
    ids = {(one.issuer, one.voperson_id) for one in identities if one.voperson_id}
    team = list(row.participants.all())
    mine = [one for one in team if (one.issuer, one.subject) in pairs or (one.issuer, one.voperson_id) in ids]
    role = Participant.Role(mine[0].role) if mine else Participant.Role.INSTRUMENT_SCIENTIST
    return ExperimentRow(
        public_id=row.public_id,
        proposal=row.proposal,
        title=row.title,
        facility=row.instrument.facility.name,
        instrument=row.instrument.name,
        start=row.start,
        end=row.end,
        role=str(role.label),
        team=len(team),
        datasets=tuple(_row(dataset, now) for dataset in row.datasets.all()),
    )
