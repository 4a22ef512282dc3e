"""Claims to a person: pure. What a provider states goes in; one frozen `Person`, and their roles here, come out.

Claims are read as the UserInfo endpoint released them (OpenID Connect Core 5.3.2). Every claim but the subject may be
absent, and absent means none: no groups, no affiliations, no assurance. A claim with several values may come as a list
or as a bare string. Groups are AARC-G069 entitlements, and count only in a namespace this issuer may speak for.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from aarc_entitlement import G069, Error

from visa.environment import Roles


class Role(StrEnum):
    """What a person is to this site, besides being somebody who signed in."""

    ADMINISTRATOR = "administrator"
    SUPPORT = "support"
    INSTRUMENT_SCIENTIST = "instrument_scientist"


class ClaimsUnusable(Exception):
    """Nobody can be recognised by these claims; the text says why, for the log."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What to ask of a kind of provider (`scopes`), and under which names it releases what.

    `identifiers` and `entitlements` are names of claims: of the first the first present one counts, of the second all.
    """

    scopes: tuple[str, ...]
    identifiers: tuple[str, ...] = ("voperson_id",)
    entitlements: tuple[str, ...] = ("eduperson_entitlement",)
    affiliations: tuple[str, ...] = ("eduperson_scoped_affiliation",)
    assurance: tuple[str, ...] = ("eduperson_assurance",)


#: UmbrellaID runs on eduTEAMS, so both release alike: one scope, `aarc`, carries the community's claims.
_EDUTEAMS = Preset(scopes=("openid", "profile", "email", "aarc"))

PRESETS: Mapping[str, Preset] = {
    "umbrellaid": _EDUTEAMS,
    "eduteams": _EDUTEAMS,
    # EGI Check-in: each community claim has a scope of its own
    "egi": Preset(
        scopes=(
            "openid",
            "profile",
            "email",
            "voperson_id",
            "eduperson_scoped_affiliation",
            "eduperson_entitlement",
            "eduperson_assurance",
        ),
    ),
    # Helmholtz ID: the same, and entitlements under two names
    "helmholtz": Preset(
        scopes=(
            "openid",
            "profile",
            "email",
            "voperson_id",
            "eduperson_scoped_affiliation",
            "eduperson_entitlement",
            "entitlements",
            "eduperson_assurance",
        ),
        entitlements=("eduperson_entitlement", "entitlements"),
    ),
    # a facility's own provider: nothing but what OpenID Connect Core 5.4 defines is asked, all that is known is read
    "generic": Preset(
        scopes=("openid", "profile", "email"),
        identifiers=("voperson_id", "eduperson_unique_id"),
        entitlements=("eduperson_entitlement", "entitlements"),
    ),
}

#: longest entitlement that is parsed, in characters, and how many values of a claim are looked at
ENTITLEMENT_LENGTH = 512
VALUES = 1000

#: scopes of community identifiers under which providers keep an identity for tests that must never be let in
_RESERVED_SCOPES = (
    "eduteams.org",
    "myaccessid.org",
    "myacademicid.org",
    "umbrellaid.org",
    "egi.eu",
    "login.helmholtz.de",
)


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody, as their issuer states them now. Found by (`issuer`, `subject`); all else is data about them.

    `groups` are AARC-G069 entitlements in normal spelling, without the authority part, which is no input to a right.
    """

    issuer: str
    subject: str
    name: str
    email: str
    voperson_id: str
    affiliations: tuple[str, ...]
    groups: tuple[str, ...]
    assurance: tuple[str, ...]
    acr: str


def values_of(claims: Mapping[str, object], *names: str) -> tuple[str, ...]:
    """The texts under these claims, whether each came as a list, a bare string or not at all; all else is left out."""
    found: dict[str, None] = {}
    for name in names:
        value = claims.get(name)
        listed = value if isinstance(value, list | tuple) else [value]
        for text in listed[:VALUES]:
            if isinstance(text, str) and _plain(text):
                found[_plain(text)] = None
    return tuple(found)


def _plain(text: str) -> str:
    """A text without control and invisible formatting characters (Unicode Cc, Cf, Cs), in NFC, trimmed."""
    kept = "".join(c for c in text[:4000] if unicodedata.category(c) not in {"Cc", "Cf", "Cs"})
    return unicodedata.normalize("NFC", kept).strip()


def _first(claims: Mapping[str, object], names: Iterable[str], longest: int) -> str:
    return next((text for name in names for text in values_of(claims, name)[:1] if len(text) <= longest), "")


@lru_cache(maxsize=4096)
def _parsed(urn: str) -> G069 | None:
    """An AARC-G069 group, or None for any other entitlement."""
    if len(urn) > ENTITLEMENT_LENGTH or ":group:" not in urn:
        return None
    try:
        group = G069(urn)
    except Error:
        return None
    # `:role=` without a value parses as a subgroup of that name: a role nobody has must not become a group
    if any(part.startswith("role=") for part in (group.group, *group.subgroups)):
        return None
    return group


def _spelled(group: G069) -> str:
    return repr(group).split("#", 1)[0]


def groups_in(entitlements: Iterable[str], namespaces: Iterable[str]) -> tuple[str, ...]:
    """The groups among these entitlements that stand in one of these namespaces, in normal spelling, each once.

    A namespace is a whole-segment prefix: `urn:geant:example.org` covers `urn:geant:example.org:service`, not
    `urn:geant:example.orgs`. URNs compare without case up to the group (AARC-G069, 2).
    """
    allowed = [tuple(namespace.lower().rstrip(":").split(":")) for namespace in namespaces]
    found: dict[str, None] = {}
    for urn in entitlements:
        group = _parsed(urn)
        if group is None:
            continue
        place = ("urn", group.namespace_id, group.delegated_namespace, *group.subnamespaces)
        if any(place[: len(prefix)] == prefix for prefix in allowed):
            found[_spelled(group)] = None
    return tuple(found)


def is_member(groups: Iterable[str], wanted: str) -> bool:
    """Whether a group satisfies the wanted one: is it or below it; a wanted role must be exact (AARC-G069, 3)."""
    required = _parsed(wanted)
    if required is None:
        return False
    return any(group is not None and group.satisfies(required) for group in map(_parsed, groups))


def is_reserved(identifier: str) -> bool:
    """Whether this is a provider's own identity for tests, such as `test@eduteams.org`."""
    local, _, scope = identifier.casefold().rpartition("@")
    return local == "test" and any(scope == known or scope.endswith(f".{known}") for known in _RESERVED_SCOPES)


def person_from(
    claims: Mapping[str, object], *, issuer: str, preset: Preset, namespaces: Iterable[str], acr: object = ""
) -> Person:
    """The person these UserInfo claims describe; `acr` is the ID token's (OpenID Connect Core 2).

    Raises `ClaimsUnusable` where the subject is missing or malformed, or is a reserved identity for tests.
    """
    subject = claims.get("sub")
    # OpenID Connect Core 2: at most 255 ASCII characters, compared with case
    if not isinstance(subject, str) or not re.fullmatch(r"[\x21-\x7e]{1,255}", subject):
        raise ClaimsUnusable("the subject is missing or malformed")
    voperson_id = _first(claims, preset.identifiers, 255).casefold()
    if is_reserved(subject) or is_reserved(voperson_id):
        raise ClaimsUnusable(f"{subject} is reserved for tests of the provider")
    parts = " ".join(text for name in ("given_name", "family_name") for text in values_of(claims, name)[:1])
    name = _first(claims, ("name",), 4000) or parts or _first(claims, ("preferred_username",), 4000) or voperson_id
    email = _first(claims, ("email",), 254)
    return Person(
        issuer=issuer,
        subject=subject,
        name=(name or subject)[:200],
        email=email if re.fullmatch(r"[^@\s]+@[^@\s]+", email) else "",
        voperson_id=voperson_id[:255],
        affiliations=tuple(text for text in values_of(claims, *preset.affiliations) if len(text) <= 320),
        groups=groups_in(values_of(claims, *preset.entitlements), namespaces),
        assurance=tuple(text for text in values_of(claims, *preset.assurance) if len(text) <= 255),
        acr=acr if isinstance(acr, str) and len(acr) <= 255 and _plain(acr) == acr else "",
    )


def _entries(mapping: Roles) -> dict[Role, tuple[str, ...]]:
    return {
        Role.ADMINISTRATOR: mapping.administrator,
        Role.SUPPORT: mapping.support,
        Role.INSTRUMENT_SCIENTIST: mapping.instrument_scientist,
    }


def faults_of(mapping: Roles) -> tuple[str, ...]:
    """What cannot be understood in a mapping of roles, one sentence each: no right must come from a slip."""
    faults = []
    for role, entries in _entries(mapping).items():
        for entry in entries:
            kind, _, rest = entry.partition(":")
            issuer, hash_sign, subject = rest.rpartition("#")
            if kind == "subject" and hash_sign and issuer and subject:
                continue
            if kind == "entitlement" and _parsed(rest) is not None:
                continue
            faults.append(
                f"{role.name}: {entry[:200]!r} is neither entitlement:<AARC-G069 group> nor subject:<issuer>#<sub>"
            )
    return tuple(faults)


def roles_of(person: Person, mapping: Roles) -> frozenset[Role]:
    """The roles this site's mapping gives this person now. Entries it cannot understand give nothing."""
    found = set()
    for role, entries in _entries(mapping).items():
        for entry in entries:
            kind, _, rest = entry.partition(":")
            by_subject = kind == "subject" and rest == f"{person.issuer}#{person.subject}"
            if by_subject or (kind == "entitlement" and is_member(person.groups, rest)):
                found.add(role)
    return frozenset(found)
