"""`keyctl ledger`: read the record, and check that nobody changed it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import click

from keyd import api
from keyd.cli.context import Invocation, invocation
from keyd.cli.errors import CliError, report
from keyd.cli.render import entry_moment, escaped, usd_of_micros
from keyd.client import KeydClient
from ledger import jsonl, kept, terminal
from ledger.chain import Head
from ledger.errors import LedgerError
from ledger.export import FORMATS, Period, export_file
from ledger.note import Key
from ledger.progress import Progress
from ledger.verify import verify as verify_file

PAGE = 500  # entries asked for at once: a page of the largest entries stays within a few megabytes
LOOK_EVERY_S = 0.5
LONG_TIMEOUT_S = 3600.0  # keyd reads every entry: half a minute for a million


@click.group()
def ledger() -> None:
    """Show and verify the record of payments."""


@ledger.command()
@click.option(
    "--file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Check this ledger file, or export in JSONL, instead of asking keyd; works without keyd.",
)
@click.option(
    "--against",
    metavar="HEAD",
    multiple=True,
    help="A head kept elsewhere: a file of signed notes, NUMBER:HASH, or an export in JSONL. Repeatable.",
)
@click.option("--key", metavar="VKEY", help="Check that the heads are signed by this key.")
@invocation
def verify(run: Invocation, file: Path | None, against: tuple[str, ...], key: str | None) -> None:
    """Check the hash chain from the first entry, and that the budget tables follow from the entries.

    The chain alone cannot show that its end was cut off or that it was rewritten as a whole. A head kept
    elsewhere shows it: signed ones are in the journal of osmoda-keyd, and `--against` compares.
    """
    heads = _kept(against, key)
    if file is not None:
        verdict = _offline(file, heads)
    else:
        asked = api.LedgerVerify(against=_few(heads))
        verdict = run.ask(lambda keyd: _verified(keyd, asked), timeout_s=LONG_TIMEOUT_S)
    if not verdict.ok:
        for problem in verdict.problems:
            report(problem)
        raise CliError(
            f"the ledger is damaged: {len(verdict.problems)} problem(s) in {verdict.entries} entries",
            "stop osmoda-keyd, keep this ledger as evidence, and compare it with a backup",
        )
    click.echo(f"{click.style('ledger verified', fg='green')}: {verdict.entries} entries")
    click.echo(f"head: {verdict.entries} {verdict.head}")
    if heads:
        click.echo(f"heads kept elsewhere: {verdict.agreed} agree{', signatures good' if key else ''}")


@ledger.command("key")
@invocation
def show_key(run: Invocation) -> None:
    """Show the public key that signs heads of this ledger, as a verifier key of C2SP signed-note.

    Keep it with the heads: `keyctl ledger verify --against HEAD --key VKEY` checks their signatures by it.
    """
    head = run.ask(KeydClient.ledger_head)
    if head.key is None:
        raise CliError("this keyd signs no heads", "update osmoda-keyd")
    click.echo(escaped(head.key))


@ledger.command()
@invocation
def checkpoint(run: Invocation) -> None:
    """Sign a head of everything up to now, and print it: a C2SP signed note to keep elsewhere.

    keyd signs one every ten minutes or thousand entries, and when it stops, into ledger.heads and the journal.
    """
    click.echo(terminal.harmless(run.ask(KeydClient.ledger_checkpoint).note), nl=False)


@ledger.command()
@click.option(
    "--format",
    "form",
    metavar="FORMAT",
    type=click.Choice(list(FORMATS)),
    required=True,
    help=f"What to write: {', '.join(list(FORMATS)[:-1])} or {list(FORMATS)[-1]}.",
)
@click.option("--since", metavar="DAY", help="First UTC day, `2026-11-21`.")
@click.option("--until", metavar="DAY", help="Last UTC day, `2026-11-21`; it is included.")
@click.option(
    "--file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="This ledger file instead of that of keyd.toml.",
)
@invocation
def export(run: Invocation, form: str, since: str | None, until: str | None, file: Path | None) -> None:
    """Write the ledger to standard output: entries (jsonl), or payments for accounts (csv, beancount, ledger).

    Reads the ledger file itself, beside a running keyd or without one: run it as root or as keyd's user.
    JSON lines hold every entry with its hash: `python -m ledger verify` checks them, and
    `python -m ledger import` makes a ledger of them again.
    """
    try:
        period = Period.parse(since, until)
        terminal.write(sys.stdout, export_file(file or run.settings().ledger_file, form, period))
    except LedgerError as error:
        raise CliError(str(error), error.hint or None) from error


@ledger.command()
@click.option(
    "--limit", metavar="N", type=click.IntRange(min=1), default=20, show_default=True, help="How many."
)
@click.option("--json", "as_json", is_flag=True, help="Print one entry a line as JSON.")
@invocation
def tail(run: Invocation, limit: int, as_json: bool) -> None:
    """Show the newest entries, oldest first."""
    for entry in run.ask(lambda keyd: newest(keyd, limit)):
        click.echo(entry.model_dump_json() if as_json else entry_line(entry))


async def newest(keyd: KeydClient, limit: int) -> list[api.LedgerEntry]:
    """The newest `limit` entries, oldest first. Entries written meanwhile are left out."""
    head = (await keyd.ledger_head()).seq
    return [entry async for entry in entries_between(keyd, max(0, head - limit), head)]


async def entries_between(keyd: KeydClient, after: int, head: int) -> AsyncIterator[api.LedgerEntry]:
    """The entries after number `after` up to number `head`, oldest first, asked for page by page."""
    while after < head:
        page = (await keyd.ledger_entries(limit=min(PAGE, head - after), after=after)).entries
        if not page or page[-1].seq <= after:
            raise CliError(f"keyd returned no entry after entry {after}, but its ledger has {head}")
        for entry in page:
            yield entry
        after = page[-1].seq


def entry_line(entry: api.LedgerEntry) -> str:
    """One line for people: time, type, whom or what it is about, amount, reason code."""
    data = entry.data
    about = next(
        (data[key] for key in ("domain", "label", "payment_id", "after") if isinstance(data.get(key), str)),
        "",
    )
    micros = data.get("usd_micros")
    amount = usd_of_micros(micros) if isinstance(micros, int) else ""
    code = data.get("code")
    cells = (about, amount, code if isinstance(code, str) else "")
    return escaped("  ".join([entry_moment(entry.ts), f"{entry.type:<23}", *filter(None, cells)]).rstrip())


def _kept(against: tuple[str, ...], key: str | None) -> list[Head]:
    """The heads that --against names. Raises CliError."""
    try:
        return kept.heads(against, None if key is None else Key.parse(key))
    except LedgerError as error:
        raise CliError(str(error), error.hint or None) from error


def _few(heads: list[Head]) -> list[api.LedgerHeadAt]:
    if len(heads) > api.MAX_HEADS:
        raise CliError(
            f"{len(heads)} heads are too many for one question (at most {api.MAX_HEADS})",
            "compare offline: `keyctl ledger verify --file LEDGER --against …`",
        )
    return [api.LedgerHeadAt(seq=head.seq, hash=head.hash.hex()) for head in heads]


async def _verified(keyd: KeydClient, asked: api.LedgerVerify) -> api.LedgerVerdict:
    """With a sign of life on the terminal: keyd reads every entry, and says nothing before the last."""
    answer = asyncio.ensure_future(keyd.ledger_verify(asked))
    with Progress(wanted=sys.stderr.isatty()) as progress:
        while not (await asyncio.wait({answer}, timeout=LOOK_EVERY_S))[0]:
            progress.unknown("keyd is checking every entry")
    return await answer


def _offline(file: Path, heads: list[Head]) -> api.LedgerVerdict:
    try:
        with Progress(wanted=sys.stderr.isatty()) as progress:
            if jsonl.looks_like(file):
                result = jsonl.verify(file, against=heads)
            else:
                result = verify_file(file, against=heads, progress=progress)
    except LedgerError as error:
        raise CliError(str(error), error.hint or None) from error
    return api.LedgerVerdict(
        ok=result.ok,
        entries=result.entries,
        head=result.head.hash.hex(),
        problems=result.problems,
        agreed=result.agreed,
    )
