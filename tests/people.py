"""The cast: who appears in the tests, named by what they are to the thing that is tested."""

from dataclasses import dataclass, field

from visa.accounts.claims import Role

#: the issuer everybody of the cast signs in at
ISSUER = "http://127.0.0.1:9"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One of the cast."""

    subject: str
    name: str
    roles: frozenset[Role] = field(default_factory=frozenset)


OWNER = Figure(subject="owner", name="A. Researcher")
MEMBER = Figure(subject="member", name="B. Team-Mate")
SUPPORT = Figure(subject="support", name="C. Support", roles=frozenset({Role.SUPPORT}))
STRANGER = Figure(subject="stranger", name="D. Stranger")
SCIENTIST = Figure(subject="instrumentscientist", name="E. Instrument", roles=frozenset({Role.INSTRUMENT_SCIENTIST}))
ADMINISTRATOR = Figure(subject="administrator", name="F. Administrator", roles=frozenset({Role.ADMINISTRATOR}))

CAST = (OWNER, MEMBER, SUPPORT, STRANGER, SCIENTIST, ADMINISTRATOR)
