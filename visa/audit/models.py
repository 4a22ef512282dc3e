"""The trail's rows. They are inserted, never changed: triggers of the database refuse UPDATE, DELETE and TRUNCATE.

`AuditEvent` is written by `visa.audit.trail` inside the transaction whose change it tells; `AuditSeal` and `AuditHead`
are written by `visa.audit.sealing`, which links the committed events into one chain of hashes. People and things are
named by the text of their public ids: no foreign key leads up, and no row dies with what it tells of.
"""

from typing import ClassVar

from django.db import models
from django.db.models.functions import Now


class AuditEvent(models.Model):
    """One thing that was done. `at` is the database's clock as the row was inserted, whatever the writer says."""

    at = models.DateTimeField(db_default=Now())
    #: the person's public id; empty where the platform acted by itself, or nobody was known yet
    actor = models.CharField(max_length=64, blank=True)
    #: the public id of the person for whom the actor acted, where it was another
    on_behalf_of = models.CharField(max_length=64, blank=True)
    #: a verb such as "instance.wanted.running", "sign_in", "grant.issue", "flavour.change"
    action = models.CharField(max_length=60)
    #: what it was done to: a kind such as "instance", and its id
    kind = models.CharField(max_length=30)
    object_id = models.CharField(max_length=120)
    #: why, in a code of ours; what people typed stands in `AuditText`
    reason = models.CharField(max_length=80, blank=True)
    #: the request, or the step of a worker, in which it was done
    correlation = models.CharField(max_length=64, blank=True)
    #: digest of the `AuditText` with what is personal about it; empty where there is none
    text_digest = models.CharField(max_length=64, blank=True)
    #: ids and numbers; no secrets, nothing personal
    detail = models.JSONField(default=dict)

    class Meta:
        ordering: ClassVar[list[str]] = ["-id"]
        indexes = [
            models.Index(fields=["at", "id"], name="audit_at"),
            models.Index(fields=["kind", "object_id", "id"], name="audit_object"),
            models.Index(fields=["actor", "id"], condition=~models.Q(actor=""), name="audit_actor"),
            models.Index(fields=["on_behalf_of", "id"], condition=~models.Q(on_behalf_of=""), name="audit_behalf"),
        ]


class AuditText(models.Model):
    """What is personal about an event: it may be erased, and the chain stays whole.

    `digest` is over the salt and the texts, so that what was erased cannot be guessed back from it. Erasing empties
    salt and texts and sets `erased_at`; the trigger lets through nothing else.
    """

    digest = models.CharField(max_length=64, primary_key=True)
    salt = models.CharField(max_length=32, blank=True)
    #: the address the front proxy saw
    source = models.CharField(max_length=45, blank=True)
    #: what a person typed
    text = models.TextField(blank=True)
    erased_at = models.DateTimeField(null=True)


class AuditSeal(models.Model):
    """An event's place in the chain: `hash` is over the event, the place and `previous`, the hash before it.

    `number` counts from 1 without a gap. `day` (UTC) is the day of the sealing; a day's first seal links to the last
    of the days before, so that no day can go missing as a whole.
    """

    number = models.BigIntegerField(primary_key=True)
    event = models.OneToOneField(AuditEvent, on_delete=models.DO_NOTHING, related_name="seal")
    day = models.DateField()
    sealed_at = models.DateTimeField()
    previous = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)

    class Meta:
        ordering: ClassVar[list[str]] = ["number"]
        indexes = [models.Index(fields=["day", "number"], name="audit_seal_day")]


class AuditHead(models.Model):
    """The end of the chain as it was told to the outside, once an hour."""

    hour = models.DateTimeField(primary_key=True)
    number = models.BigIntegerField()
    hash = models.CharField(max_length=64)
