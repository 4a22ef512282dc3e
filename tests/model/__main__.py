"""`python -m tests.model`: the table of all designs, with the shortest way into each trouble where `--ways` asks."""

import sys
import time

from tests.model.creation import Found, explore
from tests.model.table import ROWS


def _said(path: tuple[str, ...] | None) -> str:
    return "no" if path is None else f"yes, {len(path)} steps"


def main() -> None:
    """Prints one line per row."""
    print(f"{'design':<52} {'states':>8} {'steps':>9}  {'two live servers':<16} {'stuck for ever':<16} seconds")
    for row in ROWS:
        began = time.monotonic()
        found: Found = explore(row.design, row.faults)
        took = time.monotonic() - began
        print(
            f"{row.name:<52} {found.states:>8,} {found.steps:>9,}  {_said(found.doubled):<16} {_said(found.stuck):<16} "
            f"{took:.1f}"
        )
        if "--ways" in sys.argv:
            for words, path in (("two live servers", found.doubled), ("stuck", found.stuck)):
                if path:
                    print(f"    {words}: " + "; ".join(path))


if __name__ == "__main__":
    main()
