"""The daily budget under pressure, with sellers that really verify."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import httpx
import pytest

from tests.real.support.counterparts import Chain
from tests.real.support.payer import Payer

pytestmark = pytest.mark.real

REQUESTS, ROOM = 200, 5
PRICE = 1_000
"""Of /item/… in atomic units, which for USDC are micro-USD."""


async def _buy_all(proxies: list[str], seller: str) -> list[httpx.Response]:
    """REQUESTS different items at once, through all of `proxies`."""
    limits = httpx.Limits(max_connections=REQUESTS)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(httpx.AsyncClient(proxy=proxy, timeout=60, limits=limits))
            for proxy in proxies
        ]
        through = itertools.cycle(clients)
        return await asyncio.gather(*(next(through).get(f"{seller}/item/{n}") for n in range(REQUESTS)))


async def _sold(seller: str) -> list[dict[str, str]]:
    async with httpx.AsyncClient(timeout=60) as client:
        sales: list[dict[str, str]] = (await client.get(f"{seller}/books")).json()
        return sales


@pytest.mark.parametrize(
    ("more_proxies", "workers"), [(0, 1), (0, 2), (1, 1)], ids=["one egress", "two workers", "two egresses"]
)
async def test_200_payments_at_once_with_room_for_5_sign_exactly_5(
    chain: Chain, seller: str, tmp_path: Path, more_proxies: int, workers: int
) -> None:
    folder, other = tmp_path / "payer", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    settings = {"workers": workers}
    with (
        Payer(folder, [seller], chain.keys["payer"], egress=settings, daily_budget_usd="0.005") as payer,
        ExitStack() as stack,
    ):
        proxies = [payer.egress.url]
        for _ in range(more_proxies):
            another = payer.another_egress(other)
            another.start()
            stack.callback(another.stop)
            proxies.append(another.url)
        answers = await _buy_all(proxies, seller)

        assert Counter(answer.status_code for answer in answers) == {200: ROOM, 402: REQUESTS - ROOM}
        reasons = {answer.headers["X-402-Egress"] for answer in answers if answer.status_code == 402}
        assert reasons == {"rejected; reason=budget_daily"}
        assert list(payer.signed().values()) == [PRICE] * ROOM
        assert payer.settled() == ROOM * PRICE
        assert payer.policy()["left_today"] == "0.00"
    sold = await _sold(seller)
    assert len(sold) == len({sale["nonce"] for sale in sold}) == ROOM
