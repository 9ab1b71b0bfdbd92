from __future__ import annotations

from struct import pack

import pytest

from gateway.quota.redis.status import WindowStatus, corrected, window_status
from tests.gateway.quota.model.calibration import Calibration


def test_a_window_has_what_is_less_than_a_minute_old() -> None:
    fields = {b"100": pack("<ddd", 2, 50, 100_500), b"130": pack("<ddd", 1, 7, 130_250), b"sums": b"not read"}
    assert window_status(fields, 130_250) == WindowStatus(3, 57, 60)
    assert window_status(fields, 160_499) == WindowStatus(3, 57, 30)
    assert window_status(fields, 160_500) == WindowStatus(1, 7, 30)
    assert window_status(fields, 190_250) == WindowStatus(0, 0, 0)
    assert window_status({}, 1) == WindowStatus(0, 0, 0)


@pytest.mark.parametrize(("mean", "deviation"), [(1000, 0), (700, 100), (100, 0), (9000, 9000)])
def test_an_estimate_is_corrected_as_an_admission_corrects_it(mean: int, deviation: int) -> None:
    assert corrected(f"{mean}:{deviation}", 333) == Calibration(mean, deviation).corrected(333)
    assert corrected(None, 333) == 333
