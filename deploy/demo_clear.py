"""End and remove every desktop of an embedded cloud: `python -m deploy.demo_clear DIRECTORY ENVIRONMENT`. No Django."""

import sys
from pathlib import Path

from instances.cloud.local import LocalCloud


def main() -> None:
    cloud = LocalCloud(Path(sys.argv[1]), environment=sys.argv[2], cores=1, memory_mib=1, gpus=0)
    for server in cloud.list():
        cloud.delete(server.id)


if __name__ == "__main__":
    main()
