"""Steps of the ledger's writer, awaited in the loop (`keyd.record.turns`)."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest

from keyd.record.turns import Turns
from ledger.errors import LedgerUnavailable
from ledger.log import Ledger
from ledger.transaction import Transaction


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger.open(tmp_path / "ledger", clock=lambda: 0)
    yield ledger
    ledger.close()


class Held:
    """A step that keeps the writer until it is let go, so that what comes after it waits together."""

    def __init__(self) -> None:
        self.began, self._gate = threading.Event(), threading.Event()

    def __call__(self, _: Transaction) -> bool:
        self.began.set()
        return self._gate.wait(60)

    def let_go(self) -> None:
        self._gate.set()


async def held(turns: Turns) -> tuple[Held, asyncio.Task[bool]]:
    step = Held()
    task = asyncio.create_task(turns.take(step))
    await asyncio.to_thread(step.began.wait, 60)
    return step, task


def noted(transaction: Transaction) -> int:
    return transaction.append("test.noted", "test", {}).seq


async def test_a_loop_that_was_called_is_not_called_again_until_it_came(ledger: Ledger) -> None:
    turns = Turns(ledger)
    waiting = [asyncio.create_task(turns.take(noted)) for _ in range(20)]
    loop = asyncio.get_running_loop()
    with patch.object(loop, "call_soon_threadsafe", wraps=loop.call_soon_threadsafe) as called:
        await asyncio.sleep(0)  # all are handed over
        ledger.transact(noted).result(60)  # the loop is busy, while the writer answers all of them
        assert called.call_count == 1
        assert await asyncio.gather(*waiting) == list(range(1, 21))
        assert await turns.take(noted) == 22
        assert called.call_count == 2


async def test_what_a_step_raises_reaches_its_caller_alone(ledger: Ledger) -> None:
    def failing(_: Transaction) -> None:
        raise RuntimeError("changed my mind")

    turns = Turns(ledger)
    seq, failure = await asyncio.gather(turns.take(noted), turns.take(failing), return_exceptions=True)
    assert seq == 1
    assert isinstance(failure, RuntimeError)
    ledger.close()
    with pytest.raises(LedgerUnavailable):
        await turns.take(noted)


async def test_a_step_whose_caller_is_gone_before_it_began_never_runs(ledger: Ledger) -> None:
    turns = Turns(ledger)
    step, first = await held(turns)
    gone, kept = (asyncio.create_task(turns.take(noted)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    step.let_go()
    assert await first
    assert await kept == 1
    assert ledger.head().seq == 1


async def test_a_caller_that_leaves_while_its_step_runs_keeps_nobody_waiting(ledger: Ledger) -> None:
    turns = Turns(ledger)
    step = Held()

    def appending(transaction: Transaction) -> int:
        step(transaction)
        return noted(transaction)

    gone = asyncio.create_task(turns.take(appending))
    await asyncio.to_thread(step.began.wait, 60)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    step.let_go()
    assert await turns.take(noted) == 2  # the step that ran is on record


class Ended(deque[Any]):
    """What has ended. The first to append gives the other thread time to append as well."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._both = threading.Barrier(2)

    def append(self, item: Any) -> None:
        super().append(item)
        self._loop.call_soon_threadsafe(self.begun.set)
        with suppress(threading.BrokenBarrierError):  # the other one waits for a lock
            self._both.wait(0.5)


async def test_steps_that_end_in_both_threads_at_once_are_both_told() -> None:
    """If each took the other for the one that wakes the loop, no payment would be answered ever again."""
    in_writer: Future[str] = Future()
    at_once: Future[str] = Future()
    at_once.set_result("at once")
    futures = iter([in_writer, at_once])
    turns = Turns(SimpleNamespace(transact=lambda _: next(futures)))  # type: ignore[arg-type]
    turns._ended = ended = Ended()
    first = asyncio.create_task(turns.take(lambda _: ""))
    await asyncio.sleep(0)
    writer = threading.Thread(target=in_writer.set_result, args=("in the writer",))
    writer.start()
    await ended.begun.wait()
    second = asyncio.create_task(turns.take(lambda _: ""))
    assert await asyncio.wait_for(asyncio.gather(first, second), 60) == ["in the writer", "at once"]
    writer.join()
