"""Where a person goes after signing in: five hundred ways to lead them elsewhere, and the ways that are fine."""

from collections.abc import Callable
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from django.http import HttpResponse
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from visa.accounts.returns import LONGEST, local_path

HERE = "https://visa.example.org"

_STARTS = (
    *(
        "//",
        "///",
        "////",
        "/\\",
        "\\/",
        "\\\\",
        "\\",
        "/\\/",
        "/\\\\",
        "\\/\\/",
        "//\\",
        "/ /",
        "/\t/",
        "/\n/",
        "/\r/",
    ),
    *(
        "\t//",
        " //",
        "\n//",
        "\r\n//",
        "\x00//",
        "/\x00/",
        "/\x0b/",
        "/\x0c/",
        "\x1f//",
        "\u3000//",
        "/\u200b/",
        "/\u00ad/",
    ),
    *(
        "http://",
        "https://",
        "HTTPS://",
        "hTTp://",
        "http:/",
        "http:",
        "https:///",
        "https:\\\\",
        "http:\\",
        "ht\ttp://",
    ),
    *(
        " https://",
        "\thttps://",
        "\x01https://",
        "https:/\\",
        "//http:",
        "ftp://",
        "ws://",
        "wss://",
        "file://",
        "blob:",
    ),
    *("javascript:alert(1)//", "JaVaScRiPt:alert(1)//", "java\tscript:", "javascript://%0aalert(1)//", "vbscript:"),
    *("data:text/html,", "data:text/html;base64,", "view-source:", "mailto:x@", "x:", ":", "?", "#", "&", "@", ";//"),
    *("/../\\", "/..//", "/./\\", "/%2e%2e//", "/.%2E//", "/x/..//", "/x/../..//", "/x/%2e%2e//", "/.//", "/%2E//"),
    *("//visa.example.org@", "https://visa.example.org@", "https://visa.example.org.", "//visa.example.org:x@", "/／"),
    *("／／", "/\uff0f", "/\u2215", "//\u2044", "/\u29f5", "/é", "/\u202e/", "https://[::1]@", "//[::ffff:1.2.3.4]@"),
)
_HOSTS = (
    "evil.example",
    "evil.example/x",
    "evil.example:443/?a=b",
    "еvil.example",
    "xn--vil-8cd.example",
    "2130706433",
)
_ALONE = (
    *("", " ", ".", "..", "x", "help/", "./help/", "../help/", "help", "%2f%2fevil.example", "%2Fhelp", "\\help"),
    *(
        "/signin/",
        "/signin",
        "/signin/demo/",
        "/signin/demo/callback/?code=a&state=b",
        "/signout/",
        "/signout",
        "/signin?x",
    ),
    "/" + "x" * LONGEST,
    "/help/\n",
    "/help/\r\nSet-Cookie: a=b",
    "/help/\0",
    "/he lp/",
    "/données/",
    "/a\\b",
)
CORPUS = tuple(start + host for start in _STARTS for host in _HOSTS) + _ALONE

FINE = (
    *("/", "/help/", "/?q=a", "/help/#top", "/data/10.15151/ESRF-ES-2210534378", "/data/https://doi.org/10.5072/a"),
    *(
        "/launch/doi:10.5072/A?size=small&software=x",
        "/data/10.5072/a%2Fb",
        "/data/10.5072/a..b",
        "/data/10.5072/...",
        "/signing/",
    ),
    *(
        "/data/10.5072/%C3%A9",
        "/search/?q=https://evil.example",
        "/search/?next=//evil.example",
        "/a;b=c",
        "/a@b:c",
        "/data/10.5072/(a)<b>",
    ),
)


def host_of(target: str) -> str:
    """The host a browser goes to from our page, by the WHATWG rules on backslashes, tabs and line ends."""
    cleaned = target.strip("".join(map(chr, range(33)))).translate(dict.fromkeys(map(ord, "\t\n\r")))
    return urlsplit(urljoin(f"{HERE}/signin/", cleaned.replace("\\", "/"))).netloc


def test_the_corpus_is_as_large_as_it_says() -> None:
    assert len(set(CORPUS)) >= 500


@pytest.mark.parametrize("text", sorted(set(CORPUS)), ids=ascii)
def test_no_address_but_a_path_of_this_site_is_gone_to(text: str) -> None:
    assert local_path(text, otherwise="/home") == "/home"


@pytest.mark.parametrize("text", FINE)
def test_a_path_of_this_site_is_kept_as_it_is(text: str) -> None:
    assert local_path(text, otherwise="/home") == text
    assert host_of(text) == "visa.example.org"


@pytest.mark.parametrize("nothing", [None, 7, b"/help/", ["/help/"]])
def test_what_is_no_text_leads_home(nothing: object) -> None:
    assert local_path(nothing) == "/"


@given(st.text(alphabet=st.sampled_from("/\\.%2eE?#@:ab \t\n\r\0é"), max_size=12))
def test_whatever_is_asked_the_host_stays_ours(text: str) -> None:
    assert host_of(local_path(text)) == "visa.example.org"


def test_the_doors_keep_to_it(client: Client, arrive: Callable[..., HttpResponse]) -> None:
    for text in sorted(set(CORPUS))[::25]:
        answer = arrive(Client(), then=text)

        assert (answer.status_code, answer["location"]) == (302, "/")
        assert client.get("/signin/", {"next": text})["location"] == "/signin/op/?next=%2F"


def test_a_good_path_comes_through_sign_in(arrive: Callable[..., HttpResponse]) -> None:
    for text in FINE:
        assert unquote(arrive(Client(), then=text)["location"]) == unquote(text)
