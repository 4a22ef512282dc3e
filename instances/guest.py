"""The door for machines: each fetches its secrets once and says how its boot goes. Nothing is decided here.

Nobody signs in here and no cookie counts: what counts is the token of the machine (`instances.guest_reports`).
"""

import re
from typing import Any, ClassVar
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.utils.translation import gettext_lazy as _
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers, status
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.parsers import BaseParser
from rest_framework.permissions import AllowAny, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from typing_extensions import override

from instances import guest_reports, notices
from instances.reports import SUBJECT, TEXT, Step, report_from
from visa.audit import origins
from visa.rest import BODY, JSONBodyParser, TextField, WishSerializer, answers

#: b64token (RFC 6750, 2.1) and the colons of our own tokens
_TOKEN = re.compile(rb"[A-Za-z0-9\-._~+/:]{1,500}=*")


class SmallBodyParser(JSONBodyParser):
    """Whatever a machine says fits into this."""

    longest = 4096


class MachineToken(BaseAuthentication):
    """`Authorization: Bearer <token>`: takes the token out and leaves it to the door to look at."""

    @override
    def authenticate(self, request: Request) -> tuple[AnonymousUser, str] | None:
        scheme, _space, token = get_authorization_header(request).partition(b" ")
        if scheme.lower() != b"bearer" or not _TOKEN.fullmatch(token):
            return None
        return AnonymousUser(), token.decode()

    @override
    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="machines"'


class MachineScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call] # no types for its metaclass
    """How the API's description tells of it."""

    target_class = "instances.guest.MachineToken"
    name = "machine"

    @override
    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "A token of a machine's own, from its user-data."}


class FlagField(serializers.BooleanField):
    """True or false, and not the many words REST framework takes for them."""

    @override
    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid", input=data)
        return data


class ClaimSerializer(WishSerializer):
    """The random word of the machine that asks: with the same word it may ask again when the answer was lost."""

    claim = TextField(min_length=32, max_length=128)


class HandedSerializer(serializers.Serializer[Any]):
    """What a machine needs to serve its desktop (PEM, PEM, eight characters), and to report."""

    vnc_password = serializers.CharField(source="secret.password")
    vnc_key = serializers.CharField(source="secret.key")
    vnc_certificate = serializers.CharField(source="secret.certificate")
    report_token = serializers.CharField()


class ReportSerializer(WishSerializer):
    """How one step went. `at` is the machine's own clock and is passed over: ours counts."""

    step = serializers.ChoiceField(
        choices=[one.value for one in Step],
        # REST framework's own words quote what came, which may be nothing that can be written.
        error_messages={"invalid_choice": _("There is no such step.")},
    )
    ok = FlagField()
    subject = TextField(max_length=SUBJECT, required=False, allow_blank=True, default="")
    text = TextField(max_length=TEXT, required=False, allow_blank=True, default="")
    at = TextField(max_length=40, required=False, allow_blank=True, default="")


class _Door(APIView):
    """What both addresses have in common."""

    authentication_classes: ClassVar[list[type[BaseAuthentication]]] = [MachineToken]  # type: ignore[misc] # as DRF reads it
    permission_classes: ClassVar[list[type[BasePermission]]] = [AllowAny]  # type: ignore[misc]
    parser_classes: ClassVar[list[type[BaseParser]]] = [SmallBodyParser]  # type: ignore[misc]


class SecretsView(_Door):
    """A machine's secrets, once, for the token in its user-data."""

    @extend_schema(
        operation_id="guest_secrets",
        request=ClaimSerializer,
        responses=answers({200: HandedSerializer}, *BODY, 404, 429),
    )
    def post(self, request: Request, instance_id: UUID) -> Response:
        ticket = guest_reports.enrolment(instance_id, str(request.auth or ""))
        wish = ClaimSerializer(data=request.data)
        wish.is_valid(raise_exception=True)
        try:
            handed = guest_reports.redeem(ticket, wish.validated_data["claim"], address=origins.current().source)
        except guest_reports.PassUsed:
            notices.follow(instance_id, ["guest.refused"])
            raise
        return Response(HandedSerializer(handed).data)


class ReportsView(_Door):
    """What a machine says of a step of its boot."""

    @extend_schema(
        operation_id="guest_reports",
        request=ReportSerializer,
        responses=answers({204: OpenApiResponse(description="Heard.")}, *BODY, 404, 429),
    )
    def post(self, request: Request, instance_id: UUID) -> Response:
        guest_reports.reporter(instance_id, str(request.auth or ""))
        said = ReportSerializer(data=request.data)
        said.is_valid(raise_exception=True)
        guest_reports.hear(instance_id, [report_from(said.validated_data)], heard="network")
        return Response(status=status.HTTP_204_NO_CONTENT)
