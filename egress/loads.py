"""How many connections each worker has, in memory that all of them see, and whose turn it is to take the next one.

The kernel wakes every idle worker for a connection, and the quickest takes it. Of connections that come one after the
other and stay, as those of programs with keep-alive do, that can be the same one each time, while the others idle.
"""

from __future__ import annotations

import mmap
import os
import socket
import time
from collections.abc import Callable
from typing import Any, Final

PATIENCE_S: Final = 0.005
"""How long a connection waits for a worker with fewer of them: an idle one is there in a tenth of a millisecond."""
_FORGOTTEN_S: Final = 1.0
"""A connection that was left to others this long ago is not the one that waits now."""
_ABSENT: Final = 2**62
"""Of a worker that does not serve: nobody waits for it."""


class Loads:
    """One number for each worker, in an anonymous file. Aligned 64-bit integers: each is read and written whole."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor`: from `make`; it stays open."""
        self._memory = mmap.mmap(descriptor, 0)
        self._numbers = memoryview(self._memory).cast("q")

    @staticmethod
    def make(workers: int) -> int:
        """A descriptor to hand to `workers` workers, none of which serves yet."""
        descriptor = os.memfd_create("osmoda-egress-loads")
        os.ftruncate(descriptor, workers * 8)
        loads = Loads(descriptor)
        for worker in range(workers):
            loads.leave(worker)
        return descriptor

    def set(self, worker: int, connections: int) -> None:
        self._numbers[worker] = connections

    def leave(self, worker: int) -> None:
        """It serves no more, however it ended."""
        self._numbers[worker] = _ABSENT

    def least(self) -> int:
        return min(self._numbers)


class Load:
    """What one worker says of itself to the others, from when it serves."""

    def __init__(self, loads: Loads, worker: int) -> None:
        self._loads, self._worker = loads, worker
        self._connections = 0

    def tell(self, connections: int) -> None:
        self._connections = connections
        self._loads.set(self._worker, connections)

    def is_ahead(self) -> bool:
        """Whether another worker has fewer connections."""
        return self._connections > self._loads.least()


class SharedListener(socket.socket):
    """A listening socket of several workers, on which a worker with more connections than another lets that one go first.

    asyncio takes what `accept` raises for a connection that another process was quicker to take, and comes back as
    long as one waits.
    """

    def __init__(self, descriptor: int, load: Load, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` in seconds."""
        super().__init__(fileno=descriptor)
        self._load, self._clock = load, clock
        self._left_at: float | None = None

    def accept(self) -> tuple[socket.socket, Any]:
        """Raises BlockingIOError also while somebody else should take it."""
        if self._load.is_ahead():
            now = self._clock()
            if self._left_at is None or now - self._left_at > _FORGOTTEN_S:
                self._left_at = now
            if now - self._left_at < PATIENCE_S:
                raise BlockingIOError("left to a worker with fewer connections")
        self._left_at = None
        return super().accept()
