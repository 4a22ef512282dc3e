"""The edges of REST: what a body may be, in what form answers leave, and how each refusal is described.

Bodies are JSON of bounded length and depth, answers are JSON whatever was asked for, and every answer a door can give
is written beside it, so that the description at /api/v1/schema/ is complete.
"""

import json
from typing import Any, ClassVar, TypeVar

from django.conf import settings
from django.utils.translation import gettext_lazy as _
from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.utils import OpenApiResponse
from rest_framework import serializers, status
from rest_framework.exceptions import APIException, ParseError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from typing_extensions import override

T = TypeVar("T")

#: how deep a body may be nested: ours need one level
DEEPEST = 20


class BodyTooLarge(APIException):
    """The body is longer than any of ours needs to be."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_code = "body_too_large"
    default_detail = _("This is more than we read.")


class JSONBodyParser(BaseParser):
    """JSON (RFC 8259) in UTF-8: at most `longest` bytes (else `DATA_UPLOAD_MAX_MEMORY_SIZE`) and `DEEPEST` levels.

    REST framework's own reads whatever comes, and ends in a RecursionError for brackets in brackets.
    """

    media_type = "application/json"
    longest: int | None = None

    @override
    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        longest = self.longest or settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 0
        body = stream.read(longest + 1)
        if len(body) > longest:
            raise BodyTooLarge
        try:
            value = json.loads(body.decode(), parse_constant=_no_constant, object_pairs_hook=_members)
        except RecursionError as error:
            raise ParseError(_("The body is nested too deeply.")) from error
        except ValueError as error:
            raise ParseError(_("The body is not JSON.")) from error
        if _is_deeper(value, DEEPEST):
            raise ParseError(_("The body is nested too deeply."))
        return value


def _no_constant(name: str) -> None:
    """NaN and Infinity are Python's, not JSON's."""
    raise ValueError(name)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The members of an object. Half a character can be spelt in a name and written by nobody (RFC 7493, 2.1), not even
    back to who sent it; in a value it is the field's to refuse."""
    for name, _value in pairs:
        name.encode()
    return dict(pairs)


def _is_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(one, levels - 1) for one in inner)


class TextField(serializers.CharField):
    """A text. A number is none: REST framework's own field would write it out and take it."""

    @override
    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("invalid")
        text: str = super().to_internal_value(data)
        return text


class WordField(TextField, serializers.SlugField):
    """A name of ours: letters, digits, hyphens and underscores."""


class WishSerializer(serializers.Serializer[Any]):
    """Input. Fields it does not name are refused, so that nothing is assigned unseen."""

    @override
    def to_internal_value(self, data: Any) -> Any:
        values = super().to_internal_value(data)
        unknown = sorted(str(name)[:40] for name in data if name not in self.fields)
        if unknown:
            raise serializers.ValidationError({name: [_("There is no such field.")] for name in unknown[:10]})
        return values


class WishExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call] # no types for its metaclass
    """Tells in the description that a wish has no other fields."""

    target_class = WishSerializer
    match_subclasses = True

    @override
    def map_serializer(self, auto_schema: Any, direction: Any) -> Any:
        described = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        return {**described, "additionalProperties": False}


class AlwaysJSON(BaseContentNegotiation):
    """One form of answer: `Accept` and `?format=` change nothing (RFC 9110, 12.5.1 lets a server disregard it)."""

    @override
    def select_parser(self, request: Request, parsers: Any) -> Any:
        kind = (request.content_type or "").partition(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == kind), None)

    @override
    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class RefusalSerializer(serializers.Serializer[Any]):
    """A no, as an answer: `code` is stable, `message` and `way_out` are sentences, `field` names the input at fault."""

    code = serializers.CharField()
    message = serializers.CharField()
    way_out = serializers.CharField(allow_blank=True)
    field = serializers.CharField(allow_blank=True)
    detail: ClassVar[serializers.DictField] = serializers.DictField()


#: the refusals by status, each with its words in the description
_REFUSALS = {
    400: "The input cannot be understood; `field` says which part, `detail.fields` all of them.",
    401: "Not signed in, or with an access token that does not count here.",
    403: "Signed in, and not allowed to do this; or a form token is missing.",
    404: "There is no such thing, or none you may know of: both look the same.",
    409: "Not possible in the state things are in, or more than your allowance holds (`detail` has the numbers).",
    413: "The body is longer than we read.",
    415: "The body is not JSON.",
    422: "The key was used for another wish.",
    429: "Too often; wait a minute.",
    503: "Something we need does not answer, or is not set up; trying again later is the way out.",
}
#: what any address may answer: whoever asks is looked at first
_ALWAYS = (401, 403, 503)
#: what an address that reads a body may answer
BODY = (400, 413, 415)


def answers(good: dict[int, T], *refusals: int) -> dict[int, T | OpenApiResponse]:
    """All answers of one operation: its `good` ones by status, and those refusals it can give besides the usual."""
    said = {one: OpenApiResponse(RefusalSerializer, _REFUSALS[one]) for one in sorted({*refusals, *_ALWAYS})}
    return {**good, **said}
