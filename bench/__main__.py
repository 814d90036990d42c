"""`python -m bench [MODULE…]`: measures, shows, and records in bench/results/ and docs/benchmarks.md.

Exit code 1 with --compare if something got worse than the last recorded run; a missed target is said, not punished.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path

from bench import machine, report
from bench.harness import ROUNDS, Comparison, Result, Stage, measure
from bench.report import Report

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench/results"
DOCUMENT = ROOT / "docs/benchmarks.md"

MODULES = (
    "keyd",
    "ledger",
    "paid",
    "proxy",
    "load",
)
"""In the order in which they run. Each is `bench/NAME.py` with `comparisons(stage)`, and has its markers
`<!-- bench NAME -->` in docs/benchmarks.md. It may have `versions()`: those of its peers."""

LOAD_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"some of: {', '.join(MODULES)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="for each pair (default: %(default)s)")
    parser.add_argument(
        "--duration", type=float, default=LOAD_S, metavar="SECONDS", help="of the load that `load` holds"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--compare", action="store_true", help="record nothing; say what got worse")
    mode.add_argument("--dry-run", action="store_true", help="record nothing")
    arguments = parser.parse_args()
    if unknown := set(arguments.modules) - set(MODULES):
        parser.error(f"unknown module: {', '.join(sorted(unknown))} (known: {', '.join(MODULES)})")
    worse: list[str] = []
    for name in arguments.modules or MODULES:
        measured = run(name, arguments.rounds, arguments.duration)
        for missed in report.unmet(measured.results):
            print(f"not reached: {missed}", flush=True)
        if arguments.compare:
            worse += compare(measured)
        elif not arguments.dry_run:
            record(measured)
    for sentence in worse:
        print(f"worse: {sentence}", flush=True)
    return 1 if worse else 0


def run(name: str, rounds: int, duration_s: float) -> Report:
    """Measures all comparisons of one module, and shows each as soon as it is known."""
    module = import_module(f"bench.{name}")
    described = machine.describe()
    print(f"{name}: {described}", flush=True)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="osmoda-bench-") as folder, ExitStack() as cleanup:
        measured: Iterator[Comparison | Result] = module.comparisons(Stage(Path(folder), cleanup, duration_s))
        for each in measured:
            for result in [each] if isinstance(each, Result) else measure(each, rounds):
                results.append(result)
                print(f"  {show(result)}", flush=True)
    versions = machine.versions() | (module.versions() if hasattr(module, "versions") else {})
    return Report(name, machine.today(), described, versions, tuple(results))


def show(result: Result) -> str:
    line = f"{result.name}: {result.ours} {report.spread(result.figures)} {result.unit}"
    if result.peer_figures is not None and result.ratio is not None:
        line += f"; {result.peer} {report.spread(result.peer_figures)}; ratio {report.spread(result.ratio)}"
    return line


def record(measured: Report) -> None:
    document = report.write_into(DOCUMENT.read_text("utf-8"), measured)
    report.save(measured, RESULTS)
    DOCUMENT.write_text(document, "utf-8")


def compare(measured: Report) -> list[str]:
    before = report.load(measured.module, RESULTS)
    if before is None:
        print(f"{measured.module}: nothing recorded to compare with", flush=True)
        return []
    found = [f"{measured.module}: {sentence}" for sentence in report.regressions(before, measured)]
    judged = "all figures" if report.is_same_machine(before, measured) else "ratios alone: another machine"
    verdict = f"{len(found)} got worse" if found else "nothing got worse"
    print(f"{measured.module}: {verdict} since {before.date} ({judged})", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
