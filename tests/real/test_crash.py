"""kill -9 of keyd at random moments: it may count too much afterwards, never too little."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from demo.seller import NETWORK, USDC
from keyd.api import Caller, Origin, OutcomeReport, SignReply, SignRequest
from keyd.client import KeydClient, KeydProtocolError, KeydRefused, KeydUnreachable
from tests.real.support.payer import Payer, verify_offline

ROUNDS = 50
WORKERS = 8
BUDGET = 2_000_000
"""Micro-USD; what the rounds would sign without a limit is more, so that the limit is part of the test."""
PRICE = 1_000
LONGEST_LIFE_S = 0.4
"""Of keyd in one round, after it is ready: long enough for hundreds of payments, short enough for 50 rounds."""
KEY = "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"
PAY_TO = "0x90F79bf6EB2c4f870365E785982E1f101E93b906"


def _request(number: int) -> SignRequest:
    offer = {
        "scheme": "exact",
        "network": NETWORK,
        "asset": USDC,
        "amount": str(PRICE),
        "payTo": PAY_TO,
        "maxTimeoutSeconds": 60,
        "extra": {"name": "USDC", "version": "2"},
    }
    return SignRequest(
        origin=Origin(scheme="http", host="127.0.0.1", port=4021),
        method="GET",
        path=f"/item/{number}",
        fingerprint=hashlib.sha256(str(number).encode()).hexdigest(),
        caller=Caller(uid=1000),
        x402_version=2,
        offers=[offer],
    )


async def _buy_until_keyd_is_gone(
    keyd: KeydClient, numbers: Iterator[int], signatures: dict[str, SignReply]
) -> None:
    """Signs and settles one payment after another; every signature that left keyd is kept."""
    for number in numbers:
        try:
            reply = await keyd.sign(_request(number))
            signatures[reply.payment_id] = reply
            settlement = {
                "success": True,
                "transaction": "0x" + f"{number:064x}",
                "network": NETWORK,
                "payer": reply.wallet_address,
            }
            if number % 2:
                report = OutcomeReport(payment_id=reply.payment_id, http_status=200, settlement=settlement)
                await keyd.outcome(report)
        except KeydRefused as refused:
            assert refused.refusal.code == "budget_daily"  # noqa: PT017 anything else is a fault
        except (KeydUnreachable, KeydProtocolError):  # killed before, or in the middle of, its answer
            return


async def _one_life(
    payer: Payer, life_s: float, numbers: Iterator[int], signatures: dict[str, SignReply]
) -> None:
    """Starts keyd, lets programs pay, and kills it after `life_s` seconds, wherever it is."""
    await asyncio.to_thread(payer.keyd.start)
    async with KeydClient(str(payer.keyd.socket)) as keyd, asyncio.TaskGroup() as workers:
        for _ in range(WORKERS):
            workers.create_task(_buy_until_keyd_is_gone(keyd, numbers, signatures))
        await asyncio.sleep(life_s)
        payer.keyd.program.kill()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_kill_9_at_random_moments_never_loses_a_payment(tmp_path: Path) -> None:
    rng = random.Random(9)
    limits = {"daily_budget_usd": "2.00", "max_payment_usd": "0.10"}
    payer = Payer(tmp_path, ["http://127.0.0.1:4021"], KEY, **limits)
    payer.start_keyd()
    payer.keyd.stop()
    numbers, signatures = itertools.count(), dict[str, SignReply]()

    for round_ in range(ROUNDS):
        await _one_life(payer, rng.uniform(0, LONGEST_LIFE_S), numbers, signatures)
        check = verify_offline(payer.keyd)
        assert check.ok, f"round {round_}: {check.text}"
        signed = payer.signed()
        assert signatures.keys() <= signed.keys(), f"round {round_}: a signature left without an entry"
        assert sum(signed.values()) <= BUDGET, f"round {round_}: overspent"
        assert payer.settled_so_far() <= sum(signed.values())

    assert len(signatures) > ROUNDS, "hardly anything was signed: the test shows nothing"
    payer.keyd.start()
    try:
        assert Decimal(payer.policy()["spent_today"]) == Decimal(sum(payer.signed().values())).scaleb(-6)
    finally:
        payer.keyd.stop()
