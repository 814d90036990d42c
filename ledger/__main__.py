"""`python -m ledger verify FILE`: check a ledger without keyd.

Exit code 0: verified. 1: read, and something is wrong with it. 2: cannot be read, or is no ledger.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ledger.errors import LedgerError
from ledger.verify import verify


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="ledger", description="Check a ledger of osmoda-x402 without keyd.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("verify", help="check the chain and the projection of FILE")
    command.add_argument("file", type=Path, metavar="FILE")
    path: Path = parser.parse_args(arguments).file
    try:
        verdict = verify(path)
    except LedgerError as error:
        print(f"ledger: error: {error}", file=sys.stderr)
        print(f"ledger: hint: {error.hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    for problem in verdict.problems:
        print(problem)
    if verdict.ok:
        print(f"ledger verified: {verdict.entries} entries")
        print(f"head: {verdict.head.seq} {verdict.head.hash.hex()}")
        return 0
    print(f"ledger not verified: {verdict.entries} entries")
    return 1


if __name__ == "__main__":
    sys.exit(main())
