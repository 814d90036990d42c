"""How far a long check is, on the terminal."""

from __future__ import annotations

import sys
import time
from typing import Final

REPORT_EVERY_S: Final = 0.5


class Progress:
    """One line on the terminal that says how far the check is, and how long the rest may take."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._begin = self._said = time.monotonic()
        self._shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def __call__(self, done: int, total: int) -> None:
        left = (time.monotonic() - self._begin) * (total - done) / max(done, 1)
        self._say(f"{done} of {total} entries, {100 * done // max(total, 1)} %, {left:.0f} s left")

    def unknown(self, what: str) -> None:
        """`what` is going on elsewhere, nobody knows how far."""
        self._say(f"{what}, {time.monotonic() - self._begin:.0f} s so far")

    def _say(self, line: str) -> None:
        now = time.monotonic()
        if not self._wanted or now - self._said < REPORT_EVERY_S:
            return
        self._said, self._shown = now, True
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
