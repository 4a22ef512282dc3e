"""A person's row, from what their issuer states: the only writer of `User` and `Identity`."""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction

from visa.accounts.claims import Person, Role, roles_of
from visa.accounts.models import Identity, User
from visa.audit import trail


@dataclass
class IdentityContested(Exception):
    """The issuer gives a community identifier to a second subject; nobody is let in by it until somebody looked."""

    voperson_id: str


def find(issuer: str, subject: str) -> Identity | None:
    """The identity with this very issuer and subject, compared with case; with its user."""
    return Identity.objects.select_related("user").filter(issuer=issuer, subject=subject).first()


def names(public_ids: Collection[str]) -> dict[str, str]:
    """The names of these people, by the text of their public ids; what is no such id has none."""
    known = [one for one in public_ids if _is_uuid(one)]
    rows = User.objects.filter(public_id__in=known).values_list("public_id", "name")
    return {str(public_id): name for public_id, name in rows}


def _is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def service(issuer: str, subject: str, name: str) -> User:
    """Somebody who is nobody: acts for the platform itself, without roles, and can never sign in.

    `issuer` is a URN, which no provider can have. The same one each time.
    """
    identity = find(issuer, subject)
    if identity is not None:
        return identity.user
    with transaction.atomic():
        user = User.objects.create_person(name=name, email="")
        Identity.objects.create(user=user, issuer=issuer, subject=subject)
    return user


def welcome(person: Person) -> Identity:
    """The identity of a person who signs in, made at the first time, with everything their issuer states replaced.

    Roles are recomputed whole: one whose claim is gone is lost here. Raises `IdentityContested`.
    """
    try:
        with transaction.atomic():
            return _welcome(person)
    except IntegrityError:
        # two first sign-ins at once: the other one made the rows, so this time they are found
        try:
            with transaction.atomic():
                return _welcome(person)
        except IntegrityError as error:
            raise IdentityContested(person.voperson_id) from error


def _welcome(person: Person) -> Identity:
    # The row is locked, so that of two sign-ins at once the later one's roles and claims stay together.
    identity = Identity.objects.select_for_update().filter(issuer=person.issuer, subject=person.subject).first()
    if identity is None:
        user = User.objects.create_person(name=person.name, email=person.email)
        identity = Identity(user=user, issuer=person.issuer, subject=person.subject)
        trail.record("person.join", kind="person", object_id=user.public_id, actor=user.public_id)
    identity.voperson_id = person.voperson_id
    identity.affiliations = list(person.affiliations)
    identity.groups = list(person.groups)
    identity.assurance = list(person.assurance)
    identity.acr = person.acr
    identity.save()
    user = identity.user
    roles = roles_of(person, settings.ENVIRONMENT.roles)
    user.name, user.email = person.name, person.email
    before, user.roles = user.roles, sorted(role.value for role in roles)
    if user.roles != before:
        # By nobody here: the provider's claims and the site's mapping of them made it so.
        detail = {"before": before, "after": user.roles, "issuer": person.issuer}
        trail.record("roles.change", kind="person", object_id=user.public_id, detail=detail)
    # Administrators work in the Django admin, with all its permissions. They are few, named by the site's own mapping,
    # and a finer grain would be a second place where rights are given by hand. No door outside the admin asks for it.
    user.is_staff = user.is_superuser = Role.ADMINISTRATOR in roles
    user.save(update_fields=["name", "email", "roles", "is_staff", "is_superuser"])
    return identity
