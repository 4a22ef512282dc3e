from django.apps import AppConfig
from typing_extensions import override


class InstancesConfig(AppConfig):
    name = "instances"
    verbose_name = "Machines"

    @override
    def ready(self) -> None:
        from instances import checks, receivers  # noqa: F401 - registered when the app registry is ready
