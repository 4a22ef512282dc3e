from django.apps import AppConfig
from django.conf import settings
from typing_extensions import override


class InstancesConfig(AppConfig):
    name = "instances"
    verbose_name = "Machines"

    @override
    def ready(self) -> None:
        from instances import checkpoints, checks, receivers  # noqa: F401 - registered when the app registry is ready

        checkpoints.arm(settings.ENVIRONMENT.tests.checkpoints)
