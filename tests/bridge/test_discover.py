"""`keyctl x402 discover`, and the marketplace of these tests held against the official client."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest

from demo.programs import BIN
from tests.bridge.conftest import World
from tests.bridge.support.seller import HOSTILE, PAY_TO, Seller, offer
from tests.bridge.test_tools import entry, listing
from tests.real.support.counterparts import ROOT, python

pytestmark = pytest.mark.real


def stocked(world: World) -> Seller:
    """A marketplace with a good offer, a dear one and a hostile one."""
    seller = world.seller()
    good = entry(f"{seller.url}/a", offer(2_000), serviceName="Weather", description="by the hour")
    dear = entry(f"{seller.url}/b", offer(200_000), description="dear")
    hostile = entry(f"{seller.url}/c\x1b[2J\u202e", offer(1, network="eip155:1"), serviceName=HOSTILE)
    seller.says("/discovery/resources", listing(good, dear, hostile))
    seller.says("/discovery/search", {"x402Version": 2, "resources": [good], "pagination": None})
    return seller


async def run(*command: object, **variables: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **variables},
    )
    output, errors = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, output.decode(), errors.decode()


async def discover(world: World, *arguments: str, **variables: str) -> tuple[int, str, str]:
    egress = world.payer.egress
    where = ["--proxy", egress.url, "--ca", egress.ca_certificate]
    keyd = str(world.payer.keyd.socket)
    return await run(BIN / "keyctl", "--socket", keyd, "x402", "discover", *where, *arguments, **variables)


async def test_offers_are_listed_with_price_recipient_and_verdict(world: World) -> None:
    before = await world.entries()
    seller = stocked(world)
    async with seller.serving():
        code, shown, errors = await discover(world, OSMODA_FACILITATOR=seller.url)
    assert (code, errors) == (0, "")
    header, good, dear, hostile = shown.splitlines()
    assert header.split()[:3] == ["PRICE", "WOULD", "BE"]
    assert good.split() == [
        "$0.002", "paid", "USDC@eip155:84532", PAY_TO, f"{seller.url}/a", "Weather", "-", "by", "the", "hour",
    ]  # fmt: skip
    assert dear.split()[:3] == ["$0.20", "refused", "(cap_per_payment)"]
    assert hostile.split()[:3] == ["?", "refused", "(network_not_allowed)"]
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert await world.entries() == before


async def test_a_search_and_json(world: World) -> None:
    seller = stocked(world)
    async with seller.serving():
        code, shown, _ = await discover(
            world, "--facilitator", seller.url, "--json", "--limit", "3", "weather", "now"
        )
    assert code == 0
    [found] = json.loads(shown)["found"]
    assert (found["verdict"], found["price"]["usd"]) == ("pay", "0.002")
    assert dict(seller.requests[0].query) == {"query": "weather now", "type": "http", "limit": "3"}


@pytest.mark.parametrize(
    ("facilitator", "said", "code"),
    [
        ("http://10.0.0.1", "destination_private", 1),
        ("https://10.0.0.1", "destination_private", 1),
        ("nowhere", "give a whole URL", 2),
    ],
)
async def test_what_is_no_marketplace_is_a_fault_in_words(
    world: World, facilitator: str, said: str, code: int
) -> None:
    found, shown, errors = await discover(world, "--facilitator", facilitator)
    assert (found, shown) == (code, "")
    assert said in errors
    assert "Traceback" not in errors


async def test_without_a_marketplace_it_says_which_option_is_missing(world: World) -> None:
    code, _, errors = await discover(world, OSMODA_FACILITATOR="")
    assert code == 2
    assert "--facilitator" in errors


async def test_the_marketplace_of_these_tests_is_one_for_the_official_client(world: World) -> None:
    seller = stocked(world)
    script = ROOT / "tests/bridge/support/bazaar_client.py"
    async with seller.serving():
        answers = [await run(python("siwx"), script, seller.url, *query) for query in ([], ["weather"])]
    understood: list[list[dict[str, Any]]] = []
    for code, shown, errors in answers:
        assert code == 0, errors
        understood.append(json.loads(shown.splitlines()[-1]))
    everything, searched = understood
    assert [found["offers"] for found in everything] == [1, 1, 1]
    assert everything[0] == searched[0]
    assert (everything[0]["name"], everything[0]["description"]) == ("Weather", "by the hour")
    asked = [(request.path, dict(request.query)) for request in seller.requests]
    assert asked == [
        ("/discovery/resources", {"type": "http", "limit": "5"}),
        ("/discovery/search", {"query": "weather", "type": "http", "limit": "5"}),
    ]
