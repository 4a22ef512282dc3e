"""Addresses of machines: pages, REST, and the websockets of the feed and the desktop."""

from typing import Any

from channels.auth import AuthMiddlewareStack
from channels.security.websocket import OriginValidator
from django.conf import settings
from django.urls import path

from instances import api
from instances import guest as machines_door
from instances.consumers import InstanceFeedConsumer
from instances.desktop.endpoint import desktop
from instances.views import data, guide, home, language, machine, reconciliation, roll, style

app_name = "instances"

#: names without an app before them: the frame of every page asks for these
root_urlpatterns = [
    path("", home.home, name="home"),
    path("help/", guide.guide, name="help"),
    path("language/", language.choose, name="set-language"),
    path("site.css", style.style, name="site-style"),
]

urlpatterns = [
    path("data/", data.search, name="dataset-home"),
    path("data/<path:doi>", data.detail, name="dataset-detail"),
    path("launch/", data.launch, name="launch-home"),
    path("launch/<path:doi>", data.launch, name="dataset-launch"),
    path("search/", data.search, name="dataset-search"),
    path("experiments/", data.experiments, name="experiment-list"),
    path("machines/all/", roll.roll, name="instance-list"),
    path("machines/reconciliation/", reconciliation.show, name="reconciliation"),
    path("machines/reconciliation/<int:hold_id>/release/", reconciliation.release, name="reconciliation-release"),
    path("machines/<uuid:instance_id>/", machine.detail, name="instance-detail"),
    path("machines/<uuid:instance_id>/progress/", machine.progress, name="instance-progress"),
    path("machines/<uuid:instance_id>/start/", machine.start, name="instance-start"),
    path("machines/<uuid:instance_id>/stop/", machine.stop, name="instance-stop"),
    path("machines/<uuid:instance_id>/reboot/", machine.reboot, name="instance-reboot"),
    path("machines/<uuid:instance_id>/console/", machine.console, name="instance-console"),
    path("machines/<uuid:instance_id>/delete/", machine.delete, name="instance-delete"),
    path("machines/<uuid:instance_id>/desktop/", machine.desktop, name="instance-desktop"),
]

api_urlpatterns = [
    path("me/", api.MeView.as_view(), name="me"),
    path("offer/", api.OfferView.as_view(), name="offer"),
    path("allowance/", api.AllowanceView.as_view(), name="allowance"),
    path("instances/", api.InstancesView.as_view(), name="instance-list"),
    path("instances/<uuid:instance_id>/", api.InstanceView.as_view(), name="instance-detail"),
    path("instances/<uuid:instance_id>/start/", api.StartView.as_view(), name="instance-start"),
    path("instances/<uuid:instance_id>/stop/", api.StopView.as_view(), name="instance-stop"),
    path("instances/<uuid:instance_id>/reboot/", api.RebootView.as_view(), name="instance-reboot"),
    path("instances/<uuid:instance_id>/tickets/", api.TicketsView.as_view(), name="instance-tickets"),
    path("guest/<uuid:instance_id>/secrets/", machines_door.SecretsView.as_view(), name="guest-secrets"),
    path("guest/<uuid:instance_id>/reports/", machines_door.ReportsView.as_view(), name="guest-reports"),
]

# Channels routes ASGI applications by Django's own `path`. The desktop reads no cookie: a ticket opens it, and it
# checks the origin itself, missing ones included; the feed stands behind the origin and the session.
_feed = OriginValidator(AuthMiddlewareStack(InstanceFeedConsumer.as_asgi()), [settings.SITE.url])
websocket_urlpatterns: list[Any] = [
    path("ws/instances/<uuid:instance_id>/desktop/", desktop),  # type: ignore[arg-type]
    path("ws/instances/", _feed),
]
