"""The rows of the model's table: which design under which faults, and what must come out."""

from dataclasses import dataclass

from tests.model import creation
from tests.model.creation import Design, Faults

#: enough for every trouble there is in these designs; more of them only takes longer
USUAL = Faults()
#: three workers, three kills, two leases that run out while their worker still works
MANY = Faults(workers=3, kills=3, slow=2, silences=1)


#: a cloud that executes a request later than the quiet period waits
LATE = Faults(beyond_quiet=True)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line: in how many steps two live servers can exist at once, and in how many it can be stuck for ever.

    None is never. Stuck begins where no right end can be reached any more, which is before anybody can see it.
    """

    design: Design
    doubled: int | None
    stuck: int | None
    faults: Faults = USUAL

    @property
    def name(self) -> str:
        if self.faults == MANY:
            return f"{self.design.name}, {MANY.workers} workers, {MANY.kills} kills, {MANY.slow} slow"
        return self.design.name if self.faults == USUAL else f"{self.design.name}, requests later than Q"


ROWS = (
    Row(design=creation.A, doubled=7, stuck=3),
    # The second worker looks before the cloud has executed what the first asked for.
    Row(design=creation.B, doubled=9, stuck=5),
    Row(design=creation.C, doubled=11, stuck=5),
    Row(design=creation.D, doubled=None, stuck=None),
    # A worker freezes between its look and its request, for longer than its lease and the quiet period.
    Row(design=creation.D_TRUE, doubled=12, stuck=7),
    Row(design=creation.E_TRUE, doubled=12, stuck=None),
    Row(design=creation.E_TRUE, doubled=12, stuck=None, faults=MANY),
    Row(design=creation.E_TRUE, doubled=12, stuck=None, faults=LATE),
    # A port takes one server: what a frozen worker asks for too late is refused, whatever the row has become. That
    # holds where ports can be doubled as well, since no server is asked for on a port that the row does not name.
    Row(design=creation.PORT, doubled=None, stuck=None),
    Row(design=creation.PORT_ALONE, doubled=None, stuck=5),
    Row(design=creation.PORT, doubled=None, stuck=None, faults=LATE),
    Row(design=creation.SHARED, doubled=None, stuck=None),
)
