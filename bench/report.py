"""Results kept as JSON, shown as tables in docs/benchmarks.md, and held against those of an earlier run."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.harness import Bound, Result, Summary

TOLERANCE = 0.10
"""Two runs of the same code differ by some per cent; a regression that matters differs by more, and beyond the spread."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one module measured, where, and with what."""

    module: str
    date: str
    machine: str
    versions: dict[str, str]
    results: tuple[Result, ...]


# -- kept -------------------------------------------------------------------------------------------------


def save(report: Report, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    text = json.dumps(asdict(report), indent=1, ensure_ascii=False)
    (folder / f"{report.module}.json").write_text(text + "\n", "utf-8")


def load(module: str, folder: Path) -> Report | None:
    """The last recorded results of `module`, if there are any."""
    try:
        fields = json.loads((folder / f"{module}.json").read_text("utf-8"))
    except FileNotFoundError:
        return None
    fields["results"] = tuple(_result(row) for row in fields["results"])
    return Report(**fields)


def _result(row: dict[str, Any]) -> Result:
    for name in ("figures", "peer_figures", "ratio"):
        row[name] = None if row[name] is None else Summary(**row[name])
    for name in ("target", "ratio_target"):
        row[name] = None if row[name] is None else Bound(**row[name])
    return Result(**row)


# -- shown ------------------------------------------------------------------------------------------------


def markdown(report: Report) -> str:
    """The table of `report`, with where and with what it was measured above it."""
    versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    lines = [
        f"{report.date}: {report.machine}. {versions}.",
        "",
        "| measured | ours | peer | ratio | slowest | to reach | |",
        "|---|---|---|---|---|---|---|",
        *(_row(result) for result in report.results),
    ]
    return "\n".join(lines)


def write_into(document: str, report: Report) -> str:
    """`document` with the table between this module's markers replaced. Raises ValueError if it has none."""
    begin, end = f"<!-- bench {report.module} -->\n", "<!-- end -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if len(pattern.findall(document)) != 1:
        raise ValueError(
            f"docs/benchmarks.md needs the markers {begin.strip()} and {end} once, one after the other"
        )
    return pattern.sub(lambda _: f"{begin}{markdown(report)}\n{end}", document)


def _row(result: Result) -> str:
    peer = "" if result.peer_figures is None else f"{result.peer}: {spread(result.peer_figures)}"
    ratio = "" if result.ratio is None else f"**{number(result.ratio.median)}** ({_range(result.ratio)})"
    worst = number(result.figures.worst)
    if result.peer_figures is not None:
        worst += f" / {number(result.peer_figures.worst)}"
    verdict = {None: "", True: "✓", False: "✗"}[result.met]
    cells = (_title(result), f"{result.ours}: {spread(result.figures)}", peer, ratio, worst)
    return f"| {' | '.join(cells)} | {_targets(result)} | {verdict} |"


def _title(result: Result) -> str:
    return f"{result.name}, {result.unit}" if result.unit else result.name


def _targets(result: Result) -> str:
    targets = []
    if result.ratio_target is not None:
        targets.append(f"ratio {result.ratio_target}")
    if result.target is not None:
        targets.append(f"{result.target} {result.unit}".rstrip())
    return ", ".join(targets)


def spread(summary: Summary) -> str:
    """Median (lower to upper quartile)."""
    return f"{number(summary.median)} ({_range(summary)})"


def _range(summary: Summary) -> str:
    return f"{number(summary.low)}–{number(summary.high)}"  # noqa: RUF001 - a range, typeset


def number(value: float) -> str:
    """Three digits that mean something; thousands are grouped."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


# -- compared ---------------------------------------------------------------------------------------------


def regressions(before: Report, after: Report) -> list[str]:
    """What got worse, in sentences. Ratios are compared where there is a peer: they outlive a change of machine."""
    known = {(result.name, result.peer): result for result in before.results}
    worse = []
    same_machine = is_same_machine(before, after)
    for result in after.results:
        earlier = known.pop((result.name, result.peer), None)
        if earlier is None:
            continue
        if result.figures.count == 1 and result.met:
            continue  # taken once in a run, so there is no spread to tell noise by: its target is the measure
        if earlier.ratio is not None and result.ratio is not None:
            pair, what = (earlier.ratio, result.ratio), f"{result.name}, ratio to {result.peer}"
        elif same_machine:
            pair, what = (earlier.figures, result.figures), _title(result)
        else:
            continue
        if is_worse(*pair, more_is_better=result.more_is_better):
            worse.append(f"{what}: {spread(pair[0])} → {spread(pair[1])}{_by(*pair)}")
    worse += [f"{name}: no longer measured" for name, _ in known]
    return worse


def is_worse(before: Summary, after: Summary, *, more_is_better: bool) -> bool:
    """Worse by more than the tolerance, and by more than the quartiles of both runs overlap."""
    if more_is_better:
        return after.median < before.median * (1 - TOLERANCE) and after.high < before.low
    return after.median > before.median * (1 + TOLERANCE) and after.low > before.high


def _by(before: Summary, after: Summary) -> str:
    return f", {number(after.median / before.median)} times" if before.median else ""


def is_same_machine(before: Report, after: Report) -> bool:
    return _hardware(before) == _hardware(after)


def _hardware(report: Report) -> str:
    return report.machine.partition(", load")[0]


def unmet(results: Sequence[Result]) -> list[str]:
    """Targets that were missed, in sentences."""
    return [
        f"{r.name}: {number(r.figures.median)} {r.unit}"
        + (f", {number(r.ratio.median)} times {r.peer}" if r.ratio is not None else "")
        + f"; to reach: {_targets(r)}"
        for r in results
        if r.met is False
    ]
