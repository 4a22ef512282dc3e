"""What a machine says is missing in it, and how far its boot has come by its own account: in people's words.

Reads what `guest_reports` keeps; decides nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils.translation import gettext as _

from instances.models import GuestReport
from instances.reports import Step, known_words


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is missing. `words` is a sentence's middle: "/data/… is not mounted: the server denies access"."""

    step: Step
    subject: str
    words: str


def faults_of(reports: Iterable[GuestReport]) -> tuple[Fault, ...]:
    """What is missing in a machine whose desktop answers: its data and its software."""
    return tuple(_fault(one) for one in reports if not one.ok and one.step in {Step.MOUNTS, Step.SOFTWARE})


def step_of(reports: Sequence[GuestReport], steps: frozenset[Step], since: datetime) -> tuple[datetime | None, str]:
    """When the machine said that these steps were over, and what went wrong in them; for reports from `since` on."""
    said = [one for one in reports if one.step in steps and one.at >= since]
    wrong = [_fault(one).words for one in said if not one.ok]
    over = {Step(one.step) for one in said} and not wrong
    return (max(one.at for one in said) if over else None), "; ".join(wrong)


def _fault(report: GuestReport) -> Fault:
    known, rest = known_words(report.text)
    why = ": ".join(part for part in (_(known) if known else "", rest) if part)
    values = {"place": report.subject, "why": why}
    match Step(report.step):
        case Step.MOUNTS | Step.SOFTWARE if known.startswith(("it is mounted", "there are no modules")):
            words = _("%(place)s cannot be used: %(why)s") % values
        case Step.MOUNTS | Step.SOFTWARE:
            words = _("%(place)s is not mounted: %(why)s") % values
        case Step.NETWORK:
            words = _("the machine does not reach %(place)s: %(why)s") % values
        case _:
            words = why
    return Fault(step=Step(report.step), subject=report.subject, words=words)
