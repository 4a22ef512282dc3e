"""The rows of the outbox."""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from typing_extensions import override


class Outbox(models.Model):
    """One thing that has to leave the house, once: a mail, say. `key` makes a second putting the same thing.

    `payload` holds ids and nothing else: what is sent is read when it is sent, so that nobody's words, name or address
    stand here. Times are the database's.
    """

    key = models.CharField(max_length=200, unique=True)
    kind = models.CharField(max_length=40)
    payload = models.JSONField(default=dict)
    made_at = models.DateTimeField()
    #: not to be tried before
    due_at = models.DateTimeField()
    #: how often a courier took it; the number is its fence too: an older courier's word on it does not count
    attempts = models.PositiveIntegerField(default=0)
    lease_until = models.DateTimeField(null=True)
    #: when it was done with: sent, or found to need no sending, or given up
    sent_at = models.DateTimeField(null=True)
    given_up = models.BooleanField(default=False)
    #: what the last try came to, where it was not simply sent
    said = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        ordering: ClassVar[list[str]] = ["id"]
        verbose_name_plural = "outbox"
        indexes = [
            models.Index(fields=["due_at"], condition=Q(sent_at=None), name="outbox_due"),
            models.Index(fields=["sent_at"], condition=~Q(sent_at=None), name="outbox_done"),
        ]

    @override
    def __str__(self) -> str:
        return self.key
