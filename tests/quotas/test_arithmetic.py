"""Resources add up, and a shortfall names exactly the dimensions that bind."""

from hypothesis import given
from hypothesis import strategies as st

from quotas.arithmetic import DIMENSIONS, Resources, shortfalls

amounts = st.builds(Resources, **{name: st.integers(0, 1000) for name in DIMENSIONS})


@given(amounts, amounts)
def test_what_is_added_can_be_taken_away_again(one: Resources, other: Resources) -> None:
    assert one + other - other == one


@given(amounts, amounts, amounts)
def test_it_fits_exactly_where_every_dimension_fits(asked: Resources, limit: Resources, used: Resources) -> None:
    short = {one.dimension: one for one in shortfalls(asked, limit=limit, used=used)}

    for name in DIMENSIONS:
        wanted = getattr(asked, name)
        left = getattr(limit, name) - getattr(used, name)
        assert (name in short) == (wanted > 0 and wanted > left)
        if name in short:
            assert short[name].left == max(0, left)


def test_a_dimension_of_which_nothing_is_asked_never_binds() -> None:
    lowered = Resources(machines=4, cores=8, memory_mib=8192, gpus=0)

    assert shortfalls(Resources(machines=1, cores=1), limit=lowered, used=Resources(gpus=2)) == ()
