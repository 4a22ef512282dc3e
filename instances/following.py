"""What others did to a machine at the cloud: it is followed and told, not fought."""

from collections.abc import Mapping
from dataclasses import asdict

from django.db.models.functions import Now

from instances import grants, pacing
from instances.cloud.protocol import Server
from instances.lifecycle import OFF, Seen, Wanted, fulfilled
from instances.models import Instance
from instances.outcomes import Outcome
from instances.pace import pace
from instances.transitions import Event
from quotas.arithmetic import DIMENSIONS, Resources
from quotas.models import Flavour


def follow(instance: Instance, seen: Seen, changes: Mapping[str, object], events: list[Event]) -> Outcome:
    """The wish becomes what is: off, or running. Nobody wished it, and the story says that it came from outside."""
    wanted = Wanted.STOPPED if seen in OFF else Wanted.RUNNING
    if wanted is Wanted.STOPPED:
        grants.revoke_machine(instance.id, cause="stopped")
    followed = {
        **changes,
        "wanted": wanted,
        "wanted_at": Now(),
        "fulfilled_at": Now() if fulfilled(wanted, seen) else None,
        "reboot_wanted_at": None,
        "reboot_sent_at": None,
    }
    told = Event(kind="stopped.outside" if wanted is Wanted.STOPPED else "started.outside", verdict=True)
    again = pacing.spread(pace().rest) if fulfilled(wanted, seen) else pace().soon
    return Outcome(again_in=again, changes=followed, events=(*events, told))


def resized(instance: Instance, server: Server | None) -> tuple[dict[str, object], list[Event], Resources | None]:
    """What a size of another name changes in the row, and how much the machine holds now where the size is ours."""
    if server is None or not server.flavour or server.flavour == instance.cloud_flavour:
        return {}, [], None
    changes: dict[str, object] = {"cloud_flavour": server.flavour[:255]}
    if not instance.cloud_flavour:
        return changes, [], None  # its first sight
    told = [Event(kind="resized")]
    ours = Flavour.objects.filter(cloud_name=server.flavour).order_by("-enabled", "position").first()
    if ours is None:
        return changes, told, None
    size = {**asdict(ours.resources), "name": ours.name, "disk_gib": ours.disk_gib}
    changes |= {"flavour": ours, "specification": {**instance.specification, "size": size}}
    return changes, told, ours.resources


def size_of(instance: Instance) -> Resources:
    """What the machine holds, as its row says."""
    size = instance.specification["size"]
    return Resources(**{name: size[name] for name in DIMENSIONS})
