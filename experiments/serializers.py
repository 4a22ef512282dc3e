"""Shapes of data and experiments in the REST API. Read only; made from the values of `experiments.access`."""

from typing import Any

from rest_framework import serializers

from experiments.access import Outcome
from experiments.openness import Reason


class TechniqueSerializer(serializers.Serializer[Any]):
    """A technique by its persistent identifier."""

    pid = serializers.CharField()
    name = serializers.CharField()


class DatasetRecordSerializer(serializers.Serializer[Any]):
    """The description of a dataset. `here`: whether this site holds the data."""

    doi = serializers.CharField(source="minted")
    url = serializers.CharField(help_text="The DOI's address at doi.org.")
    kind = serializers.CharField()
    title = serializers.CharField()
    creators = serializers.ListField(child=serializers.CharField())
    publisher = serializers.CharField(allow_blank=True)
    publication_year = serializers.IntegerField(allow_null=True)
    licence = serializers.CharField(allow_blank=True)
    facility = serializers.CharField()
    instrument = serializers.CharField(allow_blank=True)
    techniques = TechniqueSerializer(many=True)
    size_bytes = serializers.IntegerField(allow_null=True)
    files = serializers.IntegerField(allow_null=True)
    landing_url = serializers.CharField(allow_blank=True)
    contact = serializers.CharField(allow_blank=True)
    here = serializers.BooleanField()


class DatasetRowSerializer(serializers.Serializer[Any]):
    """A dataset in a list, with its openness. `opens_at` is null where no moment is known."""

    dataset = DatasetRecordSerializer()
    open = serializers.BooleanField()
    reason = serializers.ChoiceField(choices=[reason.value for reason in Reason])
    opens_at = serializers.DateTimeField(allow_null=True)


class DatasetPageSerializer(serializers.Serializer[Any]):
    """A dataset as the person who asks may see it. `may_launch`: whether they may work with it now."""

    dataset = DatasetRecordSerializer()
    outcome = serializers.ChoiceField(choices=[outcome.value for outcome in Outcome])
    open = serializers.BooleanField(source="verdict.open")
    reason = serializers.ChoiceField(choices=[reason.value for reason in Reason], source="verdict.reason")
    opens_at = serializers.DateTimeField(source="verdict.opens_at", allow_null=True)
    may_launch = serializers.BooleanField()
    sign_in = serializers.BooleanField(help_text="Only signing in is missing.")
    why = serializers.CharField()
    way_out = serializers.CharField(allow_blank=True)


class ExperimentSerializer(serializers.Serializer[Any]):
    """An experiment of one's own, with its datasets."""

    id = serializers.UUIDField(source="public_id")
    proposal = serializers.CharField(allow_blank=True)
    title = serializers.CharField()
    facility = serializers.CharField()
    instrument = serializers.CharField()
    start = serializers.DateField(allow_null=True)
    end = serializers.DateField(allow_null=True)
    role = serializers.CharField()
    team = serializers.IntegerField(help_text="How many people the team has.")
    datasets = DatasetRowSerializer(many=True)


class DatasetListSerializer(serializers.Serializer[Any]):
    """A part of a list of datasets; `count` is the length of the whole."""

    count = serializers.IntegerField(source="total")
    results = DatasetRowSerializer(source="items", many=True)


class ExperimentListSerializer(serializers.Serializer[Any]):
    """A part of a list of experiments; `count` is the length of the whole."""

    count = serializers.IntegerField(source="total")
    results = ExperimentSerializer(source="items", many=True)


class PartSerializer(serializers.Serializer[Any]):
    """Which part of a list is asked for."""

    limit = serializers.IntegerField(min_value=1, max_value=100, default=50, required=False)
    offset = serializers.IntegerField(min_value=0, max_value=1_000_000, default=0, required=False)


class SearchSerializer(PartSerializer):
    """A search: every word of `q` must be in title, DOI, facility, instrument or technique."""

    q = serializers.CharField(max_length=200, allow_blank=True, default="", required=False)
