"""The web entrance: pages over HTTP, the desktop and the feed over websockets."""

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "visa.settings")
http = get_asgi_application()

from channels.auth import AuthMiddlewareStack  # noqa: E402 - Django's registry must be ready first
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import OriginValidator  # noqa: E402
from django.conf import settings  # noqa: E402

from instances.urls import desktop_urlpatterns, feed_urlpatterns  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": http,
        # The desktop reads no cookie: a ticket opens it, and it checks the origin itself, missing ones included.
        "websocket": URLRouter(
            [
                *desktop_urlpatterns,
                *feed_urlpatterns(lambda app: OriginValidator(AuthMiddlewareStack(app), [settings.SITE.url])),
            ]
        ),
    }
)
