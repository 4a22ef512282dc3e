"""What templates are given: the values of the rooms below with the words a page needs. No queries, no decisions."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

from django.urls import reverse
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from experiments import doi
from experiments.access import DatasetRow
from instances.access import EventView, InstanceView
from instances.lifecycle import State
from quotas.allowances import Standing, amount
from quotas.arithmetic import DIMENSIONS

#: states in which something is on its way
BUSY = frozenset(
    {
        *(State.WAITING, State.BUILDING, State.STARTING, State.STOPPING, State.REBOOTING, State.RESIZING),
        State.DELETING,
    }
)


def spoken(seconds: int) -> str:
    """A length of time in the words of a page: "38 s", "2 min 5 s", "1 h 4 min"."""
    minutes, rest = divmod(max(0, seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return _("%(hours)s h %(minutes)s min") % {"hours": hours, "minutes": minutes}
    if minutes:
        return _("%(minutes)s min %(seconds)s s") % {"minutes": minutes, "seconds": rest}
    return _("%(seconds)s s") % {"seconds": rest}


def memory(mib: int) -> str:
    """An amount of memory: whole MiB below one GiB, else GiB with at most one place."""
    if 0 < mib < 1024:
        return _("%(n)s MiB") % {"n": number_format(mib)}
    gib = mib / 1024
    return _("%(n)s GiB") % {"n": number_format(round(gib, 1), 0 if gib == round(gib) else 1)}


def holds(cores: int, memory_mib: int, gpus: int) -> str:
    """What a machine of some size holds, in one line."""
    parts = [ngettext("%(n)s core", "%(n)s cores", cores) % {"n": cores}, memory(memory_mib)]
    if gpus:
        parts.append(ngettext("%(n)s GPU", "%(n)s GPUs", gpus) % {"n": gpus})
    return " · ".join(parts)


def size(count: int) -> str:
    """An amount of data in decimal units, as facilities count: "911 GB"."""
    units = (_("%(n)s bytes"), _("%(n)s kB"), _("%(n)s MB"), _("%(n)s GB"), _("%(n)s TB"), _("%(n)s PB"))
    number, place = float(count), 0
    while number >= 999.5 and place < len(units) - 1:
        number, place = number / 1000, place + 1
    places = 1 if place and number < 9.95 else 0
    return units[place] % {"n": number_format(round(number, places), places)}


def address_of(text: str) -> str:
    """The page of a dataset by its DOI; empty where the text is none."""
    try:
        return reverse("instances:dataset-home") + doi.path(doi.parse(text))
    except doi.MalformedDoi:
        return ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A dataset in a list; `size` in words, empty where unknown."""

    row: DatasetRow
    size: str


def lines(rows: Iterable[DatasetRow]) -> tuple[Line, ...]:
    """Datasets as a list shows them."""
    return tuple(
        Line(row=one, size=size(one.dataset.size_bytes) if one.dataset.size_bytes is not None else "") for one in rows
    )


@dataclass(frozen=True, kw_only=True)
class Machine(InstanceView):
    """A machine as a page shows it."""

    @classmethod
    def of(cls, view: InstanceView) -> "Machine":
        return cls(**{one.name: getattr(view, one.name) for one in fields(InstanceView)})

    @property
    def tone(self) -> str:
        """What its chip is coloured by: its state, or that something is missing in it."""
        return "partial" if self.faults and self.state is State.ACTIVE else str(self.state)

    @property
    def busy(self) -> bool:
        return self.state in BUSY

    @property
    def holds(self) -> str:
        return holds(self.cores, self.memory_mib, self.gpus)

    @property
    def dataset_url(self) -> str:
        return address_of(self.dataset_doi) if self.dataset_doi else ""

    @property
    def launch_url(self) -> str:
        """Where a machine that is gone is started anew; empty for one that is still there."""
        if self.state is not State.GONE or not self.is_owner or not self.dataset_url:
            return ""
        return reverse("instances:launch-home") + self.dataset_url.removeprefix(reverse("instances:dataset-home"))

    @property
    def to_be_deleted(self) -> bool:
        """Whether deleting it is the one thing left to do."""
        return self.state is State.ERROR and not self.can_start and self.can_delete

    @property
    def can_do(self) -> bool:
        """Whether there is anything to press."""
        return bool(
            self.can_start
            or self.can_stop
            or self.can_reboot
            or (self.starting and self.can_delete)
            or self.launch_url
            or self.to_be_deleted
        )

    @property
    def headline(self) -> str:
        """What it is doing, in one sentence."""
        return {
            State.WAITING: _("The machine waits for its turn"),
            State.PAUSED: _("The machine was paused by an operator"),
            State.SHELVED: _("The machine was set aside by an operator; its files are kept"),
            State.RESIZING: _("The machine is being resized or moved"),
            State.UNKNOWN: _("The machine was not seen for a while"),
            State.BUILDING: _("The machine is starting"),
            State.STARTING: _("The machine is starting"),
            State.ACTIVE: self._ready_words,
            State.STOPPING: _("The machine is shutting down"),
            State.STOPPED: _("The machine is off; its files are kept"),
            State.REBOOTING: _("The machine is restarting"),
            State.DELETING: _("The machine is being deleted"),
            State.DELETED: _("This machine was deleted"),
            State.ERROR: _("A step failed"),
            State.GONE: _("This machine no longer exists"),
        }[self.state]

    @property
    def _ready_words(self) -> str:
        if not self.faults:
            return _("The machine is ready")
        return _("Desktop ready, but %(fault)s") % {"fault": self.faults[0].words}

    @property
    def place_words(self) -> str:
        """Where it stands in line."""
        if self.place is None:
            return ""
        return _("It is next.") if self.place == 1 else _("Number %(place)s in line.") % {"place": self.place}

    @property
    def usual_words(self) -> str:
        return spoken(self.usual_seconds) if self.usual_seconds is not None else ""

    @property
    def so_far_words(self) -> str:
        return spoken(self.seconds_so_far)

    @property
    def took_words(self) -> str:
        """How long its first start took."""
        if self.ready_at is None:
            return ""
        return spoken(round((self.ready_at - self.created_at).total_seconds()))

    @property
    def story(self) -> tuple[EventView, ...]:
        """What happened, the newest first."""
        return tuple(reversed(self.events))


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One dimension of an allowance, now and after a launch; percentages of the limit, at most 100."""

    name: str
    now_words: str
    now_percent: int
    then_words: str
    then_percent: int
    over: bool


def bars(now: Standing, then: Standing | None = None) -> tuple[Bar, ...]:
    """The bars of an allowance. A dimension that is neither allowed, used nor asked for has none."""
    names = {"machines": _("Machines"), "cores": _("Cores"), "memory_mib": _("Memory"), "gpus": _("GPUs")}
    shown = []
    for dimension in DIMENSIONS:
        limit, used = getattr(now.limit, dimension), getattr(now.used, dimension)
        after = getattr(then.used, dimension) if then else used
        if not (limit or used or after):
            continue
        shown.append(
            Bar(
                name=names[dimension],
                now_words=_("%(used)s of %(limit)s in use")
                % {"used": _number(dimension, used), "limit": _number(dimension, limit)},
                now_percent=_percent(used, limit),
                then_words=_then(dimension, after, limit) if then else "",
                then_percent=_percent(after, limit),
                over=after > limit,
            )
        )
    return tuple(shown)


def _then(dimension: str, after: int, limit: int) -> str:
    if after > limit:
        return _("%(over)s too many") % {"over": amount(dimension, after - limit)}
    return _("%(after)s after this start") % {"after": _number(dimension, after)}


def _number(dimension: str, number: int) -> str:
    return memory(number) if dimension == "memory_mib" else number_format(number)


def _percent(number: int, limit: int) -> int:
    if limit <= 0:
        return 100 if number > 0 else 0
    return min(100, round(100 * number / limit))
