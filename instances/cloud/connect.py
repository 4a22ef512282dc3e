"""Which cloud the settings ask for. The only place that chooses."""

from functools import cache
from pathlib import Path

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from instances.cloud.local import LocalCloud
from instances.cloud.memory import MemoryCloud
from instances.cloud.protocol import Cloud
from instances.pace import pace
from visa.environment import Cloud as CloudSettings
from visa.environment import CloudKind


def connect() -> Cloud:
    """The site's cloud, one object per process and settings; nothing is asked of it yet.

    Raises ImproperlyConfigured in a process that is told of none (a web process drives no machines).
    """
    asked: CloudSettings | None = settings.ENVIRONMENT.cloud
    if asked is None:
        raise ImproperlyConfigured(f"a {settings.ENVIRONMENT.process} process drives no machines and has no cloud")
    return _connected(asked, pace().call.total_seconds())


@cache
def _connected(asked: CloudSettings, seconds: float) -> Cloud:
    match asked.kind:
        case CloudKind.MEMORY:
            return MemoryCloud(cores=asked.cores, memory_mib=asked.memory_mib, gpus=asked.gpus)
        case CloudKind.LOCAL:
            return LocalCloud(
                Path(asked.directory),
                environment=asked.environment,
                cores=asked.cores,
                memory_mib=asked.memory_mib,
                gpus=asked.gpus,
                patience=seconds / 2,
            )
        case CloudKind.OPENSTACK:
            # Only where it is used: the SDK takes most of a second to import.
            from instances.cloud.openstack import OpenStackCloud

            return OpenStackCloud(
                cloud=asked.name, network=asked.network, environment=asked.environment, seconds=seconds
            )
