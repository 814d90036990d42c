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


async def _buy_all(proxies: list[str], seller: str) -> list[httpx.Response]:
    """REQUESTS different items at once, spread over the proxies."""
    limits = httpx.Limits(max_connections=REQUESTS)
    clients = [httpx.AsyncClient(proxy=proxy, timeout=60, limits=limits) for proxy in proxies]
    try:
        return await asyncio.gather(
            *(clients[n % len(clients)].get(f"{seller}/item/{n}") for n in range(REQUESTS))
        )
    finally:
        await asyncio.gather(*(client.aclose() for client in clients))


async def _sold(seller: str) -> list[dict[str, str]]:
    async with httpx.AsyncClient() as client:
        sales: list[dict[str, str]] = (await client.get(f"{seller}/books")).json()
        return sales


def _check_exactly_the_room_was_spent(
    payer: Payer, answers: list[httpx.Response], sold: list[dict[str, str]]
) -> None:
    assert Counter(answer.status_code for answer in answers) == {200: ROOM, 402: REQUESTS - ROOM}
    reasons = {answer.headers["X-402-Egress"] for answer in answers if answer.status_code == 402}
    assert reasons == {"rejected; reason=budget_daily"}
    assert list(payer.signed().values()) == [PRICE] * ROOM
    assert payer.settled() == ROOM * PRICE
    assert len(sold) == len({sale["nonce"] for sale in sold}) == ROOM
    assert payer.policy()["left_today"] == "0.00"


async def test_200_payments_at_once_with_room_for_5_sign_exactly_5(
    chain: Chain, seller: str, tmp_path: Path
) -> None:
    folder = tmp_path / "payer"
    folder.mkdir()
    with Payer(folder, [seller], chain.keys["payer"], daily_budget_usd="0.005") as payer:
        answers = await _buy_all([payer.egress.url], seller)
        _check_exactly_the_room_was_spent(payer, answers, await _sold(seller))


async def test_two_proxies_on_one_keyd_share_one_budget(chain: Chain, seller: str, tmp_path: Path) -> None:
    folder = tmp_path / "payer"
    folder.mkdir()
    with Payer(folder, [seller], chain.keys["payer"], daily_budget_usd="0.005") as payer:
        second = payer.another_egress(tmp_path)
        second.start()
        try:
            answers = await _buy_all([payer.egress.url, second.url], seller)
        finally:
            second.stop()
        _check_exactly_the_room_was_spent(payer, answers, await _sold(seller))
