"""What a model makes that is not what was asked for: refused by name, and the child goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.worker.errors import ReportedError

if TYPE_CHECKING:
    from tests.support.runner import RealRunner


@pytest.mark.parametrize(
    ("deed", "message"),
    [
        ("return_nan", "the model produced values that are not finite"),
        ("return_small_pixels", r"the model made uint8 pixels of \(8, 8, 3\), not uint8 of \(48, 64, 3\)"),
        ("return_too_many", "the model made 2 pictures for 1 seeds"),
        ("make_a_smaller_one", "the model made 16x16 where 64x48 was asked for"),
        ("make_one_of_another_seed", "the model made pictures of 1 seeds, not of the 1 asked"),
        ("write_nothing", "'0.png' is no file that the model has written into its folder"),
        ("write_elsewhere", "'../model' is no file that the model has written into its folder"),
        ("return_a_link", "'0.png' is no file that the model has written into its folder"),
    ],
)
def test_output_that_is_not_what_was_asked_for_is_refused_for_good(real: RealRunner, deed: str, message: str) -> None:
    with pytest.raises(ReportedError, match=message) as caught:
        real.run(deed)
    assert (caught.value.code, caught.value.retryable) == ("invalid_output", False)
    first = real.supervisor.pid
    assert real.run().receipt["pid"] == first


def test_memory_that_the_host_does_not_have_is_no_bug(real: RealRunner) -> None:
    with pytest.raises(ReportedError) as caught:
        real.run("allocate_without_end")
    assert (caught.value.code, caught.value.retryable) == ("out_of_memory", True)
    first = real.supervisor.pid
    assert real.run().receipt["pid"] == first
