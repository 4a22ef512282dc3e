"""The protocol's model, exhaustively: the designs that fail do fail, and ours cannot get stuck."""

import pytest

from tests.model.creation import explore
from tests.model.table import ROWS, Row


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_state_of_a_design_is_walked_through(row: Row) -> None:
    found = explore(row.design, row.faults)

    assert (found.doubled and len(found.doubled)) == row.doubled, found.doubled
    assert (found.stuck and len(found.stuck)) == row.stuck, found.stuck
