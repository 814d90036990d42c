"""No test begins on one day and ends on the next."""

from __future__ import annotations

import pytest

from tests.midnight import DAY_S, pause_before

NOON = 20_000.5 * DAY_S
MIDNIGHT = 20_001.0 * DAY_S


@pytest.mark.parametrize(
    ("now", "pause"),
    [(NOON, 0), (MIDNIGHT - 301, 0), (MIDNIGHT - 300, 0), (MIDNIGHT - 299, 299), (MIDNIGHT, 0)],
)
def test_what_would_not_be_done_before_midnight_waits_for_it(now: float, pause: float) -> None:
    assert pause_before(now, 300) == pause
    assert (now + pause) // DAY_S == (now + pause + 299.9) // DAY_S
