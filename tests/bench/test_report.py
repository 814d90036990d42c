"""Results are kept, shown, and held against those of an earlier run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import bench.__main__ as bench_main
from bench import report
from bench.__main__ import DOCUMENT, MODULES
from bench.harness import Result, Summary, at_least, at_most
from bench.report import Report


def around(median: float) -> Summary:
    return Summary(median, median * 0.98, median * 1.02, median * 2, 70)


ALONE = Result("keyd: start", "s", False, "osmoda-keyd", around(0.4), at_most(0.5))
PAIR = Result(
    "one payment", "ms", False, "egress", around(5), None, "SDK", around(10), around(0.5), at_most(1.0)
)
RATE = Result(
    "signatures",
    "per s",
    True,
    "keyd",
    around(1200),
    None,
    "eth_account",
    around(300),
    around(4),
    at_least(3),
)
REPORT = Report(
    "keyd", "2026-11-21", "Xeon, 2 cores, load 0.1 before the run", {"Python": "3.12"}, (ALONE, PAIR, RATE)
)


def changed(**changes: object) -> Report:
    return replace(REPORT, **changes)  # type: ignore[arg-type]


def test_what_is_kept_comes_back_as_it_was(tmp_path: Path) -> None:
    report.save(REPORT, tmp_path)
    assert report.load("keyd", tmp_path) == REPORT
    assert report.load("ledger", tmp_path) is None


def test_a_table_has_medians_spread_the_slowest_and_the_verdict() -> None:
    lines = report.markdown(REPORT).splitlines()
    assert lines[0] == "2026-11-21: Xeon, 2 cores, load 0.1 before the run. Python 3.12."
    assert lines[-3:] == [
        "| keyd: start, s | osmoda-keyd: 0.4 (0.392–0.408) |  |  | 0.8 | ≤ 0.5 s | ✓ |",
        "| one payment, ms | egress: 5 (4.9–5.1) | SDK: 10 (9.8–10.2) | **0.5** (0.49–0.51) | 10 / 20 | ratio ≤ 1 | ✓ |",
        "| signatures, per s | keyd: 1,200 (1,176–1,224) | eth_account: 300 (294–306) | **4** (3.92–4.08) "
        "| 2,400 / 600 | ratio ≥ 3 | ✓ |",
    ]


def test_a_table_replaces_its_own_and_no_other() -> None:
    page = "a\n<!-- bench keyd -->\nold\n<!-- end -->\nb\n<!-- bench ledger -->\nstays\n<!-- end -->\n"
    written = report.write_into(page, REPORT)
    assert "old" not in written
    assert written.endswith("<!-- end -->\nb\n<!-- bench ledger -->\nstays\n<!-- end -->\n")
    assert report.write_into(written, REPORT) == written


def test_a_page_without_the_markers_is_not_written_to() -> None:
    with pytest.raises(ValueError, match="needs the markers"):
        report.write_into("<!-- bench ledger -->\n<!-- end -->\n", REPORT)


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_place_in_the_document(module: str) -> None:
    page = DOCUMENT.read_text("utf-8")
    assert report.write_into(page, replace(REPORT, module=module)) != page


def test_the_same_figures_are_no_regression() -> None:
    assert report.regressions(REPORT, REPORT) == []


def test_a_worse_ratio_is_named_with_both_figures() -> None:
    worse = replace(PAIR, ratio=around(0.7))
    assert report.regressions(REPORT, changed(results=(ALONE, worse, RATE))) == [
        "one payment, ratio to SDK: 0.5 (0.49–0.51) → 0.7 (0.686–0.714), 1.4 times"
    ]


def test_fewer_are_worse_where_more_is_better() -> None:
    fewer, more = replace(RATE, ratio=around(2)), replace(RATE, ratio=around(8))
    assert len(report.regressions(REPORT, changed(results=(ALONE, PAIR, fewer)))) == 1
    assert report.regressions(REPORT, changed(results=(ALONE, PAIR, more))) == []


@pytest.mark.parametrize(
    "after",
    [around(0.53), Summary(0.6, 0.4, 0.8, 1.0, 70)],
    ids=["within the tolerance", "within the spread"],
)
def test_noise_is_no_regression(after: Summary) -> None:
    assert not report.is_worse(around(0.5), after, more_is_better=False)


def test_absolute_figures_are_compared_on_the_same_machine_alone() -> None:
    slower = changed(results=(replace(ALONE, figures=around(0.8)), PAIR, RATE))
    assert len(report.regressions(REPORT, slower)) == 1
    busier = replace(slower, machine="Xeon, 2 cores, load 9.9 before the run")
    assert len(report.regressions(REPORT, busier)) == 1
    assert (
        report.regressions(REPORT, replace(slower, machine="Ryzen, 8 cores, load 0.1 before the run")) == []
    )


@pytest.mark.parametrize(("grown", "worse"), [(0.6, 0), (9.0, 1)], ids=["within its target", "beyond it"])
def test_a_figure_that_is_taken_once_is_worse_only_if_it_misses_its_target(grown: float, worse: int) -> None:
    def once(megabytes: float) -> Report:
        figures = Summary(megabytes, megabytes, megabytes, megabytes, 1)
        return changed(results=(replace(ALONE, unit="MB", figures=figures, target=at_most(8)),))

    assert len(report.regressions(once(0.3), once(grown))) == worse


def test_a_figure_that_was_zero_is_told_without_a_factor() -> None:
    def errors(count: float) -> Report:
        figures = Summary(count, count, count, count, 1)
        return changed(results=(replace(ALONE, name="errors", unit="", figures=figures, target=at_most(0)),))

    assert report.regressions(errors(0), errors(2)) == ["errors: 0 (0–0) → 2 (2–2)"]


@pytest.mark.parametrize(
    ("after", "said", "count"),
    [
        (PAIR, "nothing got worse since 2026-11-21 (all figures)", 0),
        (replace(PAIR, ratio=around(0.7)), "1 got worse since 2026-11-21 (all figures)", 1),
    ],
    ids=["nothing", "something"],
)
def test_a_comparison_always_says_how_it_ended(
    after: Result,
    said: str,
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report.save(REPORT, tmp_path)
    monkeypatch.setattr(bench_main, "RESULTS", tmp_path)
    assert len(bench_main.compare(changed(results=(ALONE, after, RATE)))) == count
    assert capsys.readouterr().out == f"keyd: {said}\n"


def test_what_is_no_longer_measured_is_said() -> None:
    assert report.regressions(REPORT, changed(results=(ALONE, RATE))) == ["one payment: no longer measured"]


def test_missed_targets_are_said_in_words() -> None:
    missed = replace(PAIR, ratio=around(1.5))
    assert report.unmet([ALONE, missed, RATE]) == ["one payment: 5 ms, 1.5 times SDK; to reach: ratio ≤ 1"]
