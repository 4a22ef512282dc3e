"""End and remove every desktop of a demo: `python -m deploy.demo_clear local|openstack PLACE ENVIRONMENT`. No Django.

PLACE is the embedded cloud's directory, or the name of the OpenStack in clouds.yaml.
"""

import sys
from pathlib import Path

from instances.cloud.local import LocalCloud
from instances.cloud.openstack import OpenStackCloud


def main() -> None:
    kind, place, environment = sys.argv[1:]
    cloud = (
        OpenStackCloud(cloud=place, network="", environment=environment)
        if kind == "openstack"
        else LocalCloud(Path(place), environment=environment, cores=1, memory_mib=1, gpus=0)
    )
    for server in cloud.list():
        cloud.delete(server.id)
    for port in cloud.ports():
        cloud.delete_port(port.id)


if __name__ == "__main__":
    main()
