"""Draws instances/LIFECYCLE.md from the table that decides, so that the picture cannot say anything else."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand
from typing_extensions import override

from instances.lifecycle import DEADLINES, Seen, Step, Wanted, decide, state_of

PAGE = Path(__file__).resolve().parents[2] / "LIFECYCLE.md"

_COLUMNS: tuple[tuple[str, dict[str, bool]], ...] = (
    ("first time", {}),
    ("came about before", {"followed": True, "was_ready": True, "had_server": True}),
    ("overdue, never ready", {"overdue": True}),
    ("overdue, was ready", {"overdue": True, "was_ready": True}),
    ("lost build", {"discarding": True}),
    ("no build left", {"discarding": True, "builds_left": False}),
)


def page() -> str:
    """The whole page."""
    return "\n".join(
        [
            "# The life of a machine",
            "",
            "Drawn by `manage.py draw_lifecycle` from `decide` in lifecycle.py; a test holds the two together.",
            "What a person wants and what the cloud shows decide the one next step, whatever happened in between.",
            "",
            *(line for wanted in Wanted for line in _table(wanted)),
            "## What people see",
            "",
            "| seen | " + " | ".join(f"wanted {wanted}" for wanted in Wanted) + " | may last |",
            "|---" * (len(Wanted) + 2) + "|",
            *(_words(seen) for seen in Seen if seen is not Seen.UNKNOWN),
            "",
            "Before its turn a machine is *waiting*; after a step that failed for good *error*; where its server ended",
            "outside *gone*; where nobody has seen it for a while *unknown*, whatever it was.",
            "",
        ]
    )


def _table(wanted: Wanted) -> list[str]:
    return [
        f"## Wanted: {wanted}",
        "",
        "| seen | " + " | ".join(name for name, _facts in _COLUMNS) + " |",
        "|---" * (len(_COLUMNS) + 1) + "|",
        *(f"| {seen} | " + " | ".join(_step(wanted, seen, facts) for _name, facts in _COLUMNS) + " |" for seen in Seen),
        "",
    ]


def _step(wanted: Wanted, seen: Seen, facts: dict[str, bool]) -> Step:
    had = seen is not Seen.ABSENT
    return decide(wanted, seen, **{"had_server": had, "overdue": False, **facts})


def _words(seen: Seen) -> str:
    states = " | ".join(state_of(wanted, seen, failed=False, gone=False, rebooting=False) for wanted in Wanted)
    longest = DEADLINES[seen]
    minutes = "as long as it takes" if longest.days > 1 else f"{longest.total_seconds() / 60:g} min"
    return f"| {seen} | {states} | {minutes} |"


class Command(BaseCommand):
    help = "Draws instances/LIFECYCLE.md from the table that decides."

    @override
    def handle(self, *args: Any, **options: Any) -> None:
        PAGE.write_text(page(), encoding="utf-8")
