"""All faults, in the order of the matrix. To be imported when Django is ready."""

from tests.faults import answers, neighbours, stores, workers  # noqa: F401 - fill the table
from tests.faults.matrix import TABLE

NAMES = tuple(sorted(TABLE))
