"""`keyctl x402 discover`: what a marketplace offers, and what keyd would say to it. Nothing is paid."""

from __future__ import annotations

from pathlib import Path

import click

from bridge import answers, views
from bridge.findings import Found
from bridge.market import MAX_FOUND, Market, session_of
from bridge.web import NotAnswered, Web
from keyd.cli.context import Invocation, invocation
from keyd.cli.egress_options import ca_option, proxy_option
from keyd.cli.environment import Proxy
from keyd.cli.errors import CliError
from keyd.cli.render import table, usd
from keyd.client import KeydClient

ANSWER_TIMEOUT_S = 30.0  # the marketplace's own answer may take twenty


@click.command()
@click.argument("query", nargs=-1, metavar="[QUERY]")
@click.option(
    "--facilitator",
    metavar="URL",
    envvar="OSMODA_FACILITATOR",
    show_envvar=True,
    required=True,
    help="Marketplace to ask: a facilitator with /discovery.",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, MAX_FOUND),
    default=10,
    show_default=True,
    help="How many.",
)
@proxy_option
@ca_option
@click.option("--json", "as_json", is_flag=True, help="Print a list in JSON.")
@invocation
def discover(
    run: Invocation,
    query: tuple[str, ...],
    facilitator: str,
    limit: int,
    proxy: Proxy,
    ca: Path,
    as_json: bool,
) -> None:
    """List paid APIs of a marketplace, or those that fit QUERY, with price, recipient and what keyd would decide.

    Names and descriptions are the sellers' own words. The question goes through egress, as programs' requests do.
    """

    async def question(keyd: KeydClient) -> list[Found]:
        async with Web(proxy.url, ca) as web:
            market = Market(web, keyd, session_of(proxy.url))
            return await market.discover(facilitator, " ".join(query) or None, limit)

    try:
        found = run.ask(question, timeout_s=ANSWER_TIMEOUT_S)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--facilitator") from None
    except NotAnswered as error:
        raise CliError(
            f"the marketplace gave no answer: {error}", "check --facilitator and --proxy"
        ) from None
    answer = views.discover_answer(found)
    click.echo(answer.model_dump_json(indent=2) if as_json else _text(answer))


def _text(answer: answers.DiscoverAnswer) -> str:
    if not answer.found:
        return "nothing was found"
    header = ("PRICE", "WOULD BE", "TOKEN", "PAY TO", "RESOURCE", "SELLER'S WORDS")
    return table(header, [_row(entry) for entry in answer.found], right=(0,))


def _row(entry: answers.FoundAnswer) -> tuple[str, ...]:
    verdict = {"pay": "paid", "hold": "held"}.get(entry.verdict, "refused")
    price = entry.price
    terms = (
        ("?", "", "") if price is None else (usd(price.usd), f"{price.token}@{price.network}", price.pay_to)
    )
    words = " - ".join(text for text in (entry.name, entry.description) if text)
    reason = "" if entry.code is None else f" ({entry.code})"
    return terms[0], f"{verdict}{reason}", terms[1], terms[2], entry.resource, words
