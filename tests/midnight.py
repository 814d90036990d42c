"""Budgets are of a day (UTC): what a test paid at 23:59:59 is not spent any more when it asks a second later."""

from __future__ import annotations

from typing import Final

DAY_S: Final = 86_400


def pause_before(now_s: float, longest_s: float) -> float:
    """Seconds to wait at `now_s` (Unix time), so that what takes at most `longest_s` seconds has one date."""
    left = DAY_S - now_s % DAY_S
    return left if left < longest_s else 0.0
