"""Request side: what a person asks of machines. Each verb is one transaction and a nudge after its commit."""

import uuid
from dataclasses import asdict, dataclass
from functools import partial
from typing import ClassVar
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils.translation import gettext as _

from experiments import access as data_access
from instances import access, grants, guest_reports, notices, tasks, transitions
from instances.access import InstanceView
from instances.lifecycle import Permission, State, Wanted
from instances.models import Image, Instance
from instances.userdata import one_line
from quotas import allowances
from quotas.allowances import Standing
from quotas.arithmetic import DIMENSIONS, Resources, Shortfall
from quotas.entitlement import Subject
from quotas.models import Flavour
from visa.accounts.models import User
from visa.audit import trail
from visa.errors import Conflict, Invalid, Refusal, Unavailable


class NothingOffered(Unavailable):
    """The site offers no size or no software at all."""

    code: ClassVar[str] = "nothing_offered"


class KeyReused(Refusal):
    """An idempotency key was sent again with another wish."""

    code: ClassVar[str] = "key_reused"
    status: ClassVar[int] = 422


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A person's wish. `doi` in any spelling; `flavour` and `image` are our slugs, empty for the site's proposal.

    `key` makes the wish one wish, however often it is sent: at most 64 characters, unique per person.
    """

    doi: str
    flavour: str = ""
    image: str = ""
    name: str = ""
    key: str = ""


@dataclass(frozen=True, kw_only=True)
class Launched:
    """What a launch led to. `resumed`: the machine was there already, and is the same."""

    instance_id: UUID
    resumed: bool


@dataclass(frozen=True, kw_only=True)
class FlavourOffer:
    """One size: what it holds, and what the allowance would be after it. `shortfalls` is empty where it fits."""

    slug: str
    name: str
    description: str
    resources: Resources
    disk_gib: int
    after: Standing
    shortfalls: tuple[Shortfall, ...]
    why_not: str
    proposed: bool


@dataclass(frozen=True, kw_only=True)
class ImageOffer:
    """One software environment."""

    slug: str
    name: str
    description: str
    proposed: bool


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What the site offers a person now: the standing of their allowance, sizes, software, the usual time (seconds)."""

    standing: Standing
    flavours: tuple[FlavourOffer, ...]
    images: tuple[ImageOffer, ...]
    usual_seconds: int | None


def subject_of(person: User) -> Subject:
    """The person as the allowances know them."""
    return Subject(person=str(person.public_id), roles=frozenset(person.roles))


def offer(person: User | None) -> Offer:
    """What can be launched; for a visitor (None) the sizes without an allowance. A constant number of queries."""
    flavours = list(Flavour.objects.filter(enabled=True))
    images = list(Image.objects.filter(enabled=True))
    standing = allowances.standing_of(subject_of(person)) if person else Standing(limit=Resources(), used=Resources())
    fitting = [one.slug for one in flavours if person is None or not standing.shortfalls(one.resources)]
    proposed = fitting[0] if fitting else (flavours[0].slug if flavours else "")
    usual = next(
        (access.usual_seconds(one.id, images[0].id) for one in flavours if one.slug == proposed and images), None
    )
    return Offer(
        standing=standing,
        flavours=tuple(_flavour_offer(one, standing, person, proposed=one.slug == proposed) for one in flavours),
        images=tuple(
            ImageOffer(slug=one.slug, name=one.name, description=one.description, proposed=one is images[0])
            for one in images
        ),
        usual_seconds=usual,
    )


def size_of(flavour: Flavour) -> dict[str, object]:
    """The flavour's numbers as a machine keeps them: `{name, machines, cores, memory_mib, gpus, disk_gib}`."""
    return {**asdict(flavour.resources), "name": flavour.name, "disk_gib": flavour.disk_gib}


def _flavour_offer(flavour: Flavour, standing: Standing, person: User | None, *, proposed: bool) -> FlavourOffer:
    short = standing.shortfalls(flavour.resources) if person else ()
    return FlavourOffer(
        slug=flavour.slug,
        name=flavour.name,
        description=flavour.description,
        resources=flavour.resources,
        disk_gib=flavour.disk_gib,
        after=standing.after(flavour.resources),
        shortfalls=short,
        why_not=allowances.refusal(standing, flavour.resources).message if short else "",
        proposed=proposed,
    )


def launch(wish: Launch, *, by: User) -> Launched:
    """Accepts a launch: the row is the promise. Twenty equal wishes make one machine.

    A machine the person already has for this dataset is resumed, whatever else the wish says. Raises the refusals of
    `experiments.access.launchable`, QuotaExceeded, NothingOffered, Invalid (a size or software that does not exist),
    KeyReused.
    """
    dataset = data_access.launchable(by, wish.doi)
    key = wish.key or uuid.uuid4().hex
    if len(key) > 64 or not key.isprintable():
        raise Invalid(
            _("The launch key is longer than 64 characters or not plain text."),
            way_out=_("Leave it out, or send up to 64 letters and digits."),
            field="key",
        )
    if Instance.objects.filter(Q(launch_key=key) | Q(dataset_id=dataset.id, deleted_at=None), owner=by).exists():
        known = _known(by, key, dataset.id) or _resume(by, dataset.id)
        if known is not None:
            return known
    subject = subject_of(by)
    image = _image(wish.image)
    flavour = _flavour(wish.flavour, subject)
    instance_id = uuid.uuid4()
    try:
        with transaction.atomic():
            # The row first: whoever is second waits here for the first, and then resumes it instead of being counted.
            transitions.begin(
                instance_id=instance_id,
                owner=by,
                name=one_line(wish.name) or one_line(dataset.title),
                dataset_id=dataset.id,
                flavour=flavour,
                image=image,
                launch_key=key,
                specification={
                    "mounts": [asdict(mount) for mount in dataset.mounts],
                    # What was reserved stays what is made and shown, whatever becomes of the flavour.
                    "size": size_of(flavour),
                },
            )
            allowances.reserve(flavour.resources, holder=instance_id, subject=subject)
            transaction.on_commit(partial(tasks.nudge, instance_id))
    except IntegrityError:
        first = _known(by, key, dataset.id) or _resume(by, dataset.id)
        if first is None:
            raise
        return first
    return Launched(instance_id=instance_id, resumed=False)


def start(instance_id: UUID, *, by: User) -> InstanceView:
    """Wants a machine to run. Raises NoSuchMachine, NotAllowed, Conflict."""
    return _wish(instance_id, Wanted.RUNNING, by=by, to=Permission.OPERATE)


def stop(instance_id: UUID, *, by: User) -> InstanceView:
    """Wants a machine shut off; its disk and its allowance are kept. Raises NoSuchMachine, NotAllowed, Conflict."""
    return _wish(instance_id, Wanted.STOPPED, by=by, to=Permission.OPERATE)


def delete(instance_id: UUID, *, by: User, why: str = "") -> InstanceView:
    """Wants a machine gone for ever, with what is on its disk. Whoever deletes another's says why; its owner reads it.

    Raises NoSuchMachine, NotAllowed, Invalid.
    """
    why = one_line(why)
    is_owner = access.instance_for(by, instance_id, to=Permission.DELETE).is_owner
    if not why and not is_owner:
        raise Invalid(
            _("Say why you delete a machine of somebody else."),
            way_out=_("Its owner and the audit trail are told in your words."),
            field="reason",
        )
    with transaction.atomic():
        view = _wish(instance_id, Wanted.DELETED, by=by, to=Permission.DELETE, why=why)
        if not is_owner:
            notices.tell_removed(Instance.objects.select_related("owner").get(id=instance_id))
    return view


def reboot(instance_id: UUID, *, by: User) -> InstanceView:
    """Wants a running machine booted anew. Raises NoSuchMachine, NotAllowed, Conflict."""
    view = access.instance_for(by, instance_id, to=Permission.OPERATE)
    if not view.can_reboot:
        raise Conflict(
            _("Only a machine that is ready can be restarted; this one is: %(state)s.") % {"state": view.state_words},
            way_out=_("Wait until it is ready, or start it."),
        )
    with transaction.atomic():
        transitions.ask_reboot(instance_id, by=by)
        transaction.on_commit(partial(tasks.nudge, instance_id))
        return access.instance_for(by, instance_id, to=Permission.OPERATE)


def read_console(instance_id: UUID, *, by: User) -> InstanceView:
    """Has a worker read the end of a machine's serial console. Raises NoSuchMachine, NotAllowed."""
    view = access.instance_for(by, instance_id, to=Permission.INSPECT)
    with transaction.atomic():
        guest_reports.ask_console(instance_id)
        transitions.look_again(instance_id)
        trail.record("instance.console", kind="instance", object_id=instance_id, actor=by.public_id)
        transaction.on_commit(partial(tasks.nudge, instance_id))
    return view


def desktop_ticket(instance_id: UUID, *, by: User, session_key: str) -> grants.Ticket:
    """A ticket that opens this machine's desktop once. Raises NoSuchMachine, NotAllowed, Conflict."""
    view = access.instance_for(by, instance_id, to=Permission.CONNECT)
    if not view.can_connect:
        raise Conflict(
            _("The desktop is not there yet; the machine is: %(state)s.") % {"state": view.state_words},
            way_out=_("Its page shows how far it is."),
        )
    return grants.issue(instance_id, by, session_key=session_key)


def _wish(instance_id: UUID, wanted: Wanted, *, by: User, to: Permission, why: str = "") -> InstanceView:
    """The machine as it is with the wish written, read before any worker can act on it."""
    view = access.instance_for(by, instance_id, to=to)
    final = {State.GONE, State.DELETING} if wanted is Wanted.RUNNING else {State.GONE, State.DELETING, State.ERROR}
    if wanted is not Wanted.DELETED and view.state in final:
        raise Conflict(
            _("That cannot be done while the machine is: %(state)s.") % {"state": view.state_words},
            way_out=view.way_out or _("Its page shows what you can do now."),
        )
    with transaction.atomic():
        if transitions.wish(instance_id, wanted, by=by, why=why):
            if wanted is Wanted.RUNNING:
                _hold_again(instance_id)
            else:
                grants.revoke_machine(instance_id, cause=wanted.value)
            transaction.on_commit(partial(tasks.nudge, instance_id))
        return access.instance_for(by, instance_id, to=to)


def _hold_again(instance_id: UUID) -> None:
    """Reserves anew what a failed machine gave back when nothing of it was left. Raises QuotaExceeded."""
    if allowances.holds(instance_id):
        return
    row = Instance.objects.select_related("owner").get(id=instance_id)
    size = row.specification["size"]
    held = Resources(**{name: size[name] for name in DIMENSIONS})
    allowances.reserve(held, holder=instance_id, subject=subject_of(row.owner))


def _known(person: User, key: str, dataset_id: int) -> Launched | None:
    """The machine this key made already."""
    row = Instance.objects.filter(owner=person, launch_key=key).only("id", "dataset_id").first()
    if row is None:
        return None
    if row.dataset_id != dataset_id:
        raise KeyReused(
            _("This launch was already sent for another dataset."), way_out=_("Open the link again."), field="key"
        )
    return Launched(instance_id=row.id, resumed=True)


def _resume(person: User, dataset_id: int) -> Launched | None:
    """The machine the person already has for the dataset, wanted running again."""
    live = access.live_instance_of(person, dataset_id)
    if live is None:
        return None
    if live.state is State.GONE:
        # Nothing is left to resume; the row makes way for a new machine.
        if _clear_away(live.id, by=person):
            return None
        live = access.live_instance_of(person, dataset_id)
        if live is None:
            return None
    if live.can_start:
        start(live.id, by=person)
    return Launched(instance_id=live.id, resumed=True)


def _clear_away(instance_id: UUID, *, by: User) -> bool:
    """Wants the row of a machine that is gone out of the way. False where the machine has come back meanwhile."""
    with transaction.atomic():
        if not transitions.wish(instance_id, Wanted.DELETED, by=by, gone=True):
            return False
        grants.revoke_machine(instance_id, cause=Wanted.DELETED.value)
        transaction.on_commit(partial(tasks.nudge, instance_id))
    return True


def _image(slug: str) -> Image:
    images = Image.objects.filter(enabled=True)
    image = images.filter(slug=slug).first() if slug else images.first()
    if image is None and slug:
        raise Invalid(
            _("There is no software called “%(slug)s” here.") % {"slug": one_line(slug)[:40]},
            way_out=_("Choose one of those on the launch page."),
            field="image",
        )
    if image is None:
        raise NothingOffered(_("This site offers no software yet."), way_out=_("An administrator has to add an image."))
    return image


def _flavour(slug: str, subject: Subject) -> Flavour:
    """The size that is asked for; for none, the first that still fits into the person's allowance."""
    flavours = list(Flavour.objects.filter(enabled=True))
    if slug:
        for flavour in flavours:
            if flavour.slug == slug:
                return flavour
        raise Invalid(
            _("There is no size called “%(slug)s” here.") % {"slug": one_line(slug)[:40]},
            way_out=_("Choose one of those on the launch page."),
            field="flavour",
        )
    if not flavours:
        raise NothingOffered(_("This site offers no sizes yet."), way_out=_("An administrator has to add a flavour."))
    standing = allowances.standing_of(subject)
    return next((one for one in flavours if not standing.shortfalls(one.resources)), flavours[0])
