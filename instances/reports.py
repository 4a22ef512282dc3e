"""What a machine says of itself, as values: parsed from its JSON or from its serial console. Pure.

Hostile text: a machine belongs to whoever works on it. What is said is one line of bounded length, shown and never
believed beyond this machine. The one who says it is `instances/cloud/machine/visa_guest.py`.
"""

import json
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from visa.errors import gettext_noop

#: what begins a report's line on the serial console, wherever in the line it stands
MARK: Final = "visa-report: "
#: characters of a subject, of a text, and of a whole report as JSON
SUBJECT, TEXT, LINE = 200, 300, 2000
#: lines of a console that are kept for support, and characters of each
CONSOLE_LINES, CONSOLE_LINE = 200, 300
#: and for how long
CONSOLE_KEPT: Final = timedelta(minutes=15)


class Step(StrEnum):
    """The steps of a machine's own boot, in their order."""

    BOOTED = "booted"
    NETWORK = "network"  #: the subject is the platform's address
    MOUNTS = "mounts"  #: the subject is where the data should be
    SOFTWARE = "software"  #: the subject is the software's directory
    DESKTOP = "desktop"


#: how the machine says in words what is the matter; what a system said by itself follows after a colon, or stands alone
WORDS: Final = (
    gettext_noop("the server did not answer"),
    gettext_noop("the server has no such directory"),
    gettext_noop("the server denies access"),
    gettext_noop("the server's name is not known"),
    gettext_noop("this image has no program to mount it"),
    gettext_noop("it was not mounted"),
    gettext_noop("it is mounted, but cannot be read"),
    gettext_noop("it is mounted, but does not answer"),
    gettext_noop("nothing is mounted there"),
    gettext_noop("there are no modules in it"),
    gettext_noop("this image has no CernVM-FS client"),
    gettext_noop("its server does not answer"),
    gettext_noop("its proxy does not answer"),
    gettext_noop("its signature is not accepted"),
    gettext_noop("there is no route to it"),
    gettext_noop("its name is not known"),
    gettext_noop("it does not answer"),
    gettext_noop("its certificate is not trusted"),
    gettext_noop("it refuses this machine"),
    gettext_noop("the desktop did not start"),
)


class Unreadable(ValueError):
    """This is no report; the sentence says why."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One thing a machine says: how a step went. `subject` is what it is about, `text` what is the matter, in words."""

    step: Step
    ok: bool
    subject: str = ""
    text: str = ""


def report_from(value: object) -> Report:
    """A report out of parsed JSON: `{"step", "ok", "subject", "text"}`, and whatever else, which is passed over.

    Raises Unreadable.
    """
    if not isinstance(value, dict):
        raise Unreadable("a report is an object")
    step, ok = value.get("step"), value.get("ok")
    if not isinstance(step, str) or step not in set(Step):
        raise Unreadable(f"step is none of {', '.join(Step)}")
    if not isinstance(ok, bool):
        raise Unreadable("ok is neither true nor false")
    subject, text = value.get("subject", ""), value.get("text", "")
    if not isinstance(subject, str) or not isinstance(text, str):
        raise Unreadable("subject and text are texts")
    return Report(step=Step(step), ok=ok, subject=one_line(subject, SUBJECT), text=one_line(text, TEXT))


def from_console(text: str) -> tuple[Report, ...]:
    """What a machine said on its serial console since it last booted: its last word for each step and subject.

    Lines that were cut or garbled are passed over: a console is shared with the kernel.
    """
    said: dict[tuple[Step, str], Report] = {}
    for line in text.splitlines():
        _before, mark, after = line.partition(MARK)
        if not mark:
            continue
        try:
            report = report_from(json.loads(after[:LINE]))
        except (ValueError, RecursionError):
            continue
        if report.step is Step.BOOTED:
            said.clear()
        said[report.step, report.subject] = report
    return tuple(said.values())


def excerpt(text: str) -> str:
    """The end of a console as it may be shown: printable lines, the last of them."""
    lines = [one_line(line, CONSOLE_LINE) for line in text.splitlines()]
    return "\n".join(lines[-CONSOLE_LINES:])


def known_words(text: str) -> tuple[str, str]:
    """A report's text as the sentence of ours it begins with ("" where it is none) and the rest, untranslated."""
    for words in WORDS:
        if text == words:
            return words, ""
        if text.startswith(f"{words}: "):
            return words, text[len(words) + 2 :]
    return "", text


def one_line(text: str, most: int) -> str:
    """Any text as one line of at most `most` characters that no terminal stumbles over."""
    shown = "".join(character if character.isprintable() else " " for character in text[: 4 * most])
    return " ".join(shown.split())[:most].rstrip()
