from django.apps import AppConfig
from django.conf import settings
from typing_extensions import override


class InstancesConfig(AppConfig):
    name = "instances"
    verbose_name = "Machines"

    @override
    def ready(self) -> None:
        from instances import checkpoints, checks, notices, receivers  # noqa: F401 - registered with the apps
        from visa.outbox import couriers

        couriers.register(notices.MAIL, notices.by_mail)
        couriers.register(notices.ADMINISTRATORS, notices.to_administrators)

        checkpoints.arm(settings.ENVIRONMENT.tests.checkpoints)
