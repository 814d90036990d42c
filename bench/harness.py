"""Rounds and statistics: how two things are measured so that the ratio between them means something.

Contenders take turns within each round, in an order that reverses every round, so that a machine that slows down
slows down all of them. The ratio is taken round by round, between neighbours in time, and its median is reported.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

ROUNDS = 7
"""Enough for a median that two disturbed rounds cannot move."""
WARM_UP_ROUNDS = 1
"""Measured and thrown away: caches, connections and lazy imports belong to no contender's figures."""


@dataclass(frozen=True, slots=True)
class Bound:
    """What is to be reached: a figure at the most, or at the least."""

    limit: float
    at_most: bool

    def met_by(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.limit:g}"


def at_most(limit: float) -> Bound:
    return Bound(limit, at_most=True)


def at_least(limit: float) -> Bound:
    return Bound(limit, at_most=False)


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that is measured: `sample` does one round and returns its figures, in the comparison's unit."""

    name: str
    sample: Callable[[], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Peer:
    """What ours is held against. `ratio` bounds ours / theirs; None states the distance and judges nothing."""

    contender: Contender
    ratio: Bound | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One line of the table for each peer; one line alone if there is none."""

    name: str
    unit: str
    ours: Contender
    peers: Sequence[Peer] = ()
    target: Bound | None = None
    """Of our own figure, in `unit`."""
    more_is_better: bool = False
    rounds: int | None = None
    """Instead of the run's own number, for rounds that take long (start of a process, a download)."""


@dataclass(slots=True)
class Stage:
    """What a module of benches gets: a folder of its own, and what is to be stopped at the end."""

    folder: Path
    cleanup: ExitStack
    duration_s: float
    """How long the load is held, for benches that hold one."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Median, quartiles and the worst of all figures, in the comparison's unit."""

    median: float
    low: float
    high: float
    worst: float
    count: int


@dataclass(frozen=True, slots=True)
class Result:
    """A line of the table."""

    name: str
    unit: str
    more_is_better: bool
    ours: str
    figures: Summary
    target: Bound | None
    peer: str | None = None
    peer_figures: Summary | None = None
    ratio: Summary | None = None
    ratio_target: Bound | None = None

    @property
    def met(self) -> bool | None:
        """Whether every target is reached; None if there is none."""
        verdicts = []
        if self.target is not None:
            verdicts.append(self.target.met_by(self.figures.median))
        if self.ratio_target is not None and self.ratio is not None:
            verdicts.append(self.ratio_target.met_by(self.ratio.median))
        return all(verdicts) if verdicts else None


@dataclass(slots=True)
class Rounds:
    """The figures of one contender, round by round."""

    figures: list[list[float]] = field(default_factory=list)

    def all(self) -> list[float]:
        return [figure for round_ in self.figures for figure in round_]

    def medians(self) -> list[float]:
        return [statistics.median(round_) for round_ in self.figures]


def measure(comparison: Comparison, rounds: int) -> list[Result]:
    """Runs the contenders in turns and sums up."""
    contenders = [comparison.ours, *(peer.contender for peer in comparison.peers)]
    measured = take_turns(contenders, comparison.rounds or rounds)
    return summarize(comparison, measured)


def take_turns(contenders: Sequence[Contender], rounds: int) -> list[Rounds]:
    """One `Rounds` for each contender. Raises ValueError for a contender that measured nothing."""
    measured = [Rounds() for _ in contenders]
    for number in range(WARM_UP_ROUNDS + rounds):
        turns = list(zip(contenders, measured, strict=True))
        for contender, taken in turns if number % 2 == 0 else reversed(turns):
            figures = list(contender.sample())
            if not figures:
                raise ValueError(f"{contender.name} measured nothing")
            if number >= WARM_UP_ROUNDS:
                taken.figures.append(figures)
    return measured


def summarize(comparison: Comparison, measured: Sequence[Rounds]) -> list[Result]:
    """The lines of the table that `measured` makes: ours first in it, then the peers, as in `comparison`."""
    ours, *theirs = measured
    figures = summary(ours.all(), more_is_better=comparison.more_is_better)
    base = Result(
        comparison.name,
        comparison.unit,
        comparison.more_is_better,
        comparison.ours.name,
        figures,
        comparison.target,
    )
    if not comparison.peers:
        return [base]
    results = []
    for peer, rounds in zip(comparison.peers, theirs, strict=True):
        ratios = [a / b for a, b in zip(ours.medians(), rounds.medians(), strict=True)]
        results.append(
            Result(
                base.name,
                base.unit,
                base.more_is_better,
                base.ours,
                figures,
                base.target,
                peer.contender.name,
                summary(rounds.all(), more_is_better=comparison.more_is_better),
                summary(ratios, more_is_better=comparison.more_is_better),
                peer.ratio,
            )
        )
    return results


def summary(figures: Sequence[float], *, more_is_better: bool = False) -> Summary:
    """Raises ValueError for no figures."""
    if not figures:
        raise ValueError("nothing was measured")
    worst = min(figures) if more_is_better else max(figures)
    return Summary(
        median=statistics.median(figures),
        low=quantile(figures, 0.25),
        high=quantile(figures, 0.75),
        worst=worst,
        count=len(figures),
    )


def quantile(figures: Sequence[float], q: float) -> float:
    """Linear interpolation between the closest ranks; `q` from 0 to 1."""
    ranked = sorted(figures)
    place = q * (len(ranked) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (place - below)
