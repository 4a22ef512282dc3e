"""What a step of a worker leaves behind, and the words for waiting. No calls, no rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from django.utils.translation import gettext_noop as _

from instances import pacing
from instances.cloud.protocol import (
    Cloud,
    CloudDenied,
    CloudError,
    CloudFull,
    CloudLimited,
    CloudUnreachable,
    Server,
    Service,
)
from instances.lifecycle import Seen
from instances.pace import pace
from instances.pacing import Gate
from instances.transitions import Claim, Event
from quotas.arithmetic import Resources


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What the cloud shows of one instance: the server we keep, and surplus ones of a doubled create.

    `silent`: it runs and was ready before, and its desktop does not answer now. `error` is why nothing is seen;
    `doubted`: what the cloud shows is not believed.
    """

    seen: Seen
    server: Server | None = None
    surplus: tuple[Server, ...] = ()
    detail: str = ""
    silent: bool = False
    error: CloudError | None = None
    doubted: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a step leaves behind: fields to write, what to tell, and when to look again.

    `frees`: nothing of it is left at the cloud, so that its allowance can be given back, though its row may stay;
    `books` is what it holds of its owner's allowance, where that is not what was reserved. `then` is the checkpoint to
    pass when all is written.
    """

    again_in: timedelta
    changes: Mapping[str, object] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    frees: bool = False
    books: Resources | None = None
    then: str = ""


@dataclass(kw_only=True)
class Visit:
    """One claim at work: what it may ask of whom, and which services have answered it.

    `told`: its server as a list has just shown it.
    """

    cloud: Cloud
    claim: Claim
    gate: Gate
    told: Server | None = None
    heard: set[str] = field(default_factory=set)
    #: which did not answer something, whatever else they answered
    silent: set[str] = field(default_factory=set)

    def unanswered(self, error: CloudError) -> None:
        """Counts what did not answer (`unanswered`)."""
        if isinstance(error, CloudUnreachable):
            self.silent.add(error.service)
        unanswered(error)

    def orders(self, *services: str) -> Cloud:
        """The cloud, to be given an order now, or to be asked by way of these services. Raises NotNow."""
        if self.claim.spent:
            raise NotNow(silent=False)
        if not self.gate.passes(*services):
            raise NotNow(silent=True)
        return self.cloud


class NotNow(Exception):
    """An order that is not given now: a service it needs is not to be asked (`silent`), or the claim's time is over.

    The step ends there, and the next one begins with a look.
    """

    def __init__(self, *, silent: bool) -> None:
        super().__init__()
        self.silent = silent


WAITS: Final = {
    "cloud_full": _("The cloud has no room right now; we keep trying."),
    **pacing.SKY,
    "cloud_refused": _("The cloud does not take our order right now; we keep trying."),
    "cloud_denied": _("The cloud does not accept this site's credential right now; we keep trying."),
    "desktop_silent": _("The desktop does not answer right now. The machine itself runs; a restart may help."),
    "step_broke": _("A fault of this platform holds this machine up; we keep trying, and its operators can see it."),
    "held": _("Something about this site's machines has to be looked at first; its operators can see it."),
    "retry_no_room": _("The cloud had no room for it; we try again."),
    "retry_build_failed": _("The cloud could not make it; we try again."),
    "retry_too_slow": _("The cloud took far too long to make it; we try again."),
}


#: what a machine waits for that is no fault of its own, and ends for all at once
OUTAGES: Final = frozenset({*pacing.SKY, "cloud_denied", "held"})


def saying(code: str, detail: str = "") -> dict[str, object]:
    """Why it waits, in the row."""
    return {"reason_code": code, "reason": WAITS[code], "reason_detail": detail[:1000]}


def silence() -> dict[str, object]:
    """No reason any more."""
    return {"reason_code": "", "reason": "", "reason_detail": ""}


def why(error: CloudError) -> str:
    """The code of what an error makes a row wait for."""
    if isinstance(error, CloudUnreachable):
        return "cloud_busy" if isinstance(error, CloudLimited) else "cloud_silent"
    if isinstance(error, CloudFull):
        return "cloud_full"
    return "cloud_denied" if isinstance(error, CloudDenied) else "cloud_refused"


def unanswered(error: CloudError) -> None:
    """Counts what did not answer towards its service's breaker, and keeps to what it asked for."""
    if isinstance(error, CloudLimited):
        pacing.failed(error.service, str(error), retry_after=error.retry_after, counts=False)
    elif (isinstance(error, CloudUnreachable) and not error.alone) or (
        # A credential that is not accepted anywhere is an outage; a right that one call lacks is not.
        isinstance(error, CloudDenied) and error.service is Service.KEYSTONE
    ):
        pacing.failed(error.service, str(error))


def failing(changes: Mapping[str, object], code: str, words: str, detail: str = "", *, frees: bool = False) -> Outcome:
    """A step failed for good; the person chooses."""
    verdict = {"failed": True, "reason_code": code, "reason": words, "reason_detail": detail[:1000]}
    return Outcome(
        again_in=pacing.spread(pace().rest),
        changes={**changes, **verdict},
        events=(Event(kind="failed", text=words, verdict=True),),
        frees=frees,
    )
