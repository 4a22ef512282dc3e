"""REST for machines: parse, call the action, answer. Nothing is decided here."""

from uuid import UUID

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.exceptions import NotAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from instances import access, actions
from instances.serializers import (
    AllowanceSerializer,
    InstanceSerializer,
    LaunchedSerializer,
    LaunchSerializer,
    OfferSerializer,
    PersonSerializer,
    RefusalSerializer,
    TicketSerializer,
)
from visa.accounts.models import User

REFUSALS = {
    400: OpenApiResponse(RefusalSerializer, "The input cannot be understood; `field` says which part."),
    401: OpenApiResponse(RefusalSerializer, "Not signed in."),
    403: OpenApiResponse(RefusalSerializer, "Not allowed."),
}
MISSING = {404: OpenApiResponse(RefusalSerializer, "There is no such thing, or none you may know of.")}
CONFLICT = {409: OpenApiResponse(RefusalSerializer, "Not possible in the state things are in.")}


def _person(request: Request) -> User:
    """Who asks. Every address here is for signed-in people, so anybody else was turned away before."""
    if not isinstance(request.user, User):
        raise NotAuthenticated
    return request.user


class MeView(APIView):
    """Who is asking."""

    @extend_schema(operation_id="me", responses={200: PersonSerializer, 401: REFUSALS[401], 403: REFUSALS[403]})
    def get(self, request: Request) -> Response:
        return Response(PersonSerializer(_person(request)).data)


class OfferView(APIView):
    """What can be launched now, and what the allowance holds."""

    @extend_schema(operation_id="offer", responses={200: OfferSerializer, 401: REFUSALS[401], 403: REFUSALS[403]})
    def get(self, request: Request) -> Response:
        return Response(OfferSerializer(actions.offer(_person(request))).data)


class AllowanceView(APIView):
    """What the person may have and has."""

    @extend_schema(
        operation_id="allowance", responses={200: AllowanceSerializer, 401: REFUSALS[401], 403: REFUSALS[403]}
    )
    def get(self, request: Request) -> Response:
        return Response(AllowanceSerializer(actions.offer(_person(request)).standing).data)


class InstancesView(APIView):
    """The person's machines."""

    @extend_schema(
        operation_id="instances_list",
        responses={200: InstanceSerializer(many=True), 401: REFUSALS[401], 403: REFUSALS[403]},
    )
    def get(self, request: Request) -> Response:
        return Response(InstanceSerializer(access.instances_visible_to(_person(request)), many=True).data)

    @extend_schema(
        operation_id="instances_launch",
        request=LaunchSerializer,
        responses={
            200: OpenApiResponse(LaunchedSerializer, "The machine was there already."),
            202: OpenApiResponse(LaunchedSerializer, "Accepted; the machine is being made."),
            **REFUSALS,
            **MISSING,
            **CONFLICT,
            415: OpenApiResponse(RefusalSerializer, "The body is not JSON."),
            422: OpenApiResponse(RefusalSerializer, "The key was used for another wish."),
            503: OpenApiResponse(RefusalSerializer, "The site offers no size or software yet."),
        },
    )
    def post(self, request: Request) -> Response:
        launched = actions.launch(LaunchSerializer.wish_from(request.data), by=_person(request))
        code = status.HTTP_200_OK if launched.resumed else status.HTTP_202_ACCEPTED
        return Response(LaunchedSerializer(launched).data, status=code)


class InstanceView(APIView):
    """One machine."""

    @extend_schema(
        operation_id="instances_retrieve",
        responses={200: InstanceSerializer, 401: REFUSALS[401], 403: REFUSALS[403], **MISSING},
    )
    def get(self, request: Request, instance_id: UUID) -> Response:
        return Response(InstanceSerializer(access.instance_for(_person(request), instance_id)).data)

    @extend_schema(
        operation_id="instances_delete",
        responses={202: InstanceSerializer, 401: REFUSALS[401], 403: REFUSALS[403], **MISSING},
    )
    def delete(self, request: Request, instance_id: UUID) -> Response:
        actions.delete(instance_id, by=_person(request))
        return _accepted(request, instance_id)


_ORDER = {202: InstanceSerializer, 401: REFUSALS[401], 403: REFUSALS[403], **MISSING, **CONFLICT}


class StartView(APIView):
    """Starts a machine that is off."""

    @extend_schema(operation_id="instances_start", request=None, responses=_ORDER)
    def post(self, request: Request, instance_id: UUID) -> Response:
        actions.start(instance_id, by=_person(request))
        return _accepted(request, instance_id)


class StopView(APIView):
    """Shuts a machine off; its disk is kept."""

    @extend_schema(operation_id="instances_stop", request=None, responses=_ORDER)
    def post(self, request: Request, instance_id: UUID) -> Response:
        actions.stop(instance_id, by=_person(request))
        return _accepted(request, instance_id)


class RebootView(APIView):
    """Boots a running machine anew."""

    @extend_schema(operation_id="instances_reboot", request=None, responses=_ORDER)
    def post(self, request: Request, instance_id: UUID) -> Response:
        actions.reboot(instance_id, by=_person(request))
        return _accepted(request, instance_id)


class TicketsView(APIView):
    """Tickets for the desktop: each opens it once, within seconds."""

    @extend_schema(
        operation_id="instances_ticket",
        request=None,
        responses={201: TicketSerializer, 401: REFUSALS[401], 403: REFUSALS[403], **MISSING, **CONFLICT},
    )
    def post(self, request: Request, instance_id: UUID) -> Response:
        session_key = getattr(request._request.session, "session_key", None) or ""
        ticket = actions.desktop_ticket(instance_id, by=_person(request), session_key=session_key)
        body = {
            "ticket": ticket.token,
            "expires_in": ticket.expires_in,
            "path": f"/ws/instances/{instance_id}/desktop/",
        }
        return Response(TicketSerializer(body).data, status=status.HTTP_201_CREATED)


def _accepted(request: Request, instance_id: UUID) -> Response:
    return Response(
        InstanceSerializer(access.instance_for(_person(request), instance_id)).data, status=status.HTTP_202_ACCEPTED
    )
