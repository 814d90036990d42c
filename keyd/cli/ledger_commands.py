"""`keyctl ledger`: read the record, and check that nobody changed it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import click

from keyd import api
from keyd.cli.context import Invocation, invocation
from keyd.cli.errors import CliError, report
from keyd.cli.render import entry_moment, escaped, usd_of_micros
from keyd.client import KeydClient
from ledger.errors import LedgerError
from ledger.verify import verify as verify_file

PAGE = 500  # entries asked for at once: a page of the largest entries stays within a few megabytes
VERIFY_TIMEOUT_S = 3600.0  # keyd reads every entry: about ten seconds for a million


@click.group()
def ledger() -> None:
    """Show and verify the record of payments."""


@ledger.command()
@click.option(
    "--file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Check this ledger file instead of asking keyd; works without keyd.",
)
@invocation
def verify(run: Invocation, file: Path | None) -> None:
    """Check the hash chain from the first entry, and that the budget tables follow from the entries.

    Keep the head that is printed: whoever knows it can later tell a ledger whose end was cut off or
    that was rewritten as a whole, which the chain alone cannot show.
    """
    verdict = (
        run.ask(KeydClient.ledger_verify, timeout_s=VERIFY_TIMEOUT_S) if file is None else _offline(file)
    )
    if not verdict.ok:
        for problem in verdict.problems:
            report(problem)
        raise CliError(
            f"the ledger is damaged: {len(verdict.problems)} problem(s) in {verdict.entries} entries",
            "stop osmoda-keyd, keep this ledger as evidence, and compare it with a backup",
        )
    click.echo(f"{click.style('ledger verified', fg='green')}: {verdict.entries} entries")
    click.echo(f"head: {verdict.entries} {verdict.head}")


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
        (data[key] for key in ("domain", "label", "payment_id") if isinstance(data.get(key), str)), ""
    )
    micros = data.get("usd_micros")
    amount = usd_of_micros(micros) if isinstance(micros, int) else ""
    code = data.get("code")
    cells = (about, amount, code if isinstance(code, str) else "")
    return escaped("  ".join([entry_moment(entry.ts), f"{entry.type:<23}", *filter(None, cells)]).rstrip())


def _offline(file: Path) -> api.LedgerVerdict:
    try:
        result = verify_file(file)
    except LedgerError as error:
        raise CliError(str(error), error.hint or None) from error
    return api.LedgerVerdict(
        ok=result.ok,
        entries=result.entries,
        head=result.head.hash.hex(),
        problems=result.problems,
    )
