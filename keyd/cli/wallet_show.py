"""`keyctl wallet show`: a wallet's address, what it spent, and what it still holds.

keyd knows the first two. The balance is asked of the chain by keyctl itself: keyd has no network.
"""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import click

from keyd import api
from keyd.cli.chain import RpcFault, balances
from keyd.cli.context import Invocation, invocation
from keyd.cli.errors import CliError, report
from keyd.cli.render import count, escaped, listed, moment, table, usd
from keyd.cli.wallet_commands import label_argument, wallet

RECONCILE_CONFIG = Path("/etc/osmoda/reconcile.toml")


@wallet.command()
@label_argument
@click.option(
    "--rpc-url",
    "rpc_urls",
    metavar="URL",
    multiple=True,
    envvar="OSMODA_RPC_URL",
    show_envvar=True,
    help=f"JSON-RPC server to ask for balances; may be repeated. Otherwise those of {RECONCILE_CONFIG}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print keyd's answer as JSON, without balances.")
@invocation
def show(run: Invocation, label: str, rpc_urls: tuple[str, ...], as_json: bool) -> None:
    """Show a wallet: address, spending, and its balance in every token that may be paid in.

    The balance is what the server says that is asked; keyd itself never asks one.
    """
    view = run.ask(lambda keyd: keyd.wallet_show(label))
    if as_json:
        click.echo(view.model_dump_json(indent=2))
        return
    click.echo(listed(_figures(view)))
    urls = rpc_urls or configured_urls(RECONCILE_CONFIG)
    if not urls:
        report(
            "no balance: no JSON-RPC server is known",
            f"name one with --rpc-url URL, or list it in {RECONCILE_CONFIG}",
            kind="warning",
        )
        return
    click.echo()
    click.echo(_balances(view, urls))


def _figures(view: api.WalletView) -> list[tuple[str, str]]:
    held = view.wallet
    state = "archived: it signs nothing" if held.archived else "pays by default" if held.default else "pays"
    still_open = f", {view.open_payments} not proven yet" if view.open_payments else ""
    return [
        ("wallet", held.label),
        ("address", escaped(held.address)),
        ("state", state),
        ("created", moment(held.created_at)),
        ("spent today", usd(view.spent_today)),
        ("spent", f"{usd(view.spent)} in {count(view.payments, 'payment')}{still_open}"),
    ]


def _balances(view: api.WalletView, urls: Sequence[str]) -> str:
    """A line for each token of the networks that the servers are of. Raises CliError if none could be asked."""
    rows: list[tuple[str, str, str]] = []
    for url in urls:
        try:
            found = asyncio.run(balances(url, view.wallet.address, view.tokens))
        except RpcFault as fault:
            report(f"{_server(url)}: {fault}", kind="warning")
            continue
        rows += [(f"{token.symbol}@{token.network}", amount, _server(url)) for token, amount in found]
    if not rows:
        raise CliError(
            "no server could say what the wallet holds",
            "it must be of a network under `networks` in keyd.toml, and must answer eth_call",
        )
    return table(("TOKEN", "BALANCE", "ACCORDING TO"), rows, right=(1,))


def configured_urls(file: Path) -> tuple[str, ...]:
    """The servers of reconcile.toml; none if there is no such file, or not for this user."""
    try:
        document = tomllib.loads(file.read_text("utf-8"))
        return tuple(str(network["rpc"][0]) for network in document.get("networks", []))
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return ()


def _server(url: str) -> str:
    """The host alone: path and query of an RPC URL are often the key to a paid account."""
    parts = urlsplit(url)
    return escaped(parts.hostname or "?") + (f":{parts.port}" if parts.port else "")
