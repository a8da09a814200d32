from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from shared.domain.keeping import REUSED_FOR, kept_until, may_be_given
from tests.support.builders import NOW

DAY = timedelta(days=1)
AGES = st.timedeltas(min_value=timedelta(0), max_value=20 * DAY)
KEEPS = st.integers(1, 60).map(lambda days: days * DAY)


def test_a_result_that_nobody_else_may_have_is_kept_from_its_end_for_as_long_as_its_plan_says() -> None:
    assert kept_until(NOW, NOW + DAY, 30 * DAY, None) == NOW + 31 * DAY


def test_a_result_is_given_while_it_is_young() -> None:
    assert may_be_given(NOW + REUSED_FOR - timedelta(seconds=1), NOW)
    assert not may_be_given(NOW + REUSED_FOR, NOW)


@given(
    given_at=AGES, took=st.timedeltas(min_value=timedelta(0), max_value=timedelta(minutes=59)), own=KEEPS, other=KEEPS
)
def test_whoever_was_given_a_result_has_it_for_as_long_as_its_own_plan_says(
    given_at: timedelta, took: timedelta, own: timedelta, other: timedelta
) -> None:
    ended = NOW + timedelta(minutes=1)
    until = kept_until(NOW, ended, own, max(own, other))
    assert until >= ended + own
    if may_be_given(NOW + given_at, NOW):
        assert until >= NOW + given_at + took + other
