"""Whose turn it is to take the next connection."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from egress.loads import PATIENCE_S, Load, Loads, SharedListener


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def loads() -> Iterator[Loads]:
    descriptor = Loads.make(3)
    yield Loads(descriptor)
    os.close(descriptor)


@contextmanager
def listening(load: Load, clock: Clock) -> Iterator[SharedListener]:
    """A listener on which one connection waits already."""
    with closing(socket.create_server(("127.0.0.1", 0))) as bound, closing(socket.socket()) as client:
        client.connect(bound.getsockname())
        with SharedListener(os.dup(bound.fileno()), load, clock) as listener:
            yield listener


def test_who_has_fewest_connections_takes_the_next_one_at_once(loads: Loads) -> None:
    mine, other = Load(loads, 0), Load(loads, 1)
    mine.tell(2)
    other.tell(2)
    with listening(mine, Clock()) as listener:
        accepted, _ = listener.accept()
        accepted.close()


def test_who_has_more_lets_the_other_go_first_but_not_for_ever(loads: Loads) -> None:
    mine, other, clock = Load(loads, 0), Load(loads, 1), Clock()
    mine.tell(3)
    other.tell(2)
    with listening(mine, clock) as listener:
        with pytest.raises(BlockingIOError):
            listener.accept()
        clock.now += PATIENCE_S / 2
        with pytest.raises(BlockingIOError):
            listener.accept()
        clock.now += PATIENCE_S
        accepted, _ = listener.accept()  # the other one is stuck
        accepted.close()


def test_a_later_connection_is_waited_for_anew(loads: Loads) -> None:
    mine, other, clock = Load(loads, 0), Load(loads, 1), Clock()
    mine.tell(3)
    other.tell(2)
    with listening(mine, clock) as listener:
        for _ in range(3):  # each time the other one took it
            with pytest.raises(BlockingIOError):
                listener.accept()
            clock.now += 60


def test_nobody_waits_for_a_worker_that_does_not_serve(loads: Loads) -> None:
    mine, other = Load(loads, 0), Load(loads, 1)
    mine.tell(5)
    assert not mine.is_ahead()  # the others have not begun
    other.tell(4)
    assert mine.is_ahead()
    loads.leave(1)
    assert not mine.is_ahead()
