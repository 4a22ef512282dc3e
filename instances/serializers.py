"""Shapes of the REST API: output by noun, input by wish.

Unknown fields are refused, so that nothing is assigned unseen.
"""

from typing import Any

from rest_framework import serializers

from instances.actions import Launch
from instances.lifecycle import State
from visa.rest import TextField, WishSerializer, WordField


class PersonSerializer(serializers.Serializer[Any]):
    """A person, to themselves."""

    id = serializers.UUIDField(source="public_id")
    name = serializers.CharField()
    email = serializers.CharField(allow_blank=True)
    roles = serializers.ListField(child=serializers.CharField())


class ResourcesSerializer(serializers.Serializer[Any]):
    """An amount of everything that is counted; memory in MiB."""

    machines = serializers.IntegerField()
    cores = serializers.IntegerField()
    memory_mib = serializers.IntegerField()
    gpus = serializers.IntegerField()


class AllowanceSerializer(serializers.Serializer[Any]):
    """What a person may have at once, and has."""

    limit = ResourcesSerializer()
    used = ResourcesSerializer()


class FlavourOfferSerializer(serializers.Serializer[Any]):
    """A size, and why it cannot be had where it cannot."""

    slug = serializers.CharField()
    name = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    resources = ResourcesSerializer()
    disk_gib = serializers.IntegerField()
    why_not = serializers.CharField(allow_blank=True)
    proposed = serializers.BooleanField()


class ImageOfferSerializer(serializers.Serializer[Any]):
    """A software environment."""

    slug = serializers.CharField()
    name = serializers.CharField()
    description = serializers.CharField(allow_blank=True)
    proposed = serializers.BooleanField()


class OfferSerializer(serializers.Serializer[Any]):
    """What can be launched now; `usual_seconds` is this site's own median until the desktop answers."""

    standing = AllowanceSerializer()
    flavours = FlavourOfferSerializer(many=True)
    images = ImageOfferSerializer(many=True)
    usual_seconds = serializers.IntegerField(allow_null=True)


class MountSerializer(serializers.Serializer[Any]):
    """Data in the machine, read-only."""

    target = serializers.CharField()


class ProgressStepSerializer(serializers.Serializer[Any]):
    """One step of a start."""

    key = serializers.CharField()
    words = serializers.CharField()
    done_at = serializers.DateTimeField(allow_null=True)
    current = serializers.BooleanField()
    fault = serializers.CharField(allow_blank=True)


class FaultSerializer(serializers.Serializer[Any]):
    """What the machine says is missing in it: `step` is "mounts" (data) or "software", `subject` where it should be."""

    step = serializers.CharField()
    subject = serializers.CharField()
    words = serializers.CharField()


class EventSerializer(serializers.Serializer[Any]):
    """One line of a machine's story."""

    at = serializers.DateTimeField()
    kind = serializers.CharField()
    words = serializers.CharField()
    by = serializers.CharField(allow_blank=True)


class InstanceSerializer(serializers.Serializer[Any]):
    """A machine; memory in MiB, times in seconds."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    state = serializers.ChoiceField(choices=[one.value for one in State])
    state_words = serializers.CharField()
    reason_code = serializers.CharField(allow_blank=True)
    reason = serializers.CharField(allow_blank=True)
    way_out = serializers.CharField(allow_blank=True)
    created_at = serializers.DateTimeField()
    ready_at = serializers.DateTimeField(allow_null=True)
    dataset_doi = serializers.CharField(allow_blank=True)
    dataset_title = serializers.CharField(allow_blank=True)
    flavour = serializers.CharField()
    cores = serializers.IntegerField()
    memory_mib = serializers.IntegerField()
    gpus = serializers.IntegerField()
    image_name = serializers.CharField()
    owner_name = serializers.CharField()
    is_owner = serializers.BooleanField()
    can_connect = serializers.BooleanField()
    starting = serializers.BooleanField()
    place = serializers.IntegerField(allow_null=True)
    seen_at = serializers.DateTimeField(allow_null=True)
    silent_since = serializers.DateTimeField(allow_null=True)
    seconds_so_far = serializers.IntegerField()
    usual_seconds = serializers.IntegerField(allow_null=True)
    mounts = MountSerializer(many=True)
    faults = FaultSerializer(many=True)
    progress = ProgressStepSerializer(many=True)
    events = EventSerializer(many=True)


class LaunchedSerializer(serializers.Serializer[Any]):
    """What a launch led to."""

    id = serializers.UUIDField(source="instance_id")
    resumed = serializers.BooleanField()


class TicketSerializer(serializers.Serializer[Any]):
    """Opens `path` once, as the sub-protocol `ticket.<ticket>` beside `visa.desktop`, within `expires_in` seconds."""

    ticket = serializers.CharField()
    expires_in = serializers.IntegerField()
    path = serializers.CharField()


class LaunchSerializer(WishSerializer):
    """A wish to launch. Only a DOI and names this site made are taken; everything else comes from its policy."""

    doi = TextField(max_length=2048, trim_whitespace=True)
    flavour = WordField(max_length=40, required=False, allow_blank=True, default="")
    image = WordField(max_length=40, required=False, allow_blank=True, default="")
    name = TextField(max_length=120, required=False, allow_blank=True, default="")
    key = TextField(max_length=64, required=False, allow_blank=True, default="")

    @classmethod
    def wish_from(cls, data: Any) -> Launch:
        """The wish in a request's body. Raises ValidationError naming each field at fault."""
        serializer = cls(data=data)
        serializer.is_valid(raise_exception=True)
        return Launch(**serializer.validated_data)
