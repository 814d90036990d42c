"""`make fuzz`: every target of targets.py, guided by coverage (atheris), in one process.

    python -m tests.fuzz [--seconds 600] [TARGET…]

What breaks a promise is written to tests/fuzz/corpus/TARGET/, from where every run of the tests repeats it.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
import tempfile
from pathlib import Path

import atheris
import structlog

CORPUS = Path(__file__).parent / "corpus"
LARGEST = 4096
"""Bytes of a case: faults of a parser show in short inputs, and long ones cost speed."""
SLOWEST_S = 5
"""A case that takes longer counts as a fault."""

with atheris.instrument_imports(include=["egress", "keyd", "mitmproxy.proxy", "mitmproxy.net", "h11"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"some of: {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=600)
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(TARGETS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    names = arguments.targets or list(TARGETS)

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

    def one_case(data: bytes) -> None:
        """The first byte chooses the target, so that one process and one corpus serve them all."""
        name, rest = names[data[0] % len(names)] if data else names[0], data[1:]
        try:
            TARGETS[name](rest)
        except Exception:
            case = CORPUS / name / hashlib.sha256(rest).hexdigest()[:16]
            case.parent.mkdir(parents=True, exist_ok=True)
            case.write_bytes(rest)
            print(f"{name} breaks its promise on {case}", file=sys.stderr)
            raise

    with tempfile.TemporaryDirectory(prefix="fuzz") as found:
        for number, name in enumerate(names):
            for case in sorted((CORPUS / name).glob("*")):
                (Path(found) / f"{name}-{case.name}").write_bytes(bytes([number]) + case.read_bytes())
        limits = [f"-max_total_time={arguments.seconds}", f"-max_len={LARGEST}", f"-timeout={SLOWEST_S}"]
        output = ["-print_final_stats=1", "-verbosity=1", f"-artifact_prefix={found}/"]
        atheris.Setup([sys.argv[0], *limits, *output, found], one_case)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
