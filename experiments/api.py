"""REST for data: what one may know of a DOI, open data by search, one's own experiments. Nothing changes anything."""

from typing import Any

from django.utils.decorators import method_decorator
from django.views.decorators.vary import vary_on_headers
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from experiments import access
from experiments.serializers import (
    DatasetListSerializer,
    DatasetPageSerializer,
    ExperimentListSerializer,
    PartSerializer,
    SearchSerializer,
)
from visa.rest import answers

#: answers follow from who asks
_personal = method_decorator(vary_on_headers("Authorization", "Cookie"), name="dispatch")


def _part(serializer: type[PartSerializer], request: Request) -> dict[str, Any]:
    # A plain dict: in a form an empty value means that nothing was said, in an address it is a value.
    asked = serializer(data=request.query_params.dict())
    asked.is_valid(raise_exception=True)
    return dict(asked.validated_data)


@_personal
class DatasetView(APIView):
    """One dataset by its DOI, in any spelling. Readable signed out as far as its description is public."""

    permission_classes = [AllowAny]

    @extend_schema(
        operation_id="datasets_retrieve",
        parameters=[
            OpenApiParameter(
                "doi", OpenApiTypes.STR, OpenApiParameter.PATH, description="A DOI, its slashes as they are."
            )
        ],
        responses=answers({200: DatasetPageSerializer}, 400, 404),
    )
    def get(self, request: Request, doi: str) -> Response:
        return Response(DatasetPageSerializer(access.dataset_for(request.user, doi)).data)


@_personal
class DatasetsView(APIView):
    """Open data. The same for everybody."""

    permission_classes = [AllowAny]

    @extend_schema(
        operation_id="datasets_list",
        parameters=[SearchSerializer],
        responses=answers({200: DatasetListSerializer}, 400),
    )
    def get(self, request: Request) -> Response:
        asked = _part(SearchSerializer, request)
        found = access.search_open(asked["q"], offset=asked["offset"], limit=asked["limit"])
        return Response(DatasetListSerializer(found).data)


@_personal
class ExperimentsView(APIView):
    """One's own experiments, the latest first, with their datasets."""

    @extend_schema(
        operation_id="experiments_list",
        parameters=[PartSerializer],
        responses=answers({200: ExperimentListSerializer}, 400),
    )
    def get(self, request: Request) -> Response:
        asked = _part(PartSerializer, request)
        found = access.experiments_visible_to(request.user, offset=asked["offset"], limit=asked["limit"])
        return Response(ExperimentListSerializer(found).data)
