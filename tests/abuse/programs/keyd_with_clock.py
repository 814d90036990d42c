"""keyd, but its clock is as many microseconds off as the file named in OSMODA_TEST_CLOCK says, or stands at `=N`."""

from __future__ import annotations

import os
from pathlib import Path

import keyd.__main__ as daemon

_OFFSET = Path(os.environ["OSMODA_TEST_CLOCK"])
_true_clock_us = daemon.clock_us


def _clock_us() -> int:
    text = _OFFSET.read_text()
    return int(text[1:]) if text.startswith("=") else _true_clock_us() + int(text)


daemon.clock_us = _clock_us
daemon.main()
