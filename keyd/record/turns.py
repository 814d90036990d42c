"""Steps of the ledger's writer, awaited in the event loop, which is woken once for many of them."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ledger.log import Ledger
from ledger.transaction import Transaction


class Turns:
    """Takes turns in one ledger, from one event loop.

    With `asyncio.wrap_future` each of thirty requests that share a commit would write to the loop's pipe, and each
    time the writer would give the interpreter away in the middle of its work.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._ended: deque[tuple[Future[Any], asyncio.Future[Any]]] = deque()
        self._called = False
        self._lock = threading.Lock()  # guards the two above: a step may end in either thread

    async def take[T](self, step: Callable[[Transaction], T]) -> T:
        """Returns or raises what `step` does, once its entries are on the disk. See `Ledger.transact`."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[T] = loop.create_future()

        def ended(future: Future[T]) -> None:  # in the writer's thread, or here if it was quicker
            with self._lock:
                self._ended.append((future, waiter))
                if self._called or loop.is_closed():  # it was called, and has not come yet
                    return
                self._called = True
            loop.call_soon_threadsafe(self._tell)

        future = self._ledger.transact(step)
        future.add_done_callback(ended)
        try:
            return await waiter
        finally:
            future.cancel()  # a step whose caller is gone need not begin; one that began is not stopped

    def _tell(self) -> None:
        with self._lock:
            ended, self._ended, self._called = self._ended, deque(), False
        for future, waiter in ended:
            if waiter.done():  # its caller is gone
                continue
            if (error := future.exception()) is not None:
                waiter.set_exception(error)
            else:
                waiter.set_result(future.result())
