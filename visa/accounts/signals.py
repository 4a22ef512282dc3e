"""What others may listen to. Sent after commit, so that a listener sees the world as it then is."""

from django.dispatch import Signal

#: a session is over, by sign-out, by the provider's word, by age or by an administrator; keyword `session_key`: str
session_ended = Signal()
