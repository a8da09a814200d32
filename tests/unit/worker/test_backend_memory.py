from __future__ import annotations

import numpy as np
import pytest

from services.worker.backends.memory import MemoryMeter

MEBIBYTE = 1 << 20


@pytest.mark.exhaustive
def test_a_peak_counts_from_the_reset_and_what_was_freed_before_is_not_in_it() -> None:
    meter = MemoryMeter("cpu")
    before = meter.read().rss_mb
    ballast = np.ones(200 * MEBIBYTE, dtype=np.uint8)
    del ballast
    assert meter.read().peak_mb >= before + 190
    meter.release()
    meter.reset()
    after = meter.read()
    assert after.peak_mb < before + 190
    assert after.peak_mb >= after.rss_mb > 0
    assert (after.allocated_mb, after.reserved_mb) == (0, 0)


def test_a_device_that_no_library_has_opened_takes_nothing_of_it() -> None:
    assert MemoryMeter("cuda:0").read().allocated_mb == 0
