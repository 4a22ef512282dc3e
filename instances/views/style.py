"""The site's accent as a style sheet of our own, so that no page needs a style inside it.

A site names one colour. Its lightness is moved, per scheme and no further than needed, until text in it can be read on
every surface of `visa.css` (WCAG 2.2, 1.4.3: 4.5:1; the sums are those of its relative luminance).
"""

import colorsys
from dataclasses import dataclass
from functools import lru_cache

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

Colour = tuple[float, float, float]

ENOUGH = 4.7  # a little above 4.5, for what rounding takes
INK, PAPER = "#0b1318", "#ffffff"


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """What visa.css puts under text in the accent: surfaces, and `base` tinted with `tint` of the accent itself."""

    surfaces: tuple[str, ...]
    base: str
    tint: float
    lighter: bool
    #: how much of its saturation the accent keeps: light colours on dark ground glare
    vivid: float


LIGHT = Scheme(surfaces=("#ffffff", "#f5f7f8", "#eef1f3"), base="#ffffff", tint=0.09, lighter=False, vivid=1.0)
DARK = Scheme(surfaces=("#12171a", "#1a2024", "#232a2f"), base="#1a2024", tint=0.13, lighter=True, vivid=0.68)


def channels(text: str) -> Colour:
    """Red, green and blue, 0 to 255, of "#rrggbb"."""
    return (int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16))


def _write(colour: Colour) -> str:
    return "#" + "".join(f"{round(part):02x}" for part in colour)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    """`one` with `share` of `other` in it."""
    red, green, blue = (a + (b - a) * share for a, b in zip(one, other, strict=True))
    return (red, green, blue)


def _luminance(colour: Colour) -> float:
    linear = [part / 255 / 12.92 if part / 255 <= 0.04045 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Colour, other: Colour) -> float:
    """The contrast of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def readable(accent: str, scheme: Scheme) -> str:
    """The accent in a lightness, as near its own as can be, in which it is read on every surface of the scheme."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(part / 255 for part in channels(accent)))
    end = 1.0 if scheme.lighter else 0.0
    for step in range(101):
        moved = lightness + (end - lightness) * step / 100
        red, green, blue = (part * 255 for part in colorsys.hls_to_rgb(hue, moved, saturation * scheme.vivid))
        colour = (red, green, blue)
        grounds = [channels(one) for one in scheme.surfaces] + [_mix(channels(scheme.base), colour, scheme.tint)]
        if all(contrast(colour, ground) >= ENOUGH for ground in grounds):
            return _write(colour)
    return PAPER if scheme.lighter else INK


def on(accent: str) -> str:
    """What is written on the accent itself: the better of white and ink."""
    return max((PAPER, INK), key=lambda one: contrast(channels(one), channels(accent)))


@lru_cache(maxsize=8)
def sheet(accent: str) -> str:
    """The style sheet for one accent."""
    light, dark = readable(accent, LIGHT), readable(accent, DARK)
    return (
        f":root{{--accent:{light};--on-accent:{on(light)}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{--accent:{dark};--on-accent:{on(dark)}}}}}\n"
    )


@require_safe
def style(request: HttpRequest) -> HttpResponse:
    return HttpResponse(
        sheet(settings.SITE.accent),
        content_type="text/css; charset=utf-8",
        headers={"Cache-Control": "public, max-age=300"},
    )
