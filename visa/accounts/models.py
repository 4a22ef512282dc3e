"""People. A person is found by (issuer, subject) and by nothing else; e-mail and name are contact data.

`User` is the account; an `Identity` is one way to sign in to it. Roles are recomputed at every sign-in from the
site's mapping of claims (`visa.accounts.claims`), never edited by hand.
"""

import uuid
from dataclasses import dataclass
from typing import ClassVar

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.auth.models import PermissionsMixin
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.utils.translation import gettext_lazy as _
from typing_extensions import override

from visa.accounts.claims import Role


class UserManager(BaseUserManager["User"]):
    """Makes people. There is no password sign-in, so nobody gets a usable password."""

    def create_person(self, *, name: str, email: str = "") -> "User":
        person = self.model(name=name, email=email)
        person.set_unusable_password()
        person.save()
        return person


class User(AbstractBaseUser, PermissionsMixin):
    """A person. `id` is internal; `public_id` is what leaves the house."""

    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=200)
    email = models.EmailField(blank=True)
    roles = ArrayField(models.CharField(max_length=40), default=list, blank=True)
    is_active = models.BooleanField(default=True)
    is_staff = models.BooleanField(default=False)
    joined_at = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[UserManager] = UserManager()

    #: how this person came in, in the one request that signs them in; not kept
    arrival: "Arrival | None" = None

    USERNAME_FIELD = "public_id"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        verbose_name = _("person")
        verbose_name_plural = _("people")

    @override
    def __str__(self) -> str:
        return self.name

    def has_role(self, role: Role) -> bool:
        return role.value in self.roles


class Identity(models.Model):
    """One way to sign in: a subject at an issuer (OpenID Connect Core 5.7: together unique and never reassigned).

    What the issuer states of the person stands here as of the last sign-in, and is replaced whole at the next one.
    `voperson_id` is folded to lower case (eduPersonUniqueId compares so); `subject` is not (OpenID Connect Core 2).
    """

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="identities")
    issuer = models.URLField(max_length=300)
    subject = models.CharField(max_length=255)
    voperson_id = models.CharField(max_length=255, blank=True)
    affiliations = ArrayField(models.CharField(max_length=320), default=list, blank=True)
    #: AARC-G069 groups this issuer may state, in their normal spelling
    groups = ArrayField(models.CharField(max_length=512), default=list, blank=True)
    assurance = ArrayField(models.CharField(max_length=255), default=list, blank=True)
    acr = models.CharField(max_length=255, blank=True)
    seen_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name_plural = "identities"
        constraints = [
            models.UniqueConstraint(fields=["issuer", "subject"], name="identity_issuer_subject"),
            models.UniqueConstraint(
                fields=["issuer", "voperson_id"],
                condition=~models.Q(voperson_id=""),
                name="identity_issuer_voperson_id",
            ),
        ]

    @override
    def __str__(self) -> str:
        return f"{self.subject} at {self.issuer}"


@dataclass(frozen=True)
class Arrival:
    """One sign-in as it happens: by which identity, in which session of the provider (`sid`), with which ID token."""

    identity: Identity
    sid: str
    id_token: str


class SignIn(models.Model):
    """One session a person signed in to: what a log-out at the provider has to find (Back-Channel Logout 1.0, 2.3).

    The row goes when the session ends. `ends_at` is the end of its absolute life; idleness may end it sooner.
    """

    session_key = models.CharField(max_length=40, unique=True)
    identity = models.ForeignKey(Identity, on_delete=models.CASCADE, related_name="sign_ins")
    #: the provider's name for its own session, where it told one
    sid = models.CharField(max_length=255, blank=True)
    began_at = models.DateTimeField()
    ends_at = models.DateTimeField(db_index=True)

    class Meta:
        verbose_name = _("sign-in")
        verbose_name_plural = _("sign-ins")
        indexes = [models.Index(fields=["identity", "sid"], name="sign_in_identity_sid")]


class SpentLogoutToken(models.Model):
    """A log-out token that was used, so that it cannot be used again (Back-Channel Logout 1.0, 2.6, step 7)."""

    issuer = models.URLField(max_length=300)
    #: SHA-256 of the `jti`, in hexadecimal: a provider may make it as long as it likes
    jti_digest = models.CharField(max_length=64)
    #: when a token with this jti is refused for its age alone
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["issuer", "jti_digest"], name="spent_logout_token_issuer_jti")]
