"""`python -m ledger verify|export|import`: a ledger without keyd, with the standard library alone.

Exit code 0: done, verified. 1: read, and something is wrong with it. 2: cannot be read, or is no ledger.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from pathlib import Path

from ledger import jsonl, kept, terminal
from ledger.errors import LedgerError
from ledger.export import FORMATS, Period, export_file
from ledger.note import Key
from ledger.progress import Progress
from ledger.verify import Verdict, verify


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    gc.disable()  # nothing here makes cycles, and looking for them takes a third of the time
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except LedgerError as error:
        print(f"ledger: error: {terminal.one_line(str(error))}", file=sys.stderr)
        print(f"ledger: hint: {error.hint}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `… | head`
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130


def _verify(options: argparse.Namespace) -> int:
    key = None if options.key is None else Key.parse(options.key)
    heads = kept.heads(options.against, key)
    with Progress(wanted=options.progress or sys.stderr.isatty()) as progress:
        if jsonl.looks_like(options.file):
            verdict = jsonl.verify(options.file, against=heads)
        else:
            verdict = verify(options.file, against=heads, progress=progress)
    return _say(verdict, compared=len(heads), signed=key is not None)


def _say(verdict: Verdict, *, compared: int, signed: bool) -> int:
    for problem in verdict.problems:
        print(problem)
    if not verdict.ok:
        print(f"ledger not verified: {verdict.entries} entries")
        return 1
    print(f"ledger verified: {verdict.entries} entries")
    print(f"head: {verdict.head.seq} {verdict.head.hash.hex()}")
    if compared:
        print(f"heads kept elsewhere: {verdict.agreed} agree" + (", signatures good" if signed else ""))
    return 0


def _export(options: argparse.Namespace) -> int:
    period = Period.parse(options.since, options.until)
    terminal.write(sys.stdout, export_file(options.file, options.format, period))
    return 0


def _import(options: argparse.Namespace) -> int:
    head = jsonl.restore(options.file, options.ledger)
    print(f"{terminal.one_line(str(options.ledger))}: {head.seq} entries")
    print(f"head: {head.seq} {head.hash.hex()}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ledger", description="Check or export a ledger without keyd.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "verify", help="check chain and projection of FILE, or the chain of an export"
    )
    command.add_argument("file", type=Path, metavar="FILE", help="a ledger, or an export of one in JSONL")
    command.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="HEAD",
        help="a head kept elsewhere, which the ledger must still have: a file of signed notes, NUMBER:HASH, or an"
        " export in JSONL, which shows the first entry that differs; may be repeated",
    )
    command.add_argument("--key", metavar="VKEY", help="check that the heads are signed by this key")
    command.add_argument("--progress", action="store_true", help="show progress even without a terminal")
    command.set_defaults(command=_verify)

    command = commands.add_parser("export", help="write FILE to standard output for other programs")
    command.add_argument("file", type=Path, metavar="FILE")
    command.add_argument("--format", choices=FORMATS, required=True)
    command.add_argument("--since", metavar="DAY", help="first UTC day, YYYY-MM-DD")
    command.add_argument("--until", metavar="DAY", help="last UTC day, YYYY-MM-DD")
    command.set_defaults(command=_export)

    command = commands.add_parser(
        "import", help="make a ledger of a whole export in JSONL, with the same head"
    )
    command.add_argument("file", type=Path, metavar="EXPORT")
    command.add_argument("ledger", type=Path, metavar="LEDGER")
    command.set_defaults(command=_import)
    return parser


if __name__ == "__main__":
    sys.exit(main())
