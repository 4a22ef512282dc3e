"""Claims to a person: the presets with exactly what their providers release, and every shape a claim may come in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visa.accounts.claims import (
    PRESETS,
    ClaimsUnusable,
    Person,
    Role,
    faults_of,
    groups_in,
    is_member,
    is_reserved,
    person_from,
    roles_of,
)
from visa.environment import Roles

ISSUER = "https://proxy.example.org"
SPACE = ("urn:geant:example.org",)
GROUP = "urn:geant:example.org:group:beamline"
RAF = "https://refeds.org/assurance/"


def person(claims: dict[str, object], *, preset: str = "generic", namespaces: tuple[str, ...] = SPACE) -> Person:
    return person_from({"sub": "a1", **claims}, issuer=ISSUER, preset=PRESETS[preset], namespaces=namespaces)


# What each proxy releases at UserInfo for the scopes the preset asks, by claim.
RELEASED: dict[str, tuple[dict[str, object], set[str]]] = {
    "egi": (
        {
            "sub": "e5f0@egi.eu",
            "voperson_id": "E5F0@egi.eu",
            "name": "A. Researcher",
            "given_name": "A.",
            "family_name": "Researcher",
            "preferred_username": "aresearcher",
            "email": "a.researcher@example.org",
            "email_verified": True,
            "voperson_verified_email": ["a.researcher@example.org"],
            "eduperson_scoped_affiliation": ["member@example.org"],
            "eduperson_entitlement": [
                "urn:mace:egi.eu:group:vo.example.eu:role=member#aai.egi.eu",
                "urn:mace:egi.eu:group:vo.example.eu:role=associate#aai.egi.eu",
                "urn:mace:egi.eu:res:rcauth#aai.egi.eu",
                "urn:mace:egi.eu:aai.egi.eu:member@vo.example.eu",
            ],
            "eduperson_assurance": [f"{RAF}ID/unique", f"{RAF}IAP/low"],
        },
        {
            "openid",
            "profile",
            "email",
            "voperson_id",
            "eduperson_scoped_affiliation",
            "eduperson_entitlement",
            "eduperson_assurance",
        },
    ),
    "eduteams": (
        {
            "sub": "e5f0@eduteams.org",
            "voperson_id": "e5f0@eduteams.org",
            "eduperson_principal_name": "aresearcher@eduteams.org",
            "name": "A. Researcher",
            "given_name": "A.",
            "family_name": "Researcher",
            "email": "a.researcher@example.org",
            "eduperson_scoped_affiliation": "member@example.org",
            "voperson_external_affiliation": ["faculty@example.org"],
            "schac_home_organization": "example.org",
            "eduperson_entitlement": ["urn:geant:eduteams.org:service:visa:group:umbrella:role=member#eduteams.org"],
            "eduperson_assurance": [f"{RAF}ID/unique", f"{RAF}IAP/low"],
        },
        {"openid", "profile", "email", "aarc"},
    ),
    "helmholtz": (
        {
            "sub": "6c611e2a",
            "voperson_id": "6C611E2A@login.helmholtz.de",
            "eduperson_unique_id": "6c611e2a@login.helmholtz.de",
            "name": "A. Researcher",
            "given_name": "A.",
            "family_name": "Researcher",
            "preferred_username": "aresearcher",
            "email": "a.researcher@example.org",
            "email_verified": True,
            "eduperson_scoped_affiliation": ["member@example.org"],
            "org_domain": "example.org",
            "eduperson_entitlement": ["urn:geant:helmholtz.de:group:HIFIS#login.helmholtz.de"],
            "entitlements": ["urn:geant:helmholtz.de:group:Photons:Beamline#login.helmholtz.de"],
            "eduperson_assurance": [f"{RAF}IAP/medium"],
        },
        {
            "openid",
            "profile",
            "email",
            "voperson_id",
            "eduperson_scoped_affiliation",
            "eduperson_entitlement",
            "entitlements",
            "eduperson_assurance",
        },
    ),
}
RELEASED["umbrellaid"] = RELEASED["eduteams"]
SPACES = {
    "egi": "urn:mace:egi.eu",
    "eduteams": "urn:geant:eduteams.org",
    "umbrellaid": "urn:geant:eduteams.org",
    "helmholtz": "urn:geant:helmholtz.de",
}
GROUPS = {
    "egi": (
        "urn:mace:egi.eu:group:vo.example.eu:role=member",
        "urn:mace:egi.eu:group:vo.example.eu:role=associate",
    ),
    "eduteams": ("urn:geant:eduteams.org:service:visa:group:umbrella:role=member",),
    "umbrellaid": ("urn:geant:eduteams.org:service:visa:group:umbrella:role=member",),
    "helmholtz": ("urn:geant:helmholtz.de:group:HIFIS", "urn:geant:helmholtz.de:group:Photons:Beamline"),
}


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_a_preset_asks_the_scopes_and_reads_the_claims_of_its_provider(name: str) -> None:
    claims, scopes = RELEASED[name]

    somebody = person_from(claims, issuer=ISSUER, preset=PRESETS[name], namespaces=(SPACES[name],))

    assert set(PRESETS[name].scopes) == scopes
    assert somebody.subject == claims["sub"]
    assert somebody.voperson_id == str(claims["voperson_id"]).lower()
    assert somebody.name == "A. Researcher"
    assert somebody.email == "a.researcher@example.org"
    assert somebody.affiliations == ("member@example.org",)
    assert somebody.groups == GROUPS[name]
    assert somebody.assurance[0].startswith(RAF)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_claim_but_the_subject_may_be_absent(name: str) -> None:
    somebody = person_from({"sub": "a1"}, issuer=ISSUER, preset=PRESETS[name], namespaces=SPACE)

    assert somebody == Person(
        issuer=ISSUER,
        subject="a1",
        name="a1",
        email="",
        voperson_id="",
        affiliations=(),
        groups=(),
        assurance=(),
        acr="",
    )


@pytest.mark.parametrize(
    ("value", "groups"),
    [
        (None, ()),
        ([], ()),
        ({}, ()),
        (True, ()),
        (7, ()),
        ({"urn": GROUP}, ()),
        ([[GROUP]], ()),
        ([None, 3, {}], ()),
        ("", ()),
        (GROUP, (GROUP,)),
        ([GROUP], (GROUP,)),
        ([GROUP, GROUP], (GROUP,)),
        ([GROUP, 3, None], (GROUP,)),
        ([f"{GROUP}#somewhere", f"{GROUP}#elsewhere"], (GROUP,)),
        (f"{GROUP},{GROUP}", (f"{GROUP},{GROUP}",)),  # one odd name, not two groups
        ([GROUP] * 5000, (GROUP,)),
        ([f"{GROUP}:{'x' * 600}"], ()),
    ],
)
def test_a_claim_may_come_in_any_shape(value: object, groups: tuple[str, ...]) -> None:
    assert person({"eduperson_entitlement": value}).groups == groups


@pytest.mark.parametrize(
    ("urn", "normal"),
    [
        ("URN:GEANT:Example.ORG:group:Beamline", "urn:geant:example.org:group:Beamline"),
        ("urn:geant:example.org:service:group:a", "urn:geant:example.org:service:group:a"),
        ("urn:geant:example.org:group:a%3ab", "urn:geant:example.org:group:a%3Ab"),
        ("urn:geant:example.orgs:group:a", None),
        ("urn:geant:example:group:a", None),
        ("urn:mace:example.org:group:a", None),
        ("urn:evil:urn:geant:example.org:group:a", None),
        ("urn:geant:example.org:group:a:role=", None),
        ("urn:geant:example.org:group:", None),
        ("urn:geant:example.org:res:visa:act:create", None),
        ("group:a", None),
        (":group:", None),
    ],
)
def test_a_group_counts_only_in_a_namespace_of_its_issuer(urn: str, normal: str | None) -> None:
    assert groups_in([urn], SPACE) == ((normal,) if normal else ())


def test_an_issuer_without_namespaces_states_no_groups() -> None:
    assert person({"eduperson_entitlement": GROUP}, namespaces=()).groups == ()


@pytest.mark.parametrize(
    ("held", "wanted", "satisfied"),
    [
        (GROUP, GROUP, True),
        (f"{GROUP}:sub", GROUP, True),
        (GROUP, f"{GROUP}:sub", False),
        (f"{GROUP}:role=manager", GROUP, True),
        (GROUP, f"{GROUP}:role=manager", False),
        (f"{GROUP}:role=member", f"{GROUP}:role=manager", False),
        (f"{GROUP}:sub:role=manager", f"{GROUP}:role=manager", False),
        (f"{GROUP}s", GROUP, False),
        (GROUP.replace("beamline", "Beamline"), GROUP, False),
        (GROUP.upper().replace("GROUP:BEAMLINE", "group:beamline"), GROUP, True),
        (f"{GROUP}#anybody", f"{GROUP}#somebody", True),
        (GROUP, "nonsense", False),
    ],
)
def test_membership_follows_the_guideline(held: str, wanted: str, satisfied: bool) -> None:
    assert is_member([held], wanted) is satisfied


@pytest.mark.parametrize("subject", [None, "", 7, ["a"], "a b", "a\0", "é", "x" * 256, "a\n"])
def test_a_subject_that_is_none_is_refused(subject: object) -> None:
    with pytest.raises(ClaimsUnusable):
        person({"sub": subject})


@pytest.mark.parametrize("identifier", ["test@eduteams.org", "TEST@myaccessid.org", "test@proxy.eduteams.org"])
@pytest.mark.parametrize("claim", ["sub", "voperson_id"])
def test_a_providers_identity_for_tests_is_refused(identifier: str, claim: str) -> None:
    with pytest.raises(ClaimsUnusable):
        person({claim: identifier})


@pytest.mark.parametrize("identifier", ["tester@eduteams.org", "test@example.org", "test@noteduteams.org", "test"])
def test_nobody_else_is_taken_for_a_test(identifier: str) -> None:
    assert not is_reserved(identifier)


def test_the_subject_keeps_its_case_and_the_community_identifier_does_not() -> None:
    somebody = person({"sub": "AbC", "voperson_id": "AbC@Example.org"})

    assert (somebody.subject, somebody.voperson_id) == ("AbC", "abc@example.org")


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({"name": "A. Researcher"}, "A. Researcher"),
        ({"given_name": "A.", "family_name": "Researcher"}, "A. Researcher"),
        ({"name": " ", "preferred_username": "aresearcher"}, "aresearcher"),
        ({"name": "A.\u202e Rese\0arch\ner"}, "A. Researcher"),
        ({"name": "x" * 900}, "x" * 200),
        ({"name": ["A. Researcher"]}, "A. Researcher"),
        ({}, "a1"),
    ],
)
def test_a_name_is_made_of_what_there_is(claims: dict[str, object], name: str) -> None:
    assert person(claims).name == name


@pytest.mark.parametrize("email", ["no address", "a@b@c", "a@", "x" * 300 + "@example.org", 7, None, ["a b@c"]])
def test_an_address_that_is_none_is_left_out(email: object) -> None:
    assert person({"email": email}).email == ""


@given(
    st.dictionaries(
        st.sampled_from(["name", "email", "voperson_id", "eduperson_entitlement", "eduperson_assurance", "given_name"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=5,
        ),
    )
)
def test_whatever_comes_ends_in_a_person_a_database_can_hold(claims: dict[str, object]) -> None:
    somebody = person(claims)

    texts = [somebody.name, somebody.email, somebody.voperson_id, *somebody.groups, *somebody.assurance]
    assert somebody.name
    assert not any("\0" in text for text in texts)
    assert len(somebody.name) <= 200
    assert len(somebody.voperson_id) <= 255


def roles(**more: tuple[str, ...]) -> Roles:
    return Roles(**{"administrator": (), "support": (), "instrument_scientist": (), **more})


def test_roles_come_from_the_mapping_by_group_or_by_subject() -> None:
    somebody = person({"eduperson_entitlement": [f"{GROUP}:role=manager"]})
    mapping = roles(
        administrator=(f"subject:{ISSUER}#a1",),
        support=(f"entitlement:{GROUP}:role=member",),
        instrument_scientist=(f"entitlement:{GROUP}",),
    )

    assert roles_of(somebody, mapping) == {Role.ADMINISTRATOR, Role.INSTRUMENT_SCIENTIST}


@pytest.mark.parametrize(
    "entry",
    [
        f"subject:{ISSUER}#A1",
        f"subject:{ISSUER}/#a1",
        "subject:https://other.example.org#a1",
        "subject:#a1",
        f"{ISSUER}#a1",
        "entitlement:",
        "entitlement:*",
        "*",
        "",
    ],
)
def test_no_other_entry_gives_a_role(entry: str) -> None:
    somebody = person({"eduperson_entitlement": GROUP})

    assert roles_of(somebody, roles(administrator=(entry,))) == frozenset()


def test_an_entry_that_cannot_be_understood_is_named() -> None:
    mapping = roles(administrator=("admin@example.org", f"entitlement:{GROUP}"), support=("subject:nobody",))

    faults = faults_of(mapping)

    assert [fault.split(":")[0] for fault in faults] == ["ADMINISTRATOR", "SUPPORT"]
