"""The money rules, on a real ledger: who gets a signature, when, and what stays on record."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from keyd import api
from keyd.core.evidence import RELEASE_MARGIN_S
from keyd.core.policy import Deny
from keyd.domains import DomainPattern
from keyd.reasons import Reason
from keyd.record.payments import SETTLE_MARGIN_S
from keyd.record.policies import Policies
from keyd.service import REFUSALS_PER_MINUTE, REPEATS_PER_MINUTE, Authorized, Service
from ledger.errors import LedgerError, LedgerUnavailable
from ledger.log import Ledger
from tests.keyd.conftest import EGRESS, PAYER, POLICY, SELLER, Clock, Entropy, Rig, assemble, intent, offer

SETTLED = {"success": True, "transaction": "0x" + "ab" * 32, "network": "eip155:84532", "payer": PAYER}


async def test_an_acceptable_offer_is_recorded_and_signed(rig: Rig) -> None:
    payment = (await rig.paid()).payment
    assert payment.authorization.value == 1000
    assert payment.authorization.to == SELLER
    assert payment.authorization.valid_before == rig.clock.now_us // 1_000_000 + 60
    attempt, signed = rig.entries()
    assert (attempt.type, signed.type) == ("x402.payment.attempt", "x402.payment.signed")
    assert signed.data["authorization"] == payment.authorization.as_json()
    assert rig.view().spent_today == "0.001"


async def test_no_signature_is_in_the_ledger_nor_in_a_repr(rig: Rig) -> None:
    authorized = await rig.paid()
    raw = authorized.signature[2:]
    files = [path.read_bytes() for path in rig.path.glob("ledger.sqlite3*") if path.is_file()]
    assert files
    assert not any(raw.encode() in content or bytes.fromhex(raw) in content for content in files)
    assert raw not in repr(authorized)


async def test_nothing_is_signed_if_the_entry_cannot_be_written(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed: list[bytes] = []
    monkeypatch.setattr(
        "keyd.custody.keystore.Payer.sign", lambda _self, digest: signed.append(digest) or "0x"
    )
    rig.ledger.close()
    with pytest.raises(LedgerUnavailable):
        await rig.pay()
    assert signed == []


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"failure": "connection"}, "unknown"),
        ({"failure": "timeout"}, "unknown"),
        ({"failure": "not_sent"}, "unknown"),
        ({"http_status": 500}, "unknown"),
        ({"http_status": 502}, "unknown"),
        ({"http_status": 402}, "refused"),
        ({"http_status": 412}, "refused"),
        ({"http_status": 402, "settlement": {"success": False, "errorReason": "x"}}, "refused"),
        ({"http_status": 504, "settlement": SETTLED}, "settled"),
    ],
)
async def test_while_the_outcome_is_open_a_repeat_gets_the_same_bytes(
    rig: Rig, facts: dict[str, Any], state: str
) -> None:
    first = await rig.paid()
    assert await rig.report(first, **facts) == state
    rig.clock.advance(60)
    again = await rig.paid()
    assert again.signature == first.signature
    assert again.payment.authorization == first.payment.authorization
    assert again.payment.repeat
    assert len(rig.entries("x402.payment.signed")) == 1
    assert rig.view().spent_today == "0.001"


@pytest.mark.parametrize(
    "facts", [{"http_status": 200, "settlement": SETTLED}, {"http_status": 200}, {"http_status": 303}]
)
async def test_a_delivered_answer_completes_the_intent_and_the_next_is_a_new_purchase(
    rig: Rig, facts: dict[str, Any]
) -> None:
    first = await rig.paid()
    await rig.report(first, **facts)
    second = await rig.paid()
    assert second.payment.authorization.nonce != first.payment.authorization.nonce
    assert rig.view().spent_today == "0.002"


async def test_the_second_purchase_of_the_same_is_repeated_with_its_own_bytes(rig: Rig) -> None:
    await rig.report(await rig.paid(), http_status=200, settlement=SETTLED)
    second = await rig.paid()
    third = await rig.paid()
    assert (third.signature, third.payment.repeat) == (second.signature, True)
    assert rig.view().spent_today == "0.002"


async def test_an_open_payment_is_not_signed_by_another_wallet(rig: Rig) -> None:
    first = await rig.paid()
    await rig.service.custody.create(EGRESS, "other", 0)
    await rig.service.custody.choose_default(EGRESS, "other")
    assert (await rig.refused()).reason is Reason.INTENT_OPEN_TERMS_CHANGED
    await rig.service.custody.choose_default(EGRESS, "default")
    assert (await rig.paid()).signature == first.signature


async def test_a_repeat_with_other_terms_is_refused_while_the_first_is_open(rig: Rig) -> None:
    await rig.paid(offer("1000"))
    for changed in (offer("999"), offer("1001"), offer("1000", payTo="0x" + "11" * 20)):
        assert (await rig.refused(changed)).reason is Reason.INTENT_OPEN_TERMS_CHANGED
    assert len(rig.entries("x402.payment.signed")) == 1


async def test_the_open_terms_are_found_among_others(rig: Rig) -> None:
    first = await rig.paid(offer("1000"))
    again = await rig.paid(offer("5"), offer("1000"))
    assert again.signature == first.signature
    assert again.payment.offer.index == 1


async def test_an_expired_intent_waits_for_late_blocks_before_it_is_bought_again(rig: Rig) -> None:
    first = await rig.paid()
    rig.clock.advance(60 + 1)
    assert (await rig.refused()).reason is Reason.INTENT_UNRESOLVED
    rig.clock.advance(SETTLE_MARGIN_S)
    second = await rig.paid()
    assert second.payment.authorization.nonce != first.payment.authorization.nonce
    assert rig.view().spent_today == "0.002"  # the first may have been settled


async def test_parallel_repeats_share_one_authorization(rig: Rig) -> None:
    results = [await task for task in [asyncio.create_task(rig.paid()) for _ in range(10)]]
    assert len({r.signature for r in results}) == 1
    assert [r.payment.repeat for r in results].count(False) == 1
    assert len(rig.entries("x402.payment.signed")) == 1


async def test_a_request_that_began_before_an_identical_one_was_answered_is_its_parallel_repeat(
    rig: Rig,
) -> None:
    began = rig.clock.now_us
    first = await rig.paid(started_at=began)
    rig.clock.advance(1)
    await rig.report(first, http_status=200, settlement=SETTLED)
    late = await rig.paid(started_at=began + 500_000)
    assert late.signature == first.signature
    rig.clock.advance(5)
    await rig.service.record_evidence(EGRESS, proof(first, used=True, at=1))
    after = await rig.paid(started_at=began + 1_000_001)
    assert after.payment.authorization.nonce != first.payment.authorization.nonce


async def test_a_request_that_is_faster_than_the_report_of_the_answer_before_it_is_a_new_purchase(
    rig: Rig,
) -> None:
    first = await rig.paid(started_at=rig.clock.now_us)
    answered_at = rig.clock.now_us + 300
    rig.clock.advance(1)
    await rig.report(first, http_status=200, settlement=SETTLED, answered_at=answered_at)
    before = await rig.paid(started_at=answered_at - 1)
    assert before.signature == first.signature
    after = await rig.paid(started_at=answered_at)
    assert after.payment.authorization.nonce != first.payment.authorization.nonce


async def test_no_report_puts_the_answer_later_than_it_came_itself(rig: Rig) -> None:
    first = await rig.paid(started_at=rig.clock.now_us)
    await rig.report(first, http_status=200, settlement=SETTLED, answered_at=rig.clock.now_us + 60_000_000)
    after = await rig.paid(started_at=rig.clock.now_us)
    assert after.payment.authorization.nonce != first.payment.authorization.nonce


async def test_requests_that_differ_are_paid_apart(rig: Rig) -> None:
    different = [
        await rig.paid(what=1),
        await rig.paid(what=2),
        await rig.paid(what=1, intent="a"),
        await rig.paid(what=1, intent="b"),
        await rig.paid(what=1, method="POST"),
        await rig.paid(what=1, caller={"uid": 1001}),
        await rig.paid(what=1, caller={"name": "ci"}),
    ]
    assert len({r.payment.authorization.nonce for r in different}) == len(different)


async def test_two_hundred_parallel_payments_with_room_for_five_make_exactly_five(rig: Rig) -> None:
    rig.policy(daily_budget=5_000)
    tasks = [asyncio.create_task(rig.pay(what=n)) for n in range(200)]
    results = [await task for task in tasks]
    assert sum(isinstance(r, Authorized) for r in results) == 5
    assert {r.reason for r in results if isinstance(r, Deny)} == {Reason.BUDGET_DAILY}
    assert len(rig.entries("x402.payment.signed")) == 5
    assert len(rig.entries("x402.budget.exceeded")) == REFUSALS_PER_MINUTE
    rig.clock.advance(60)
    await rig.refused(what=999)
    assert rig.entries("x402.payment.rejected")[-1].data["suppressed"] == 195 - REFUSALS_PER_MINUTE


async def test_a_program_that_retries_all_the_time_does_not_fill_the_ledger(rig: Rig) -> None:
    """Its seller answers 502 for ten minutes: the repeats are signed, and counted, and not recorded one by one."""
    first = await rig.paid()
    for _ in range(REPEATS_PER_MINUTE + 80):
        again = await rig.paid()
        assert again.signature == first.signature
        assert await rig.report(again, http_status=502) == "unknown"
    assert len(rig.entries("x402.payment.attempt")) == 1 + REPEATS_PER_MINUTE
    assert len(rig.entries("x402.payment.unknown")) == 1 + REPEATS_PER_MINUTE
    assert await rig.report(first, http_status=200) == "unknown"  # delivered: that is news
    assert rig.entries("x402.payment.unknown")[-1].data["delivered"] is True


async def test_after_a_minute_the_ledger_says_how_many_repeats_and_outcomes_have_no_entry(rig: Rig) -> None:
    first = await rig.paid(offer(maxTimeoutSeconds=600))
    for _ in range(REPEATS_PER_MINUTE + 5):
        await rig.report(await rig.paid(offer(maxTimeoutSeconds=600)), http_status=502)
    rig.clock.advance(61)
    await rig.report(await rig.paid(offer(maxTimeoutSeconds=600)), http_status=502)
    assert rig.entries("x402.payment.attempt")[-1].data["suppressed"] == 5
    assert rig.entries("x402.payment.unknown")[-1].data["suppressed"] == 4  # the very first was news
    assert len(rig.entries("x402.payment.signed")) == 1
    assert rig.entries("x402.payment.signed")[0].data["payment_id"] == first.payment.payment_id


async def test_the_cheapest_acceptable_offer_is_paid_wherever_it_stands(rig: Rig) -> None:
    paid = await rig.paid(
        offer("90000"), offer("5", scheme="upto"), offer("20"), offer("7", asset="0x" + "22" * 20)
    )
    assert paid.payment.offer.index == 2


async def test_the_cap_and_the_budget_refuse_with_figures(rig: Rig) -> None:
    denial = await rig.refused(offer("100001"))
    assert denial == Deny(Reason.CAP_PER_PAYMENT, "0.100001 USD > 0.10 USD for api.example.com")
    for n in range(10):
        await rig.paid(offer("100000"), what=n)
    denial = await rig.refused(offer("1"), what=99)
    assert denial.reason is Reason.BUDGET_DAILY
    assert "1.00 of 1.00 USD" in denial.detail


async def test_the_budget_is_whole_again_on_the_next_utc_day_and_not_before(rig: Rig) -> None:
    rig.policy(daily_budget=1000)
    await rig.paid()
    rig.clock.advance(12 * 3600 - 1)
    assert (await rig.refused(what=1)).reason is Reason.BUDGET_DAILY
    rig.clock.advance(1)
    await rig.paid(what=1)


@pytest.mark.parametrize("back_s", [1, 86_400, 30 * 86_400])
async def test_a_clock_set_back_unspends_nothing(rig: Rig, back_s: int) -> None:
    rig.policy(daily_budget=1000)
    await rig.paid()
    rig.clock.advance(-back_s)
    assert rig.view().spent_today == "0.001"
    assert (await rig.refused(what=1)).reason is Reason.BUDGET_DAILY


@pytest.mark.parametrize(
    ("budget", "reason"),
    [
        ("daily_budget_per_domain", Reason.BUDGET_DOMAIN),
        ("daily_budget_per_caller", Reason.BUDGET_CALLER),
        ("daily_budget_per_caller_and_domain", Reason.BUDGET_CALLER_DOMAIN),
    ],
)
async def test_a_clock_set_back_a_day_makes_no_room_in_any_other_budget(
    rig: Rig, budget: str, reason: Reason
) -> None:
    rig.policy(**{budget: 1000})
    await rig.paid()
    rig.clock.advance(-86_400)
    assert (await rig.refused(what=1)).reason is reason


async def test_a_clock_that_ran_ahead_once_does_not_use_up_every_day_after(rig: Rig) -> None:
    rig.policy(daily_budget=1000, payments_per_minute=1)
    rig.clock.advance(10 * 365 * 86_400)
    await rig.paid(what=1)
    rig.clock.advance(-10 * 365 * 86_400)
    assert (await rig.refused(what=2)).reason is Reason.RATE_LIMIT  # what was signed is never forgotten
    rig.policy(daily_budget=1000, payments_per_minute=2)
    assert (await rig.refused(what=2)).reason is Reason.BUDGET_DAILY  # nor what was spent
    rig.policy(daily_budget=2000)
    await rig.paid(what=2)


async def test_a_restart_forgets_nothing(make_rig: Callable[..., Rig]) -> None:
    before = make_rig()
    before.policy(daily_budget=1500)
    first = await before.paid()
    before.ledger.close()
    after = make_rig(policy=before.service.policies.base, clock=before.clock)
    assert (await after.paid()).signature == first.signature
    assert (await after.refused(what=1)).reason is Reason.BUDGET_DAILY


@pytest.mark.parametrize(
    "settlement",
    [
        {"success": True, "transaction": "0x" + "ab" * 32, "network": "eip155:8453"},
        {"success": True, "transaction": "", "network": "eip155:84532"},
        {"success": True, "transaction": "0x12", "network": "eip155:84532"},
        {"success": "true", "transaction": "0x" + "ab" * 32, "network": "eip155:84532"},
        {"success": True, "transaction": "0x" + "ab" * 32, "network": "eip155:84532", "payer": SELLER},
        {"success": True, "transaction": "0x" + "ab" * 32, "network": "eip155:84532", "amount": "1"},
        {"success": False, "transaction": "", "network": "eip155:84532"},
        {},
        {"success": {"x": [1]}, "transaction": 5, "network": None, "payer": 7, "amount": []},
    ],
)
async def test_a_forged_receipt_is_noted_and_frees_nothing(rig: Rig, settlement: dict[str, Any]) -> None:
    first = await rig.paid()
    assert await rig.report(first, http_status=200, settlement=settlement) == "unknown"
    assert rig.entries("x402.payment.unknown")[0].data["notes"]
    assert rig.view().spent_today == "0.001"


async def test_a_v1_receipt_names_the_network_in_its_own_way(rig: Rig) -> None:
    first = await rig.paid()
    assert (
        await rig.report(first, http_status=200, settlement=SETTLED | {"network": "base-sepolia"})
        == "settled"
    )


async def test_settled_is_final_whatever_is_reported_later(rig: Rig) -> None:
    first = await rig.paid()
    assert await rig.report(first, http_status=200, settlement=SETTLED) == "settled"
    assert await rig.report(first, http_status=402) == "settled"


async def test_an_outcome_for_no_payment_is_refused(rig: Rig) -> None:
    report = api.OutcomeReport(payment_id="0" * 32, http_status=200)
    outcome = await rig.service.record_outcome(EGRESS, report)
    assert isinstance(outcome, Deny)
    assert outcome.reason is Reason.PAYMENT_UNKNOWN
    assert rig.entries() == []


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({"enabled": False}, Reason.X402_DISABLED),
        ({"allowed_domains": ()}, Reason.DOMAIN_NOT_ALLOWED),
        ({"allowed_domains": (DomainPattern.parse("*.example.com"),)}, None),
        ({"allowed_domains": (DomainPattern.parse("example.com"),)}, Reason.DOMAIN_NOT_ALLOWED),
        ({"networks": frozenset({"eip155:8453"})}, Reason.NETWORK_NOT_ALLOWED),
    ],
)
async def test_policy_decides_and_every_refusal_is_recorded(
    rig: Rig, policy: dict[str, Any], reason: Reason | None
) -> None:
    rig.policy(**policy)
    outcome = await rig.pay()
    if reason is None:
        assert isinstance(outcome, Authorized)
    else:
        assert isinstance(outcome, Deny)
        assert outcome.reason is reason
        assert rig.entries("x402.payment.rejected")[0].data["code"] == reason.value


async def test_a_domain_taken_off_the_list_gets_not_even_the_old_payment_again(rig: Rig) -> None:
    await rig.paid()
    rig.policy(allowed_domains=())
    assert (await rig.refused()).reason is Reason.DOMAIN_NOT_ALLOWED


async def test_a_missing_wallet_and_a_swapped_wallet_file_refuse(rig: Rig) -> None:
    assert (await rig.refused(wallet_id="nobody")).reason is Reason.WALLET_MISSING
    rig.wallets.create("other", 0)
    folder = rig.path / "wallets"
    (folder / "default.json").write_bytes((folder / "other.json").read_bytes())
    assert (await rig.refused()).reason is Reason.WALLET_UNREADABLE
    assert rig.entries("x402.payment.signed") == []


async def test_the_query_of_the_resource_url_is_not_recorded(rig: Rig) -> None:
    await rig.paid(resource_url="https://api.example.com/weather?api_key=hunter2")
    assert rig.entries("x402.payment.attempt")[0].data["resource_url"] == "https://api.example.com/weather"


def proof(authorized: Authorized, *, used: bool, at: int, **members: Any) -> api.ChainEvidence:
    fields = {"block_number": 7, "block_hash": "0x" + "cd" * 32, "sources": 1} | members
    payment_id = authorized.payment.payment_id
    return api.ChainEvidence(payment_id=payment_id, used=used, block_timestamp=at, **fields)


async def test_budget_comes_back_only_on_proof_after_the_authorization_is_dead(rig: Rig) -> None:
    first = await rig.paid()
    dead_at = first.payment.authorization.valid_before + RELEASE_MARGIN_S
    now_s = rig.clock.now_us // 1_000_000
    early = proof(first, used=False, at=dead_at + 1)
    assert await rig.service.record_evidence(EGRESS, early) == "signed"  # the block is new, our clock is not
    rig.clock.advance(dead_at + 1 - now_s)
    stale = proof(first, used=False, at=dead_at)
    assert await rig.service.record_evidence(EGRESS, stale) == "signed"  # our clock is new, the block is not
    assert rig.view().spent_today == "0.001"
    assert await rig.service.record_evidence(EGRESS, early) == "released"
    assert rig.view().spent_today == "0.00"
    assert await rig.service.record_evidence(EGRESS, early) == "released"
    assert rig.view().spent_today == "0.00"  # and only once
    assert rig.entries("x402.payment.released")[0].data["proof"]["block_number"] == 7


async def test_the_chain_can_settle_what_nobody_reported(rig: Rig) -> None:
    first = await rig.paid()
    await rig.report(first, http_status=502)
    assert [p.state for p in rig.views.open_payments(0, rig.clock()).payments] == ["unknown"]
    transaction = "0x" + "ef" * 32
    used = proof(first, used=True, at=1, transaction=transaction)
    assert await rig.service.record_evidence(EGRESS, used) == "settled"
    assert rig.entries("x402.payment.settled")[0].data["transaction"] == transaction
    assert rig.views.open_payments(0, rig.clock()).payments == []
    assert rig.view().spent_today == "0.001"


async def test_what_the_chain_proved_settled_is_never_released(rig: Rig) -> None:
    first = await rig.paid()
    used = proof(first, used=True, at=1)
    assert await rig.service.record_evidence(EGRESS, used) == "settled"
    rig.clock.advance(10_000)
    never = proof(first, used=False, at=rig.clock.now_us // 1_000_000)
    assert await rig.service.record_evidence(EGRESS, never) == "settled"
    assert rig.entries("x402.payment.released") == []
    assert rig.view().spent_today == "0.001"


async def test_a_receipt_that_the_chain_refutes_does_not_keep_the_budget_spent(rig: Rig) -> None:
    first = await rig.paid()
    assert await rig.report(first, http_status=200, settlement=SETTLED) == "settled"
    assert [p.state for p in rig.views.open_payments(0, rig.clock()).payments] == [
        "settled"
    ]  # only the seller said so
    rig.clock.advance(10_000)
    never = proof(first, used=False, at=rig.clock.now_us // 1_000_000)
    assert await rig.service.record_evidence(EGRESS, never) == "released"
    assert rig.view().spent_today == "0.00"


async def test_a_false_release_is_spent_again_when_the_chain_shows_it_was_used(rig: Rig) -> None:
    first = await rig.paid()
    rig.clock.advance(10_000)
    lie = proof(first, used=False, at=rig.clock.now_us // 1_000_000)
    assert await rig.service.record_evidence(EGRESS, lie) == "released"
    assert await rig.service.record_evidence(EGRESS, proof(first, used=True, at=1)) == "settled"
    assert rig.view().spent_today == "0.001"


async def test_a_release_takes_as_many_sources_as_the_administrator_wants(rig: Rig) -> None:
    rig.service._proof_sources = 2
    first = await rig.paid()
    rig.clock.advance(10_000)
    at = rig.clock.now_us // 1_000_000
    assert await rig.service.record_evidence(EGRESS, proof(first, used=False, at=at, sources=1)) == "signed"
    assert await rig.service.record_evidence(EGRESS, proof(first, used=False, at=at, sources=2)) == "released"


async def test_open_payments_are_told_in_pieces(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyd.views.MAX_OPEN", 2)
    for n in range(3):
        await rig.paid(what=n)
    first = rig.views.open_payments(0, rig.clock())
    assert first.next is not None
    second = rig.views.open_payments(first.next, rig.clock())
    assert len(first.payments) == 2
    assert len(second.payments) == 1
    assert second.next is None


# --- one transaction, one payment


async def test_a_receipt_that_another_payment_had_proves_nothing(rig: Rig) -> None:
    first, second = await rig.paid(what=1), await rig.paid(what=2)
    assert await rig.report(first, http_status=200, settlement=SETTLED) == "settled"
    assert await rig.report(first, http_status=200, settlement=SETTLED) == "settled"  # its own, again
    copied = SETTLED | {"transaction": SETTLED["transaction"].upper().replace("0X", "0x")}
    assert await rig.report(second, http_status=200, settlement=copied) == "unknown"
    recorded = rig.entries("x402.payment.unknown")[0].data
    assert recorded["transaction"] is None
    assert recorded["notes"] == [
        f"transaction {SETTLED['transaction']} was the receipt of payment {first.payment.payment_id} already"
    ]
    assert recorded["delivered"] is True  # the program has its answer, and the money stays counted
    assert rig.view().spent_today == "0.002"
    assert (
        await rig.report(second, http_status=200, settlement=SETTLED | {"transaction": "0x" + "cd" * 32})
        == "settled"
    )


async def test_a_transaction_that_the_chain_proved_for_one_payment_is_no_receipt_of_another(rig: Rig) -> None:
    first, second = await rig.paid(what=1), await rig.paid(what=2)
    used = proof(first, used=True, at=1, transaction=SETTLED["transaction"])
    assert await rig.service.record_evidence(EGRESS, used) == "settled"
    assert await rig.report(second, http_status=200, settlement=SETTLED) == "unknown"


async def test_the_chain_settles_several_payments_in_one_transaction(rig: Rig) -> None:
    """A claim twice is suspicious; a proof is a proof."""
    first, second = await rig.paid(what=1), await rig.paid(what=2)
    assert await rig.report(first, http_status=200, settlement=SETTLED) == "settled"
    used = proof(second, used=True, at=1, transaction=SETTLED["transaction"])
    assert await rig.service.record_evidence(EGRESS, used) == "settled"
    assert rig.views.open_payments(0, rig.clock()).payments[0].payment_id == first.payment.payment_id


async def test_a_released_payment_is_asked_about_once_more_a_day_later(rig: Rig) -> None:
    first = await rig.paid()
    valid_before = first.payment.authorization.valid_before
    rig.clock.now_us = (valid_before + 121) * 1_000_000
    released = proof(first, used=False, at=valid_before + 121)
    assert await rig.service.record_evidence(EGRESS, released) == "released"
    asked = {}
    for hours in (1, 23, 25, 47, 49):
        rig.clock.now_us = (valid_before + hours * 3600) * 1_000_000
        asked[hours] = [p.state for p in rig.views.open_payments(0, rig.clock()).payments]
    assert asked == {1: [], 23: [], 25: ["released"], 47: ["released"], 49: []}
    assert (
        await rig.service.record_evidence(EGRESS, released) == "released"
    )  # still unused: nothing to record
    assert len(rig.entries("x402.payment.released")) == 1
    assert await rig.service.record_evidence(EGRESS, proof(first, used=True, at=valid_before)) == "settled"
    assert [row.usd for row in rig.views.spend(api.SpendBy.DAY, "2026-11-21").rows] == ["0.001"]


def garble(ledger: Path, table: str) -> None:
    """Fills the first page of a table with garbage. What is read at a start is whole."""
    with closing(sqlite3.connect(ledger)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        page, size = db.execute(
            "SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size WHERE name = ?", (table,)
        ).fetchone()
    with ledger.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)


@pytest.mark.parametrize("table", ["spend_total", "payments_by_intent", "facts"])
async def test_a_decision_that_meets_a_garbled_page_pays_nothing_and_neither_does_any_later_one(
    tmp_path: Path, table: str
) -> None:
    clock, entropy = Clock(), Entropy()
    rig = assemble(tmp_path, Policies(POLICY), clock, entropy)
    await rig.paid(what=1)
    rig.ledger.close()
    whole = (tmp_path / "ledger.sqlite3").read_bytes()
    garble(tmp_path / "ledger.sqlite3", table)
    with closing(Ledger.open(tmp_path / "ledger.sqlite3", clock=clock)) as ledger:
        service = Service(
            ledger=ledger, custody=rig.service.custody, policies=rig.service.policies, entropy=entropy
        )
        before = ledger.head()
        with pytest.raises(LedgerError, match="malformed") as met:
            await service.authorize_payment(EGRESS, intent(what=2))
        assert "ledger verify" in met.value.hint
        (tmp_path / "ledger.sqlite3").write_bytes(whole)  # as if the next page that is read were a sound one
        with pytest.raises(LedgerError, match="damaged"):
            await service.authorize_payment(EGRESS, intent(what=3))
        assert ledger.head() == before
        assert "malformed" in str(ledger.fault)
