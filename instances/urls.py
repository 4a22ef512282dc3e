"""Addresses of machines: pages, REST, and the websockets of the feed and the desktop."""

from collections.abc import Callable

from asgiref.typing import ASGI3Application
from django.urls import path

from instances import api, views
from instances.consumers import InstanceFeedConsumer
from instances.desktop.endpoint import desktop

app_name = "instances"

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
]

desktop_urlpatterns = [path("ws/instances/<uuid:instance_id>/desktop/", desktop)]


def feed_urlpatterns(guarded: Callable[[ASGI3Application], ASGI3Application]) -> list[object]:
    """The feed's address, behind what the entrance puts in front of it (origin, session)."""
    return [path("ws/instances/", guarded(InstanceFeedConsumer.as_asgi()))]
