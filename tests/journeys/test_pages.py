"""Every other page as each of the cast sees it: axe finds nothing in both schemes, and nothing is wider than 360 px."""

import pytest

from tests.journeys.conftest import Accessible, Visit


@pytest.mark.parametrize("person", ["", "Scientist", "Stranger", "Administrator"])
def test_every_page_can_be_read_by_everybody(visit: Visit, accessible: Accessible, person: str) -> None:
    page = visit(person)

    for path in ("/", "/help/", "/search/", "/search/?q=nothing-has-this-word"):
        page.goto(path)
        accessible(page)
    if person:
        page.goto("/experiments/")
        accessible(page)
    if person == "Administrator":
        page.goto("/audit/")
        accessible(page)


def test_the_first_page_is_light(visit: Visit) -> None:
    """Under 100 kB with all its parts, none of them from another host."""
    page = visit()
    sizes: dict[str, int] = {}
    page.on("response", lambda answer: sizes.update({answer.url: len(answer.body())}))

    page.goto("/", wait_until="networkidle")

    assert sum(sizes.values()) < 100_000
    assert {url.split("/")[2] for url in sizes} == {page.url.split("/")[2]}
