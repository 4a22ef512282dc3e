from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "visa.accounts"
    label = "accounts"
    verbose_name = "People"
