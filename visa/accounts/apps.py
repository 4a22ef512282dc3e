from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps
from typing_extensions import override


class AccountsConfig(AppConfig):
    name = "visa.accounts"
    label = "accounts"
    verbose_name = "People"

    @override
    def ready(self) -> None:
        from visa.accounts import bearer, checks, people  # noqa: F401 - they register; models exist only now
        from visa.audit import names

        names.tell("person", people.names)


class AdministrationConfig(admin_apps.AdminConfig):
    """The Django admin in our frame; stands for `django.contrib.admin` in INSTALLED_APPS."""

    default = False  # of two configurations in this file the other one is meant by "visa.accounts"
    default_site = "visa.accounts.administration.AdministrationSite"
