"""Things to test with, one function each: keyword-only, typed, a sensible value for all that a test does not say."""

import itertools
from collections.abc import Iterable
from datetime import UTC, datetime

from experiments import doi as dois
from experiments.models import Dataset, Experiment, Facility, Instrument, Participant, Source
from instances.models import Image
from quotas.models import Flavour, Limit
from tests.people import ISSUER, Figure
from visa.accounts.claims import Role
from visa.accounts.models import Identity, User

_number = itertools.count(1)


def make_user(*, name: str = "", subject: str = "", issuer: str = ISSUER, roles: Iterable[Role] = ()) -> User:
    """A person who has signed in at least once."""
    number = next(_number)
    user = User.objects.create_person(name=name or f"Person {number}")
    user.roles = sorted(role.value for role in roles)
    user.is_staff = user.is_superuser = Role.ADMINISTRATOR in set(roles)
    user.save()
    Identity.objects.create(user=user, issuer=issuer, subject=subject or f"person-{number}")
    return user


def make_figure(figure: Figure) -> User:
    """Somebody of the cast."""
    return make_user(name=figure.name, subject=figure.subject, roles=figure.roles)


def find_figure(figure: Figure) -> User:
    """Somebody of the cast who was made before."""
    return User.objects.get(identities__issuer=ISSUER, identities__subject=figure.subject)


def make_source(*, slug: str = "records", trusts_flags: bool = False) -> Source:
    """The catalogue records come from; the same one for the same slug."""
    return Source.objects.get_or_create(slug=slug, defaults={"name": slug.title(), "trusts_flags": trusts_flags})[0]


def make_facility(*, slug: str = "facility", name: str = "Test Facility", timezone: str = "Europe/Paris") -> Facility:
    """A facility; the same one for the same slug."""
    defaults = {"name": name, "timezone": timezone, "contact": "data@facility.example"}
    return Facility.objects.get_or_create(slug=slug, defaults=defaults)[0]


def make_instrument(*, facility: Facility | None = None, slug: str = "i01", name: str = "I01") -> Instrument:
    """An instrument; the same one for the same facility and slug."""
    place = facility or make_facility()
    return Instrument.objects.get_or_create(facility=place, slug=slug, defaults={"name": name})[0]


def make_experiment(
    *, title: str = "A measurement", team: Iterable[User] = (), instrument: Instrument | None = None
) -> Experiment:
    """An experiment whose first team member leads it."""
    number = next(_number)
    experiment = Experiment.objects.create(
        source=make_source(),
        source_key=f"experiment-{number}",
        proposal=f"P-{number}",
        title=title,
        instrument=instrument or make_instrument(),
    )
    for place, person in enumerate(team):
        identity = person.identities.get()
        Participant.objects.create(
            experiment=experiment,
            issuer=identity.issuer,
            subject=identity.subject,
            role=Participant.Role.MEMBER if place else Participant.Role.LEADER,
        )
    return experiment


def make_dataset(
    *,
    doi: str = "",
    title: str = "A dataset",
    open_to_all: bool = True,
    experiment: Experiment | None = None,
    path: str | None = None,
    kind: Dataset.Kind = Dataset.Kind.DATASET,
    metadata_public: bool = True,
    facility: Facility | None = None,
) -> Dataset:
    """A dataset held here; open since 2020, or under embargo until 2099. `path=""` is held elsewhere."""
    number = next(_number)
    parsed = dois.parse(doi or f"10.5555/Sample-{number}")
    place = experiment.instrument.facility if experiment else (facility or make_facility())
    return Dataset.objects.create(
        source=make_source(),
        minted=parsed.minted,
        key=parsed.key,
        kind=kind,
        title=title,
        creators=["A. Researcher"],
        publisher=place.name,
        publication_year=2020,
        facility=place,
        instrument=experiment.instrument if experiment else None,
        experiment=experiment,
        path=f"datasets/{number}" if path is None else path,
        available=["2020-01-01" if open_to_all else "2099-01-01"],
        metadata_public=metadata_public,
        harvested_at=datetime(2026, 1, 1, tzinfo=UTC),
        size_bytes=4096,
        files=2,
    )


def make_flavour(
    *,
    slug: str = "small",
    cores: int = 1,
    memory_mib: int = 512,
    gpus: int = 0,
    enabled: bool = True,
    position: int = 0,
) -> Flavour:
    """A size of machine."""
    return Flavour.objects.create(
        slug=slug,
        name=slug.title(),
        cloud_name=slug,
        cores=cores,
        memory_mib=memory_mib,
        gpus=gpus,
        enabled=enabled,
        position=position,
    )


def make_image(*, slug: str = "desktop", enabled: bool = True) -> Image:
    """An image."""
    return Image.objects.create(slug=slug, name=slug.title(), cloud_name=slug, enabled=enabled)


def make_limit(
    *,
    kind: Limit.Kind = Limit.Kind.EVERYONE,
    key: str = "",
    machines: int = 4,
    cores: int = 8,
    memory_mib: int = 8192,
    gpus: int = 1,
) -> Limit:
    """How much everyone, a role or a person may have at once."""
    return Limit.objects.create(kind=kind, key=key, machines=machines, cores=cores, memory_mib=memory_mib, gpus=gpus)
