"""Finding blocks by time: right on every chain, quick on regular ones, and it always ends."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconcile.chain import Block
from reconcile.faults import NodeFault
from reconcile.timeline import SLACK, Timeline


def block(number: int, time: int) -> Block:
    return Block(number, f"0x{number:064x}", time)


def search(timeline: Timeline, times: list[int], wanted: int, turns: int) -> int:
    """Runs a search; returns how many headers it asked for."""
    for turn in range(turns):
        number = timeline.next_to_ask(wanted, turn)
        if number is None:
            return turn
        timeline.add(block(number, times[number]))
    raise AssertionError("the search does not end")


intervals = st.lists(st.integers(0, 500) | st.integers(1, 3), min_size=1, max_size=300)


@given(st.integers(0, 2000), intervals, st.data())
def test_the_bracket_holds_the_wanted_time_on_any_chain(
    genesis: int, gaps: list[int], data: st.DataObject
) -> None:
    times = list(accumulate(gaps, initial=genesis))
    timeline = Timeline(block(len(times) - 1, times[-1]))
    for wanted in data.draw(st.lists(st.integers(-100, times[-1] + 100), min_size=1, max_size=3)):
        search(timeline, times, wanted, turns=64)
        low, high = timeline.not_after(wanted), timeline.after(wanted)
        assert times[low] <= wanted or low == 0
        assert times[high] > wanted or high == len(times) - 1
        if low > 0 and high < len(times) - 1:
            assert high - low <= SLACK


@pytest.mark.parametrize("seconds", [1, 2, 12])
@pytest.mark.parametrize("ago", [0, 60, 900, 86_400, 1_000_000])
def test_a_regular_chain_needs_few_headers(seconds: int, ago: int) -> None:
    height = 2_000_000
    times = range(1_700_000_000, 1_700_000_000 + seconds * (height + 1), seconds)
    timeline = Timeline(block(height, times[height]))
    assert search(timeline, list(times), times[height] - ago, turns=64) <= 4


def test_times_after_the_head_need_no_header() -> None:
    timeline = Timeline(block(9, 100))
    assert timeline.next_to_ask(100, 0) is None
    assert (timeline.not_after(100), timeline.after(100)) == (9, 9)


def test_the_first_block_ends_the_search() -> None:
    assert Timeline(block(0, 100)).next_to_ask(50, 0) is None


@pytest.mark.parametrize("bad", [block(5, 101), block(10, 99), block(11, 200), block(3, 71), block(4, 69)])
def test_headers_that_cannot_be_of_one_chain_are_refused(bad: Block) -> None:
    timeline = Timeline(block(10, 100))
    timeline.add(block(4, 70))
    with pytest.raises(NodeFault):
        timeline.add(bad)


def test_a_header_may_be_told_again() -> None:
    timeline = Timeline(block(10, 100))
    for _ in range(2):
        timeline.add(block(4, 70))
        timeline.add(block(10, 100))
    assert (timeline.not_after(70), timeline.after(70)) == (4, 10)
