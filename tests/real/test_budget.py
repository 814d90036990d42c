"""The daily budget under pressure, with sellers that really verify."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.real.support.counterparts import Chain
from tests.real.support.payer import Payer

pytestmark = pytest.mark.real

REQUESTS, ROOM = 200, 5
PRICE = 1_000
"""Of /item/… in atomic units, which for USDC are micro-USD."""


async def _buy_all(proxy: str, seller: str) -> list[httpx.Response]:
    """REQUESTS different items at once."""
    limits = httpx.Limits(max_connections=REQUESTS)
    async with httpx.AsyncClient(proxy=proxy, timeout=60, limits=limits) as client:
        return await asyncio.gather(*(client.get(f"{seller}/item/{n}") for n in range(REQUESTS)))


async def _sold(seller: str) -> list[dict[str, str]]:
    async with httpx.AsyncClient() as client:
        sales: list[dict[str, str]] = (await client.get(f"{seller}/books")).json()
        return sales


async def test_200_payments_at_once_with_room_for_5_sign_exactly_5(
    chain: Chain, seller: str, tmp_path: Path
) -> None:
    folder = tmp_path / "payer"
    folder.mkdir()
    with Payer(folder, [seller], chain.keys["payer"], daily_budget_usd="0.005") as payer:
        answers = await _buy_all(payer.egress.url, seller)

        assert Counter(answer.status_code for answer in answers) == {200: ROOM, 402: REQUESTS - ROOM}
        reasons = {answer.headers["X-402-Egress"] for answer in answers if answer.status_code == 402}
        assert reasons == {"rejected; reason=budget_daily"}
        assert list(payer.signed().values()) == [PRICE] * ROOM
        assert payer.settled() == ROOM * PRICE
        assert payer.policy()["left_today"] == "0.00"
    sold = await _sold(seller)
    assert len(sold) == len({sale["nonce"] for sale in sold}) == ROOM
