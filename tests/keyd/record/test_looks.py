"""Long looks at the record: one after the other, and everybody gets a turn."""

from __future__ import annotations

import asyncio
import threading

import pytest

from keyd.peer import Peer
from keyd.record.looks import Looks
from tests.keyd.conftest import Rig

ONE, OTHER = Peer(1, 1000, 1000), Peer(2, 1001, 1001)


async def test_who_looks_again_and_again_waits_for_those_who_look_once(rig: Rig) -> None:
    looks, order, may_end = Looks(rig.ledger), [], threading.Event()
    looking, loop = asyncio.Event(), asyncio.get_running_loop()

    def look(peer: Peer) -> int:
        order.append(peer)
        loop.call_soon_threadsafe(looking.set)
        assert may_end.wait(60)
        return peer.uid

    taken = [asyncio.create_task(looks.take(peer, look, peer)) for peer in (ONE, ONE, ONE, OTHER)]
    await looking.wait()
    may_end.set()
    assert await asyncio.gather(*taken) == [1000, 1000, 1000, 1001]
    assert order == [ONE, OTHER, ONE, ONE]


async def test_before_each_look_a_long_journal_is_begun_anew(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    monkeypatch.setattr(rig.ledger, "shorten_journal", lambda: steps.append("journal"))
    looks = Looks(rig.ledger)
    for _ in range(2):
        await looks.take(ONE, steps.append, "look")
    assert steps == ["journal", "look"] * 2


async def test_a_look_that_fails_ends_for_whoever_took_it_alone(rig: Rig) -> None:
    looks = Looks(rig.ledger)
    with pytest.raises(ZeroDivisionError):
        await looks.take(ONE, divmod, 1, 0)
    assert await looks.take(ONE, divmod, 7, 2) == (3, 1)
