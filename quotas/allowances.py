"""Reserve and give back. The only writer of `Allowance` and `Reservation`.

A wanted machine counts at once: `reserve` runs inside the transaction that accepts the launch. Two launches at the
same moment meet at one conditional UPDATE of one row, so that no interleaving can overshoot.
"""

from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from django.db import transaction
from django.db.models import F, OuterRef, Subquery, Sum
from django.db.models.functions import Coalesce
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

from quotas.arithmetic import DIMENSIONS, Resources, Shortfall, shortfalls
from quotas.entitlement import Subject, limit_for
from quotas.models import Allowance, Limit, Reservation
from visa.errors import Refusal


class QuotaExceeded(Refusal):
    """The person's allowance does not hold what was asked; `detail["shortfalls"]` has the numbers."""

    code: ClassVar[str] = "quota_exceeded"
    status: ClassVar[int] = 409
    title: ClassVar[str] = gettext_noop("Your allowance does not hold this")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a person may have and has now."""

    limit: Resources
    used: Resources

    def after(self, asked: Resources) -> "Standing":
        return Standing(limit=self.limit, used=self.used + asked)

    def shortfalls(self, asked: Resources) -> tuple[Shortfall, ...]:
        return shortfalls(asked, limit=self.limit, used=self.used)


def limits_of(subject: Subject) -> Resources:
    """What the person may have at once, by the limits as they stand at this moment. No row means nothing."""
    everyone = Resources()
    roles: dict[str, Resources] = {}
    people: dict[str, Resources] = {}
    for limit in Limit.objects.all():
        if limit.kind == Limit.Kind.EVERYONE:
            everyone = limit.resources
        elif limit.kind == Limit.Kind.ROLE:
            roles[limit.key] = limit.resources
        else:
            people[limit.key] = limit.resources
    return limit_for(subject, everyone=everyone, roles=roles, people=people)


def standing_of(subject: Subject) -> Standing:
    """Limit and use of one person, for pages and refusals."""
    row = Allowance.objects.filter(person=subject.person).first()
    return Standing(limit=limits_of(subject), used=row.used if row else Resources())


def reserve(asked: Resources, *, holder: UUID, subject: Subject) -> None:
    """Takes `asked` from the person's allowance for `holder`. Raises QuotaExceeded with the numbers.

    Runs inside the caller's transaction: whatever fails later gives it back.
    """
    limit = limits_of(subject)
    Allowance.objects.bulk_create([Allowance(person=subject.person)], ignore_conflicts=True)
    fits = {
        f"{name}__lte": getattr(limit, name) - getattr(asked, name) for name in DIMENSIONS if getattr(asked, name) > 0
    }
    take = {name: F(name) + getattr(asked, name) for name in DIMENSIONS}
    with transaction.atomic():
        if not Allowance.objects.filter(person=subject.person, **fits).update(**take):
            raise refusal(standing_of(subject), asked)
        Reservation.objects.create(
            holder=holder, person=subject.person, **{name: getattr(asked, name) for name in DIMENSIONS}
        )


def release(holder: UUID) -> None:
    """Gives back what `holder` has reserved; nothing happens the second time."""
    with transaction.atomic():
        reservation = Reservation.objects.select_for_update().filter(holder=holder).first()
        if reservation is None:
            return
        give = {name: F(name) - getattr(reservation, name) for name in DIMENSIONS}
        Allowance.objects.filter(person=reservation.person).update(**give)
        reservation.delete()


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One person whose counter is not the sum of what they have reserved."""

    person: str
    used: Resources
    reserved: Resources


def differences() -> tuple[Difference, ...]:
    """Every counter worked out anew from its reservations, where the two differ. Repairs nothing: a difference is a
    defect, and who repairs it silently never finds it.

    Counter and reservations change in one transaction, and each is read with the other in one statement.
    """
    found = [
        Difference(
            person=row.person,
            used=row.used,
            reserved=Resources(**{name: getattr(row, f"reserved_{name}") for name in DIMENSIONS}),
        )
        for row in Allowance.objects.annotate(**{f"reserved_{name}": _sum_of(name) for name in DIMENSIONS})
    ]
    homeless: dict[str, Resources] = {}
    for one in Reservation.objects.exclude(person__in=Allowance.objects.values("person")).order_by("person"):
        homeless[one.person] = homeless.get(one.person, Resources()) + one.resources
    found += [Difference(person=person, used=Resources(), reserved=held) for person, held in homeless.items()]
    return tuple(one for one in found if one.used != one.reserved)


def _sum_of(dimension: str) -> Coalesce:
    """What a person has reserved of one dimension, beside their counter."""
    mine = Reservation.objects.filter(person=OuterRef("person")).order_by().values("person")
    return Coalesce(Subquery(mine.annotate(total=Sum(dimension)).values("total")), 0)


def holds(holder: UUID) -> bool:
    """Whether `holder` has anything reserved."""
    return Reservation.objects.filter(holder=holder).exists()


def settle(amounts: Resources, *, holder: UUID, person: str) -> None:
    """Makes the books say what is: `holder` has `amounts`, whatever the person's limit is.

    For facts and not for wishes: a machine that was resized at the cloud, or that came back. A limit that is passed by
    it refuses the next wish.
    """
    with transaction.atomic():
        Allowance.objects.bulk_create([Allowance(person=person)], ignore_conflicts=True)
        # The person's row first, as `reserve` does, so that the two cannot wait for each other.
        Allowance.objects.select_for_update().get(person=person)
        before = Reservation.objects.select_for_update().filter(holder=holder).first()
        more = {name: getattr(amounts, name) - (getattr(before, name) if before else 0) for name in DIMENSIONS}
        Allowance.objects.filter(person=person).update(**{name: F(name) + more[name] for name in DIMENSIONS})
        Reservation.objects.update_or_create(
            holder=holder, defaults={"person": person, **{name: getattr(amounts, name) for name in DIMENSIONS}}
        )


def amount(dimension: str, number: int) -> str:
    """A number of one dimension in words: "8 cores", "16 GiB of memory"."""
    if dimension == "machines":
        return ngettext("%(n)s machine", "%(n)s machines", number) % {"n": number}
    if dimension == "cores":
        return ngettext("%(n)s core", "%(n)s cores", number) % {"n": number}
    if dimension == "gpus":
        return ngettext("%(n)s GPU", "%(n)s GPUs", number) % {"n": number}
    return _("%(n)s GiB of memory") % {"n": _number(dimension, number)}


def _number(dimension: str, number: int) -> str:
    """A number as people read it: memory in GiB, everything else as it is counted."""
    return number_format(f"{number / 1024:.4g}") if dimension == "memory_mib" else number_format(number)


def refusal(standing: Standing, asked: Resources) -> QuotaExceeded:
    """The refusal for what does not fit: what was asked, what is left, and a way out."""
    short = standing.shortfalls(asked)
    sentences = [
        _("This asks for %(asked)s; %(left)s of your %(limit)s are left.")
        % {
            "asked": amount(one.dimension, one.asked),
            "left": _number(one.dimension, one.left) if one.left else _("none"),
            "limit": _number(one.dimension, one.limit),
        }
        for one in short
    ]
    return QuotaExceeded(
        " ".join(sentences) or _("Your allowance was used up a moment ago."),
        way_out=_(
            "Choose a smaller size, or delete a machine you no longer need. An administrator can raise your limit."
        ),
        field="flavour",
        detail={
            "shortfalls": [
                {"dimension": one.dimension, "asked": one.asked, "limit": one.limit, "used": one.used, "left": one.left}
                for one in short
            ]
        },
    )
