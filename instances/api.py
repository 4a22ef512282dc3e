"""REST for machines: parse, call the action, answer. Nothing is decided here."""

from uuid import UUID

from django.db import transaction
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
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
    TicketSerializer,
)
from visa.accounts import sign_ins
from visa.accounts.models import User
from visa.rest import BODY, answers


def _person(request: Request) -> User:
    """Who asks. Every address here is for signed-in people, so anybody else was turned away before."""
    if not isinstance(request.user, User):
        raise NotAuthenticated
    return request.user


class MeView(APIView):
    """Who is asking."""

    @extend_schema(operation_id="me", responses=answers({200: PersonSerializer}))
    def get(self, request: Request) -> Response:
        return Response(PersonSerializer(_person(request)).data)


class OfferView(APIView):
    """What can be launched now, and what the allowance holds."""

    @extend_schema(operation_id="offer", responses=answers({200: OfferSerializer}))
    def get(self, request: Request) -> Response:
        return Response(OfferSerializer(actions.offer(_person(request))).data)


class AllowanceView(APIView):
    """What the person may have and has."""

    @extend_schema(operation_id="allowance", responses=answers({200: AllowanceSerializer}))
    def get(self, request: Request) -> Response:
        return Response(AllowanceSerializer(actions.offer(_person(request)).standing).data)


class InstancesView(APIView):
    """The person's machines."""

    @extend_schema(operation_id="instances_list", responses=answers({200: InstanceSerializer(many=True)}))
    def get(self, request: Request) -> Response:
        return Response(InstanceSerializer(access.instances_visible_to(_person(request)), many=True).data)

    @extend_schema(
        operation_id="instances_launch",
        request=LaunchSerializer,
        responses=answers(
            {
                200: OpenApiResponse(LaunchedSerializer, "The machine was there already."),
                202: OpenApiResponse(LaunchedSerializer, "Accepted; the machine is being made."),
            },
            *BODY,
            404,
            409,
            422,
        ),
    )
    def post(self, request: Request) -> Response:
        launched = actions.launch(LaunchSerializer.wish_from(request.data), by=_person(request))
        code = status.HTTP_200_OK if launched.resumed else status.HTTP_202_ACCEPTED
        return Response(LaunchedSerializer(launched).data, status=code)


class InstanceView(APIView):
    """One machine."""

    @extend_schema(operation_id="instances_retrieve", responses=answers({200: InstanceSerializer}, 404))
    def get(self, request: Request, instance_id: UUID) -> Response:
        return Response(InstanceSerializer(access.instance_for(_person(request), instance_id)).data)

    @extend_schema(
        operation_id="instances_delete",
        parameters=[OpenApiParameter("reason", str, description="Asked of an administrator who deletes another's.")],
        responses=answers({202: InstanceSerializer}, 400, 404),
    )
    def delete(self, request: Request, instance_id: UUID) -> Response:
        why = request.query_params.get("reason", "")
        return _accepted(actions.delete(instance_id, by=_person(request), why=why))


_ORDER = answers({202: InstanceSerializer}, 404, 409)


class StartView(APIView):
    """Starts a machine that is off."""

    @extend_schema(operation_id="instances_start", request=None, responses=_ORDER)
    def post(self, request: Request, instance_id: UUID) -> Response:
        return _accepted(actions.start(instance_id, by=_person(request)))


class StopView(APIView):
    """Shuts a machine off; its disk is kept."""

    @extend_schema(operation_id="instances_stop", request=None, responses=_ORDER)
    def post(self, request: Request, instance_id: UUID) -> Response:
        return _accepted(actions.stop(instance_id, by=_person(request)))


class RebootView(APIView):
    """Boots a running machine anew."""

    @extend_schema(operation_id="instances_reboot", request=None, responses=_ORDER)
    def post(self, request: Request, instance_id: UUID) -> Response:
        return _accepted(actions.reboot(instance_id, by=_person(request)))


class TicketsView(APIView):
    """Tickets for the desktop: each opens it once, within seconds."""

    @extend_schema(operation_id="instances_ticket", request=None, responses=answers({201: TicketSerializer}, 404, 409))
    def post(self, request: Request, instance_id: UUID) -> Response:
        # A desktop opened with an access token belongs to no session, whatever cookie came along.
        session_key = request._request.session.session_key or "" if request.auth is None else ""
        with transaction.atomic():
            if session_key and not sign_ins.hold(session_key):
                raise NotAuthenticated  # it ended after we had looked who asks
            ticket = actions.desktop_ticket(instance_id, by=_person(request), session_key=session_key)
        body = {
            "ticket": ticket.token,
            "expires_in": ticket.expires_in,
            "path": f"/ws/instances/{instance_id}/desktop/",
        }
        return Response(TicketSerializer(body).data, status=status.HTTP_201_CREATED)


def _accepted(view: access.InstanceView) -> Response:
    return Response(InstanceSerializer(view).data, status=status.HTTP_202_ACCEPTED)
