"""The app of the outbox."""

from django.apps import AppConfig
from django.db.backends.signals import connection_created
from django.utils.translation import gettext_lazy as _
from typing_extensions import override


class OutboxConfig(AppConfig):
    """The ground floor: everything above may put, and says at its own start who carries what."""

    name = "visa.outbox"
    label = "outbox"
    verbose_name = _("outbox")
    default_auto_field = "django.db.models.BigAutoField"

    @override
    def ready(self) -> None:
        from visa.outbox import refusals

        connection_created.connect(refusals.listen)
