"""Prepaid requests, with a seller that verifies each payment as the official one does."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.real.support.counterparts import Chain
from tests.real.support.payer import Payer

pytestmark = pytest.mark.real

AFTER, PREPAID = 2, 3
PRICE = 1_000


async def test_a_seller_takes_payments_that_come_with_the_request(
    chain: Chain, seller: str, tmp_path: Path
) -> None:
    folder = tmp_path / "payer"
    folder.mkdir()
    rule = {"domain": seller, "after": AFTER}
    with Payer(folder, [seller], chain.keys["payer"], prepay=[rule]) as payer:
        async with httpx.AsyncClient(proxy=payer.egress.url, timeout=60) as client:
            for _ in range(AFTER + PREPAID):
                answer = await client.get(f"{seller}/item/7")
                assert answer.status_code == 200
                assert answer.headers["X-402-Egress"].startswith("paid; amount=0.001; ")
        assert payer.settled() == (AFTER + PREPAID) * PRICE
        signed = payer.entries("x402.payment.signed")
    assert [entry["data"].get("prepaid", False) for entry in signed] == [False] * AFTER + [True] * PREPAID
    async with httpx.AsyncClient(timeout=60) as client:
        sold = (await client.get(f"{seller}/books")).json()
    assert len({sale["nonce"] for sale in sold}) == AFTER + PREPAID  # each a purchase of its own
