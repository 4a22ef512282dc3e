"""The translations in visa/locale: what is to be translated is listed, and compiled for Django.

A catalogue (.po) is written by hand except for its list of sentences, which comes from the code and the templates.
Compiled ones (.mo) are made at set-up and are in no commit.
"""

import argparse
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import DEFAULT_KEYWORDS, extract
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from django.conf import settings
from django.utils.translation.template import templatize

from deploy.processes import ROOT

LOCALE = ROOT / "visa" / "locale"
LANGUAGES = ("fr", "de")
APPS = ("visa", "quotas", "experiments", "instances")
#: what the code calls, besides gettext and its kin, to mark words
KEYWORDS = DEFAULT_KEYWORDS | {"_lazy": None, "gettext_lazy": None, "gettext_noop": None, "ngettext_lazy": (1, 2)}
#: fixed, so that listing the same sentences twice gives the same file
HEADER = """\
# The words of the pages. `deploy/messages` keeps the list of sentences; what stands for them is written here.
msgid ""
msgstr ""
"Language: {language}\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=utf-8\\n"
"Content-Transfer-Encoding: 8bit\\n"
"Plural-Forms: {plural}\\n"

"""


class Sentence(NamedTuple):
    """What a person may read: one text, or one and many; and where it stands, relative to the checkout."""

    text: str | tuple[str, ...]
    context: str | None
    place: str


def path_of(language: str) -> Path:
    """The catalogue of a language."""
    return LOCALE / language / "LC_MESSAGES" / "django.po"


def read(language: str) -> Catalog:
    """A catalogue as it is written; an empty one where there is none yet."""
    path = path_of(language)
    with path.open("rb") if path.exists() else io.BytesIO() as written:
        return read_po(written, locale=language, domain="django", abort_invalid=True)


def sentences() -> Iterator[Sentence]:
    """Every sentence of the code and the templates that is marked for translation, in the order of the files."""
    for app in APPS:
        for path in sorted((ROOT / app).rglob("*.py")):
            if "migrations" not in path.parts and "node_modules" not in path.parts:
                with path.open("rb") as code:
                    yield from _marked(code, path)
    if not settings.configured:
        settings.configure()  # the lexer of templates asks whether it is to be debugged
    for path in sorted((ROOT / "templates").rglob("*.html")):
        calls = templatize(path.read_text(encoding="utf-8"), origin=str(path))
        # Babel reads Python, where a line may not begin anywhere.
        flush = "\n".join(line.lstrip() for line in calls.splitlines())
        yield from _marked(io.BytesIO(flush.encode()), path)


def _marked(code: IO[bytes], path: Path) -> Iterator[Sentence]:
    for _, text, _, context in extract("python", code, keywords=KEYWORDS, options={"encoding": "utf-8"}):
        if text:
            yield Sentence(text, context, str(path.relative_to(ROOT)))


def listed() -> Catalog:
    """The sentences as a catalogue without translations."""
    template = Catalog(domain="django", fuzzy=False)
    for one in sentences():
        template.add(one.text, locations=[(one.place, 0)], context=one.context)
    return template


def strings(one: Message) -> tuple[str, ...]:
    """What stands for a sentence: one text, or one for each plural form; empty where nothing does yet."""
    return (one.string or "",) if isinstance(one.string, str | None) else tuple(one.string)


def renew(language: str) -> Catalog:
    """Bring a catalogue's list up to date. What resembles an old sentence keeps its translation, marked as fuzzy."""
    catalogue = read(language)
    catalogue.update(listed())
    write(language, catalogue)
    return catalogue


def write(language: str, catalogue: Catalog) -> None:
    """Write a catalogue, always in the same form."""
    written = io.BytesIO()
    write_po(written, catalogue, width=100, omit_header=True, ignore_obsolete=True, include_lineno=False)
    path = path_of(language)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = HEADER.format(language=language, plural=catalogue.plural_forms)
    path.write_text(header + written.getvalue().decode(), encoding="utf-8")


def compile_all() -> None:
    """Make what Django reads. Each file is replaced at once, as somebody may be reading it."""
    for language in LANGUAGES:
        path = path_of(language)
        part = path.with_name(f"django.{os.getpid()}.part")
        with part.open("wb") as compiled:
            write_mo(compiled, read(language))
        part.replace(path.with_suffix(".mo"))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="deploy/messages", description="Lists what is to be translated in visa/locale, and compiles it."
    )
    parser.add_argument("--compile", action="store_true", help="only compile")
    if not parser.parse_args().compile:
        for language in LANGUAGES:
            catalogue = renew(language)
            open_ones = [one for one in catalogue if one.id and (one.fuzzy or not all(strings(one)))]
            print(f"  {language}: {len(catalogue)} sentences, {len(open_ones)} to translate")
            for one in open_ones:
                print(f"    {one.id if isinstance(one.id, str) else one.id[0]}")
    compile_all()


if __name__ == "__main__":
    main()
