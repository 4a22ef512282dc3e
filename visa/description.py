"""Where the API describes itself: OpenAPI, made from the doors' own words."""

from functools import lru_cache
from typing import Any

from django.utils import translation
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularJSONAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from typing_extensions import override


class DescriptionView(SpectacularJSONAPIView):
    """The description of the API: the same for everybody, made once for each language.

    The package's own view makes it anew for every visitor, and puts `?version=` into a header as it comes.
    """

    @extend_schema(exclude=True)
    @override
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return Response(_description(translation.get_language() or "en"))


@lru_cache(maxsize=8)
def _description(language: str) -> Any:
    with translation.override(language):
        generator: Any = SpectacularJSONAPIView.generator_class(api_version="v1")
        return generator.get_schema(request=None, public=True)
