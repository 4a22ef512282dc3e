"""`python -m tests.faults [F04 F07 ...]`: makes faults happen on a whole site before a real OpenStack.

Prints one line per fault with its time. `--fast` takes the chosen few that `deploy/test --openstack` runs, `--ports`
those in which ports are made and found again: on a network of the project's own, `--network visa-own`, that goes
another way.
"""

import argparse
import sys
import time

from deploy.demo_platform import as_interrupt
from tests.faults import matrix
from tests.faults.site import NETWORKS, a_site

#: faults that show the most in the least time
FAST = ("F01", "F04", "F06c", "F07")
#: faults that may leave two ports, or one without a machine
PORTS = ("F02", "F03", "F04", "F07", "F08", "F08b", "F08c", "F09", "F29", "F29b", "F29c")


def main() -> int:
    """1 where something does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="such as F04; all of them where none is named")
    parser.add_argument("--fast", action="store_true", help=", ".join(FAST))
    parser.add_argument("--ports", action="store_true", help=", ".join(PORTS))
    parser.add_argument("--network", choices=NETWORKS, default="visa", help="where the machines stand (visa)")
    parser.add_argument("--scale", type=float, default=0.5, help="of the platform's waiting times (0.5)")
    parser.add_argument("--keep", action="store_true", help="leave the site's directory with its logs")
    asked = parser.parse_args()
    as_interrupt()
    began = time.monotonic()
    with a_site(scale=asked.scale, keep=asked.keep, network=asked.network) as site:
        print(f"the site stands after {time.monotonic() - began:.0f} s: {site.directory}", flush=True)
        from tests.faults import table

        names = asked.names or list(FAST if asked.fast else PORTS if asked.ports else table.NAMES)
        unknown = [name for name in names if name not in matrix.TABLE]
        if unknown:
            parser.error(f"there is no fault {', '.join(unknown)}")
        results = matrix.run(site, names, lambda words: print(words, flush=True))
    broken = [one for one in results if one.trouble]
    print(
        f"{len(results) - len(broken)} of {len(results)} faults held, in {time.monotonic() - began:.0f} s", flush=True
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
