"""What instances do when something happens on a lower floor: the end of a web session ends its desktops."""

from typing import Any

from django.dispatch import receiver

from instances import grants
from visa.accounts.signals import session_ended


@receiver(session_ended)
def cut_desktops(session_key: str, **_: Any) -> None:
    """Revokes what was granted in the session; the gateway cuts within its next look."""
    grants.revoke_session(session_key, cause="signed_out")
