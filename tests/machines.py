"""Machines to test with, brought to each state by real steps: asked for by `actions`, driven by `provisioning`."""

from copy import copy
from datetime import timedelta
from uuid import UUID, uuid4

from django.db.models.expressions import DatabaseDefault
from django.db.models.functions import Now

from experiments.models import Dataset
from instances import actions, pacing, provisioning
from instances.actions import Launch
from instances.cloud.memory import OFFERING, MemoryCloud
from instances.cloud.protocol import Cloud, Desktop, Offering, Server, ServerSpec
from instances.lifecycle import State
from instances.models import Instance, InstanceEvent, ServiceState
from tests import factories
from tests.clouds import document
from visa.accounts.models import User

#: longer than this until the next look: the machine rests, and is not only waited for
RESTING = timedelta(minutes=10)


def memory_cloud(desktop: Desktop) -> MemoryCloud:
    """A cloud that offers what the factories name; `desktop` is where every machine's desktop is said to be."""
    offering = Offering(
        images=OFFERING.images | {"desktop"},
        flavours=OFFERING.flavours | {"small", "large"},
        networks=OFFERING.networks,
    )
    return MemoryCloud(desktop=desktop, offering=offering, cores=10_000, memory_mib=10**8)


def settle(cloud: Cloud, instance_id: UUID, *, steps: int = 30) -> Instance:
    """Takes steps, each as soon as it is allowed, until the machine rests or the steps are used up."""
    for _ in range(steps):
        Instance.objects.filter(id=instance_id, deleted_at=None).update(due_at=Now() - timedelta(seconds=1))
        ServiceState.objects.update(not_before=None, probe_at=Now() - timedelta(seconds=1))
        again = provisioning.advance(cloud, instance_id)
        if again is not None and again > RESTING:
            break
    return Instance.objects.get(id=instance_id)


def machine_at(state: State, *, owner: User, cloud: Cloud, dataset: Dataset | None = None) -> UUID:
    """A machine of `owner` in this state, with a dataset of its own where none is given.

    Needs a size, an image and a limit that hold it.
    """
    instance_id = actions.launch(Launch(doi=(dataset or factories.make_dataset()).minted), by=owner).instance_id
    if state is State.BUILDING:
        pacing.admit()
    elif state is not State.WAITING:
        settle(cloud, instance_id)
    if state is State.STOPPED:
        actions.stop(instance_id, by=owner)
        settle(cloud, instance_id)
    if state in {State.DELETED, State.DELETING}:
        actions.delete(instance_id, by=owner)
    if state is State.DELETED:
        settle(cloud, instance_id)
    reached = Instance.objects.get(id=instance_id).state
    assert reached == state, f"the machine is {reached}, not {state}"
    return instance_id


def make_many(row: Instance, number: int) -> None:
    """So many machines in all, each with the story of this one."""
    copies = []
    for _ in range(number - Instance.objects.count()):
        one = copy(row)
        one.pk, one.launch_key = uuid4(), uuid4().hex
        one.server_id = one.port_id = one.dataset_id = None
        one.serial = DatabaseDefault(Instance._meta.get_field("serial").db_default)  # type: ignore[arg-type]  # it has one
        copies.append(one)
    Instance.objects.bulk_create(copies)
    story = list(row.events.all())
    InstanceEvent.objects.bulk_create(
        InstanceEvent(instance=one, at=event.at, kind=event.kind, by=event.by) for one in copies for event in story
    )


def stray_server(cloud: MemoryCloud, *, of: UUID | None = None, serial: int = 0, port_id: str = "") -> Server:
    """A server with our tag that nobody asked for."""
    instance_id = of or uuid4()
    return cloud.create(
        ServerSpec(
            instance_id=instance_id,
            image="desktop",
            flavour="small",
            vcpus=1,
            memory_mib=512,
            disk_gib=4,
            gpus=0,
            user_data=document(instance_id),
            port_id=port_id,
            serial=serial,
        )
    )
