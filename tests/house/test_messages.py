"""French and German are complete: every sentence of the code and the pages has its words, with the same blanks."""

import re

import pytest
from babel.messages.catalog import Message
from django.conf import settings

from deploy import catalogues
from deploy.processes import ROOT

#: what must come back unchanged: %(name)s, %s, and tags with what stands in them
BLANK = re.compile(r"%\(\w+\)[a-z]|%%|%[a-z]|<code>[^<]*</code>|</?[a-z]+>")

Key = tuple[str | tuple[str, ...], str | None]


def key(message: Message) -> Key:
    return (message.id if isinstance(message.id, str) else tuple(message.id)), message.context


def written(language: str) -> dict[Key, Message]:
    return {key(one): one for one in catalogues.read(language) if one.id}


@pytest.fixture(scope="module")
def said() -> set[Key]:
    """Every sentence the code and the pages mark."""
    return {key(one) for one in catalogues.listed() if one.id}


def test_every_language_of_the_site_but_the_first_has_a_catalogue() -> None:
    assert {code for code, _ in settings.LANGUAGES} == {settings.LANGUAGE_CODE, *catalogues.LANGUAGES}


@pytest.mark.parametrize("language", catalogues.LANGUAGES)
def test_a_catalogue_lists_what_is_said_and_nothing_else(language: str, said: set[Key]) -> None:
    listed = set(written(language))

    assert (said - listed, listed - said) == (set(), set()), "deploy/messages brings them up to date"


@pytest.mark.parametrize("language", catalogues.LANGUAGES)
def test_every_sentence_is_translated_for_sure(language: str) -> None:
    messages = written(language)

    assert [one for one, message in messages.items() if message.fuzzy or not all(catalogues.strings(message))] == []


@pytest.mark.parametrize("language", catalogues.LANGUAGES)
def test_a_plural_has_as_many_forms_as_its_language(language: str) -> None:
    forms = catalogues.read(language).num_plurals

    for message in written(language).values():
        assert len(catalogues.strings(message)) == (forms if message.pluralizable else 1), message.id


@pytest.mark.parametrize("language", catalogues.LANGUAGES)
def test_a_translation_has_the_blanks_and_tags_of_its_sentence(language: str) -> None:
    for (text, _), message in written(language).items():
        blanks = sorted(BLANK.findall(text if isinstance(text, str) else text[-1]))
        for words in catalogues.strings(message):
            assert sorted(BLANK.findall(words)) == blanks, text


def test_nothing_is_marked_where_it_would_not_be_found() -> None:
    """What stands inside of an f-string is code to Python and text to those who list it."""
    marked = re.compile(r"\bf\"[^\"\n]*\{n?gettext\(|\bf\"[^\"\n]*\{_\(|\bf'[^'\n]*\{_\(|\b_\(f[\"']")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for app in catalogues.APPS
        for path in (ROOT / app).rglob("*.py")
        if "node_modules" not in path.parts
        for match in marked.finditer(path.read_text(encoding="utf-8"))
    ]

    assert found == []
