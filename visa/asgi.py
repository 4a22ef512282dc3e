"""The web entrance: pages over HTTP, the desktop and the feed over websockets."""

import os
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "visa.settings")
http = get_asgi_application()

from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402 - Django's registry must be ready first
from channels.security.websocket import WebsocketDenier  # noqa: E402
from django.conf import settings  # noqa: E402
from django.urls import re_path  # noqa: E402

from instances.urls import websocket_urlpatterns  # noqa: E402
from visa.audit import origins  # noqa: E402

# An address we do not have is refused; without the last route it would be a fault of ours in the log.
unknown: Any = re_path("", WebsocketDenier.as_asgi())  # type: ignore[arg-type]
sockets = URLRouter([*websocket_urlpatterns, unknown])
application = ProtocolTypeRouter(
    {"http": http, "websocket": origins.of_sockets(sockets, behind_proxy=settings.SITE.secure)}
)
