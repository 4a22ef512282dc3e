"""System checks of sign-in: what could not work, or would give rights nobody meant, stops the start."""

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from visa.accounts.claims import PRESETS, faults_of


@register("accounts")
def check_sign_in(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Presets are known, issuers are safe to talk to, and each entry of the role mapping can be understood."""
    messages: list[CheckMessage] = []
    seen: set[str] = set()
    for provider in settings.ENVIRONMENT.providers:
        name = f"VISA_OIDC_{provider.slug.upper()}"
        if provider.preset not in PRESETS:
            known = ", ".join(PRESETS)
            messages.append(
                Error(f"{name}_PRESET: {provider.preset!r} is unknown", hint=f"One of {known}.", id="accounts.E001")
            )
        parts = urlsplit(provider.issuer)
        loopback = parts.hostname in {"localhost", "127.0.0.1", "::1"}
        if parts.scheme != "https" and not loopback:
            messages.append(
                Error(f"{name}_ISSUER is not an https address", hint="Plain http is for loopback.", id="accounts.E002")
            )
        if provider.issuer in seen:
            messages.append(
                Error(f"{name}_ISSUER is configured twice", hint="One entry for each issuer.", id="accounts.E003")
            )
        seen.add(provider.issuer)
        if provider.scopes and "openid" not in provider.scopes.split():
            messages.append(
                Error(f"{name}_SCOPES lacks openid", hint="Leave it out to use the preset's.", id="accounts.E004")
            )
    messages.extend(Error(f"VISA_ROLES_{fault}", id="accounts.E005") for fault in faults_of(settings.ENVIRONMENT.roles))
    return messages
