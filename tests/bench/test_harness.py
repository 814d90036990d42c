"""Rounds and statistics of the benches. Nothing here measures time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.harness import (
    WARM_UP_ROUNDS,
    Comparison,
    Contender,
    Peer,
    at_least,
    at_most,
    measure,
    quantile,
    summary,
    take_turns,
)

figures = st.lists(st.floats(min_value=0.001, max_value=1e6), min_size=1, max_size=50)


def script(name: str, rounds: Sequence[Sequence[float]], turns: list[str] | None = None) -> Contender:
    """A contender whose rounds are known beforehand; the warm-up is one that would spoil every figure."""
    prepared = iter([[1e9]] * WARM_UP_ROUNDS + [list(figures) for figures in rounds])

    def sample() -> Sequence[float]:
        if turns is not None:
            turns.append(name)
        return next(prepared)

    return Contender(name, sample)


def test_contenders_take_turns_in_an_order_that_reverses() -> None:
    turns: list[str] = []
    take_turns([script("a", [[1]] * 3, turns), script("b", [[1]] * 3, turns)], 3)
    assert turns == ["a", "b", "b", "a", "a", "b", "b", "a"]


def test_the_warm_up_is_in_no_figure() -> None:
    (result,) = measure(Comparison("x", "ms", script("a", [[1, 2], [3]])), 2)
    assert (result.figures.count, result.figures.worst) == (3, 3)


def test_the_ratio_is_taken_within_each_round() -> None:
    """The machine is three times slower in the second round: that is not in the ratio."""
    ours, theirs = script("ours", [[1], [3], [1]]), script("theirs", [[2], [6], [2]])
    (result,) = measure(Comparison("x", "ms", ours, [Peer(theirs, at_most(0.5))]), 3)
    assert result.ratio is not None
    assert (result.ratio.median, result.ratio.low, result.ratio.high) == (0.5, 0.5, 0.5)
    assert result.met is True


def test_each_peer_has_a_line_of_its_own() -> None:
    comparison = Comparison(
        "x",
        "ms",
        script("ours", [[4]]),
        [Peer(script("fast", [[2]]), at_most(1)), Peer(script("slow", [[8]]))],
    )
    fast, slow = measure(comparison, 1)
    assert (fast.peer, fast.met) == ("fast", False)
    assert (slow.peer, slow.met, slow.ratio and slow.ratio.median) == ("slow", None, 0.5)


@pytest.mark.parametrize(
    ("bound", "value", "met"),
    [(at_most(5), 5, True), (at_most(5), 5.1, False), (at_least(3), 3, True), (at_least(3), 2.9, False)],
)
def test_a_bound_includes_its_limit(bound, value: float, met: bool) -> None:
    assert bound.met_by(value) is met


def test_a_missed_target_of_our_own_is_missed_however_good_the_ratio() -> None:
    ours, theirs = script("ours", [[6]]), script("theirs", [[60]])
    (result,) = measure(Comparison("x", "ms", ours, [Peer(theirs, at_most(1))], target=at_most(5)), 1)
    assert result.met is False


def test_the_worst_is_the_least_where_more_is_better() -> None:
    assert summary([1, 2, 9]).worst == 9
    assert summary([1, 2, 9], more_is_better=True).worst == 1


@given(figures)
def test_a_summary_is_in_order(values: list[float]) -> None:
    found = summary(values)
    assert min(values) <= found.low <= found.median <= found.high <= found.worst == max(values)


@given(figures)
def test_quantiles_reach_from_the_least_to_the_most(values: list[float]) -> None:
    assert (quantile(values, 0), quantile(values, 1)) == (min(values), max(values))


def test_quantiles_lie_between_the_closest_ranks() -> None:
    assert quantile([4, 1, 3, 2], 0.25) == 1.75


@pytest.mark.parametrize("empty", [lambda: summary([]), lambda: take_turns([Contender("a", list)], 1)])
def test_no_figures_are_an_error(empty: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"measured nothing|nothing was measured"):
        empty()
