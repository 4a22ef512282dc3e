"""Index of fixtures

op, arrive     a provider to sign in at, as the tests of accounts have it
"""

from tests.visa.accounts.conftest import arrive, op

__all__ = ["arrive", "op"]
