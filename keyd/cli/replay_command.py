"""`keyctl x402 policy test FILE`: what another keyd.toml would have paid and refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

import click

from keyd.cli.context import Invocation, invocation, load_settings
from keyd.cli.errors import CliError
from keyd.cli.ledger_commands import entries_between
from keyd.cli.payment_commands import first_day, since_option
from keyd.cli.render import count, table, usd_of_micros
from keyd.client import KeydClient
from keyd.config import ConfigError
from keyd.core.whatif import Difference, Replay, Replayer, Totals

BEGINNING: Final = "0000-00-00"

CAVEATS: Final = (
    "A replay does not know whether a person would have approved what it holds, how a seller would have answered what "
    "was never sent, or what a program would have done after another answer: a program that was refused and tried ten "
    "times counts ten times. Overrides are left out; freezes and approvals are those that people made."
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@since_option
@click.option("--json", "as_json", is_flag=True, help="Print totals and every difference as JSON.")
@invocation
def test(run: Invocation, file: Path, since: str | None, as_json: bool) -> None:
    """Judge the ledger's past offers under another keyd.toml, FILE. Nothing is changed and nothing is paid.

    The whole ledger is replayed, because earlier payments set pins; --since says from which day on the result
    counts. A replay does not know whether a person would have approved what it holds, how a seller would have
    answered what was never sent, or what a program would have done after another answer.
    """
    try:
        policy = load_settings(file).policy()
    except ConfigError as error:
        raise CliError(f"{file}: {error}", error.hint) from error

    async def question(keyd: KeydClient) -> Replay:
        view = await keyd.policy()
        # Without a wallet nothing was paid; its address only matters to offers that pay ourselves.
        replayer = Replayer(policy, view.wallet or "", await first_day(keyd, since) or BEGINNING)
        async for entry in entries_between(keyd, 0, (await keyd.ledger_head()).seq):
            replayer.add(entry)
        return replayer.result

    result = run.ask(question)
    click.echo(json.dumps(_document(result), indent=2) if as_json else _text(result))


def _text(result: Replay) -> str:
    rows = [("as it was", *_cells(result.was)), ("as it would be", *_cells(result.would_be))]
    parts = [table(("", "PAID", "USD", "REFUSED"), rows, right=(1, 2, 3))]
    if result.differences:
        parts.append(_differences(result.differences))
    else:
        parts.append("The same offers would have been paid and refused.")
    left_out = []
    if result.other_reason:
        left_out.append(f"{count(result.other_reason, 'attempt')} would be refused for another reason.")
    if result.repeats:
        left_out.append(
            f"{count(result.repeats, 'attempt')} repeated an open payment and cost nothing: left out."
        )
    return "\n\n".join([*parts, "\n".join([*left_out, CAVEATS])])


def _cells(totals: Totals) -> tuple[str, str, str]:
    return str(totals.paid), usd_of_micros(totals.usd_micros), str(totals.refused)


def _differences(differences: list[Difference]) -> str:
    """Attempts that fared alike share a line; the lines about most money come first."""
    times: Counter[tuple[str, str, str]] = Counter()
    micros: Counter[tuple[str, str, str]] = Counter()
    for found in differences:
        line = (found.domain, str(found.was), str(found.would_be))
        times[line] += 1
        # Of two amounts the one that would be: of a price that changed, that is the news.
        micros[line] += found.would_be.usd_micros if found.would_be.paid else found.was.usd_micros
    rows = [
        (domain, str(times[domain, was, would]), usd_of_micros(usd), was, would)
        for (domain, was, would), usd in micros.most_common()
    ]
    return table(("DOMAIN", "ATTEMPTS", "USD", "WAS", "WOULD BE"), rows, right=(1, 2))


def _document(result: Replay) -> dict[str, Any]:
    return {
        "was": _totals(result.was),
        "would_be": _totals(result.would_be),
        "differences": [
            {
                "seq": found.seq,
                "ts": found.ts,
                "domain": found.domain,
                "caller": found.caller,
                "was": {"code": found.was.code, "usd": _plain_usd(found.was.usd_micros)},
                "would_be": {"code": found.would_be.code, "usd": _plain_usd(found.would_be.usd_micros)},
            }
            for found in result.differences
        ],
        "other_reason": result.other_reason,
        "repeats": result.repeats,
    }


def _totals(totals: Totals) -> dict[str, int | str]:
    return {"paid": totals.paid, "refused": totals.refused, "usd": _plain_usd(totals.usd_micros)}


def _plain_usd(micros: int) -> str:
    return usd_of_micros(micros).removeprefix("$")
