"""Any interleaving of requests, outcomes, proofs, crashes, restarts, clock jumps and policy changes.

Three things hold throughout: what is signed and not proven unused never exceeds the budgets that applied when it
was signed; an intent has one authorization at a time; and the ledger verifies, so that its entries alone give the
same state again.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from keyd import api
from keyd.api import Role
from keyd.core.evidence import RELEASE_MARGIN_S
from keyd.core.policy import Policy
from keyd.record.payments import SETTLE_MARGIN_S, budget_day
from keyd.record.policies import Policies
from keyd.service import Authorized
from ledger.verify import verify
from tests.keyd.conftest import EGRESS, POLICY, Clock, Entropy, assemble, intent, offer

WHAT = st.integers(0, 3)
PRICES = st.integers(1, 60)
CALLERS = st.sampled_from([None, 1, 2])
OUTCOMES = st.sampled_from(
    [
        {"http_status": 200},
        {"http_status": 302},
        {"http_status": 402},
        {"http_status": 502},
        {"failure": "connection"},
        {"failure": "not_sent"},
        {"http_status": 200, "settlement": {"success": False}},
    ]
)
JUMPS = st.sampled_from([1, 30, 61, 61 + SETTLE_MARGIN_S, 3600, 86_400, -1, -3600, -86_400])
BASE: Policy = replace(POLICY, daily_budget=100, daily_budget_per_caller=80, quarantine_after=None, pin=False)


class Signed:
    """What the world outside keyd knows of one authorization that left it."""

    def __init__(self, authorized: Authorized, intent_key: str, usd: int, caller: str) -> None:
        self.payment_id = authorized.payment.payment_id
        self.nonce = authorized.payment.authorization.nonce
        self.valid_before = authorized.payment.authorization.valid_before
        self.signature = authorized.signature
        self.intent_key = intent_key
        self.usd = usd
        self.caller = caller
        self.day = ""
        self.delivered = False
        self.used = False
        self.released = False


class PaymentLife(RuleBasedStateMachine):
    """keyd on a real ledger file; the model is the list of what was signed."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="osmoda-life-"))
        self.clock, self.entropy = Clock(), Entropy()
        self.policies = Policies(BASE)
        self.signed: dict[bytes, Signed] = {}
        self.open()

    def open(self) -> None:
        rig = assemble(self.folder, self.policies, self.clock, self.entropy)
        self.ledger, self.service, self.admin = rig.ledger, rig.service, rig.admin

    @rule(what=WHAT, price=PRICES, caller=CALLERS)
    def request(self, what: int, price: int, caller: int | None) -> None:
        asked = intent(offer(str(price)), what=what, caller=None if caller is None else {"uid": caller})
        outcome = asyncio.run(self.service.authorize_payment(EGRESS, asked))
        if not isinstance(outcome, Authorized):
            return
        nonce = outcome.payment.authorization.nonce
        known = self.signed.get(nonce)
        if known is not None:
            assert outcome.signature == known.signature
            assert known.intent_key == asked.intent_key
            return
        new = Signed(outcome, asked.intent_key, price, asked.caller)
        new.day = self.day()
        self.no_other_is_open(new)
        self.signed[nonce] = new
        self.within_budget(new)

    def no_other_is_open(self, new: Signed) -> None:
        for other in self.signed.values():
            if other.intent_key == new.intent_key and not other.delivered and not other.released:
                assert self.now() > other.valid_before + SETTLE_MARGIN_S

    def within_budget(self, new: Signed) -> None:
        policy = self.ledger.read(self.policies.in_force)
        total: dict[str, int] = defaultdict(int)
        for other in self.signed.values():
            if other.day >= new.day and not other.released:
                total["all"] += other.usd
                total[other.caller] += other.usd
        assert total["all"] <= policy.daily_budget
        assert policy.daily_budget_per_caller is not None
        assert total[new.caller] <= policy.daily_budget_per_caller
        assert new.usd <= policy.max_payment

    @precondition(lambda self: self.signed)
    @rule(data=st.data(), facts=OUTCOMES)
    def report(self, data: st.DataObject, facts: dict[str, Any]) -> None:
        payment = self.pick(data)
        report = api.OutcomeReport.model_validate({"payment_id": payment.payment_id} | facts)
        assert isinstance(asyncio.run(self.service.record_outcome(EGRESS, report)), str)
        payment.delivered |= 200 <= (facts.get("http_status") or 0) < 400

    @precondition(lambda self: self.signed)
    @rule(data=st.data(), late=st.integers(-10, 10))
    def prove(self, data: st.DataObject, late: int) -> None:
        payment = self.pick(data)
        at = payment.valid_before + RELEASE_MARGIN_S + late
        found = api.ChainEvidence(
            payment_id=payment.payment_id,
            used=payment.used,
            block_number=1,
            block_hash="0x" + "00" * 32,
            block_timestamp=at,
            sources=1,
        )
        state = asyncio.run(self.service.record_evidence(EGRESS, found))
        assert (state == "released") <= (not payment.used)
        if state == "released" and not payment.released:
            assert self.now() > payment.valid_before + RELEASE_MARGIN_S
        payment.released = state == "released"

    @precondition(lambda self: self.signed)
    @rule(data=st.data())
    def settle_on_the_chain(self, data: st.DataObject) -> None:
        """Anybody who holds the signature can do this while it is valid, whatever egress was told."""
        payment = self.pick(data)
        if self.now() <= payment.valid_before and not payment.released:
            payment.used = True

    @rule(seconds=JUMPS)
    def move_the_clock(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.open()

    @rule(cents=st.integers(0, 150), agent=st.booleans())
    def change_policy(self, cents: int, agent: bool) -> None:
        patch = api.PolicyPatch(daily_budget_usd=f"0.{cents:06}")
        roles = frozenset({Role.AGENT if agent else Role.ADMIN})
        asyncio.run(self.admin.change(EGRESS, roles, patch))

    @invariant()
    def what_is_counted_is_what_was_signed(self) -> None:
        if not hasattr(self, "ledger"):
            return
        expected: dict[str, int] = defaultdict(int)
        for payment in self.signed.values():
            expected[payment.day] += 0 if payment.released else payment.usd
        counted = self.ledger.read(
            lambda db: db.execute("SELECT day, usd_micros FROM spend_total").fetchall()
        )
        assert {day: usd for day, usd in counted if usd} == {day: usd for day, usd in expected.items() if usd}

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            verdict = verify(self.folder / "ledger.sqlite3")
            assert verdict.problems == []
            shutil.rmtree(self.folder)

    def day(self) -> str:
        return budget_day(self.clock())

    def now(self) -> int:
        return self.clock() // 1_000_000

    def pick(self, data: st.DataObject) -> Signed:
        return self.signed[data.draw(st.sampled_from(sorted(self.signed)))]


TestPaymentLife = PaymentLife.TestCase
TestPaymentLife.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestPaymentLife.pytestmark = [pytest.mark.timeout(600)]  # twelve thousand steps, each to the disk: 20 s alone
