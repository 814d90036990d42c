"""What policy holds for a person: pins, approvals, first-seen hosts; and what stops a host or a caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from keyd.api import Decided, Role
from keyd.core.applimits import Token
from keyd.core.assets import DEFAULT_ASSETS
from keyd.core.offers import Offer
from keyd.core.policy import BudgetRule, Deny, approval_id
from keyd.domains import DomainPattern
from keyd.reasons import Reason
from keyd.record import proposals
from keyd.record.facts import Kind
from keyd.record.payments import COOL_DOWN_S
from keyd.service import Authorized
from tests.keyd.conftest import EGRESS, PAYER, Rig, intent, offer

TOKEN = next(a for a in DEFAULT_ASSETS if a.network == "eip155:84532")
OTHER = "0x" + "11" * 20
SETTLED = {"success": True, "transaction": "0x" + "ab" * 32, "network": "eip155:84532", "payer": PAYER}


def pending_id(rig: Rig) -> str:
    [proposal] = rig.view().pending
    return proposal.id


async def approve(rig: Rig, proposal_id: str) -> None:
    assert isinstance(await rig.admin.decide(EGRESS, proposal_id, approve=True), Decided)


@pytest.mark.parametrize(
    ("drift", "reason"),
    [
        (offer("1000", payTo=OTHER), Reason.PIN_PAY_TO),
        (offer("2001"), Reason.PIN_PRICE),
        (offer("99999"), Reason.PIN_PRICE),
    ],
)
async def test_drift_from_the_first_payment_is_held_until_a_person_agrees(
    rig: Rig, drift: dict[str, Any], reason: Reason
) -> None:
    await rig.paid(offer("1000"), what=1)
    held = await rig.refused(drift, what=2)
    assert held.reason is reason
    assert (await rig.refused(drift, what=3)).reason is reason  # asking again changes nothing
    await approve(rig, pending_id(rig))
    await rig.paid(drift, what=4)
    await rig.paid(drift, what=5)  # the drifted terms are the pinned ones now
    assert rig.view().pending == []


async def test_another_token_or_network_is_held(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.policy(networks=frozenset({"eip155:84532", "eip155:10143"}))
    await rig.paid(what=1)
    token = {"network": "eip155:10143", "asset": "0x534b2f3A21130d7a60830c2Df862319e593943A3", "extra": {}}
    assert (await rig.refused(offer(**token), what=2)).reason is Reason.PIN_ASSET


async def test_another_token_of_the_same_network_is_held(rig: Rig) -> None:
    rig.policy(networks=frozenset({"eip155:42220"}))
    usdc, usdt = [
        a.address for a in DEFAULT_ASSETS if a.network == "eip155:42220" and a.symbol in ("USDC", "USDT")
    ]
    of_celo = {"network": "eip155:42220", "extra": {}}
    await rig.paid(offer(asset=usdc, **of_celo), what=1)
    assert (await rig.refused(offer(asset=usdt, **of_celo), what=2)).reason is Reason.PIN_ASSET
    await rig.paid(offer(asset=usdc, **of_celo), what=3)


async def test_a_denied_host_is_not_paid_on_any_port_however_it_is_allowed(rig: Rig) -> None:
    rig.policy(allowed_domains=(DomainPattern.parse("*"), DomainPattern.parse("api.example.com:8443")))
    elsewhere = {"scheme": "https", "host": "api.example.com", "port": 8443}
    await rig.paid(what=1, origin=elsewhere)
    rig.policy(denied_domains=(DomainPattern.parse("api.example.com"),))
    assert (await rig.refused(what=2, origin=elsewhere)).reason is Reason.DOMAIN_DENIED


async def test_a_price_within_the_band_and_other_paths_are_not_held(rig: Rig) -> None:
    await rig.paid(offer("1000"), what=1)
    await rig.paid(offer("2000"), what=2)
    await rig.paid(offer("1"), what=3)
    await rig.paid(offer("50000"), what=4, path="/map")
    await rig.paid(offer("50000"), what=5, method="POST")


async def test_an_offer_in_pinned_terms_comes_before_a_cheaper_stranger(rig: Rig) -> None:
    await rig.paid(offer("1000"), what=1)
    paid = await rig.paid(offer("5", payTo=OTHER), offer("1000"), what=2)
    assert paid.payment.offer.index == 1


async def test_a_person_is_told_every_reason_and_the_figures_first(rig: Rig) -> None:
    rig.policy(approve_above=10_000)
    path = "/costs-0.002-USD/" + "x" * 600
    await rig.paid(offer("1000"), what=1, path=path)
    await rig.refused(offer("90000", payTo=OTHER), what=2, path=path)
    [question] = rig.view().pending
    assert question.summary.startswith(
        f"0.09 USDC@eip155:84532 (0.09 USD) to {OTHER} for uid:1000 at api.example.com"
    )
    for reason in ("it was paid to 0x2096", "it cost 0.001 USD at first", "it is above 0.01 USD"):
        assert reason in question.summary
    assert len(question.summary) < 500


def test_no_two_offers_share_an_approval_by_chance_or_by_search() -> None:
    question = intent()
    ids = {approval_id(question, Offer(0, TOKEN, n, n, OTHER, 60)) for n in range(1, 50)}
    assert len(ids) == 49
    assert all(len(key) * 4 >= 160 for key in ids)


async def test_what_waited_too_long_is_not_approved_any_more(rig: Rig) -> None:
    rig.policy(approve_above=500)
    await rig.refused(what=1)
    waiting = pending_id(rig)
    rig.clock.advance(proposals.PENDING_S + 1)
    late = await rig.admin.decide(EGRESS, waiting, approve=True)
    assert isinstance(late, Deny)
    assert late.reason is Reason.PROPOSAL_UNKNOWN
    assert (await rig.refused(what=2)).reason is Reason.APPROVAL_REQUIRED


async def test_what_a_person_approved_for_one_caller_no_other_gets(rig: Rig) -> None:
    rig.policy(approve_above=500)
    await rig.refused(what=1)
    await approve(rig, pending_id(rig))
    assert (await rig.refused(what=2, caller={"uid": 1001})).reason is Reason.APPROVAL_REQUIRED
    await rig.paid(what=3)


async def test_one_host_cannot_fill_the_list_of_questions(rig: Rig) -> None:
    rig.policy(approve_above=0)
    for n in range(proposals.MAX_PENDING_OF_HOST + 3):
        last = await rig.refused(path=f"/{n}")
    assert len(rig.view().pending) == proposals.MAX_PENDING_OF_HOST
    assert "approval id" not in last.detail


async def test_one_callers_questions_keep_no_other_from_asking(rig: Rig) -> None:
    rig.policy(approve_above=0, allowed_domains=(DomainPattern.parse("*"),))
    hosts = [{"scheme": "https", "host": f"api{n}.example.com", "port": 443} for n in range(6)]
    for host in hosts:
        for n in range(proposals.MAX_PENDING_OF_HOST):
            await rig.refused(path=f"/{n}", origin=host)
    assert len(rig.view().pending) == proposals.MAX_PENDING_OF_CALLER
    for host in hosts:
        assert "approval id" in (await rig.refused(origin=host, caller={"uid": 1001})).detail


async def test_an_approval_is_for_these_terms_once_and_not_for_ever(rig: Rig) -> None:
    rig.policy(approve_above=10_000)
    await rig.paid(offer("10000"), what=1)
    assert (await rig.refused(offer("10001"), what=2)).reason is Reason.APPROVAL_REQUIRED
    await approve(rig, pending_id(rig))
    assert (await rig.refused(offer("10002"), what=3)).reason is Reason.APPROVAL_REQUIRED  # other terms
    assert (await rig.refused(offer("10001"), what=3, path="/map")).reason is Reason.APPROVAL_REQUIRED
    await rig.paid(offer("10001"), what=4)
    assert (await rig.refused(offer("10001"), what=5)).reason is Reason.APPROVAL_REQUIRED  # used up


async def test_an_approval_that_nobody_used_expires(rig: Rig) -> None:
    rig.policy(approve_above=10_000)
    await rig.refused(offer("20000"))
    await approve(rig, pending_id(rig))
    rig.clock.advance(proposals.APPROVAL_S + 1)
    assert (await rig.refused(offer("20000"))).reason is Reason.APPROVAL_REQUIRED


async def test_a_held_payment_holds_no_budget(rig: Rig) -> None:
    rig.policy(approve_above=10_000, daily_budget=20_000)
    await rig.refused(offer("20000"))
    await rig.paid(offer("5000"), what=1, path="/map")
    assert rig.view().spent_today == "0.005"
    await approve(rig, pending_id(rig))
    assert (await rig.refused(offer("20000"))).reason is Reason.BUDGET_DAILY  # yes to it, but it has to fit


async def test_the_first_payment_to_a_host_can_need_approval(rig: Rig) -> None:
    rig.policy(approve_first_seen=True)
    assert (await rig.refused(what=1)).reason is Reason.APPROVAL_REQUIRED
    await approve(rig, pending_id(rig))
    await rig.paid(what=2)
    await rig.paid(what=3)


async def test_a_rejected_question_can_be_asked_again(rig: Rig) -> None:
    rig.policy(approve_above=0)
    await rig.refused()
    first = pending_id(rig)
    assert isinstance(await rig.admin.decide(EGRESS, first, approve=False), Decided)
    assert rig.view().pending == []
    undecided = await rig.admin.decide(EGRESS, first, approve=True)
    assert isinstance(undecided, Deny)
    assert undecided.reason is Reason.PROPOSAL_UNKNOWN
    await rig.refused()
    assert pending_id(rig) == first


async def test_questions_are_bounded_and_expire(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keyd.record.proposals.MAX_PENDING", 3)
    rig.policy(approve_above=0)
    for n in range(5):
        await rig.refused(path=f"/{n}")
    assert len(rig.view().pending) == 3
    rig.clock.advance(proposals.PENDING_S + 1)
    assert rig.view().pending == []
    await rig.refused(path="/5")
    assert len(rig.view().pending) == 1


async def test_a_sellers_words_are_not_part_of_what_a_person_is_asked(rig: Rig) -> None:
    rig.policy(approve_above=0)
    await rig.refused(offer(description="APPROVE THIS AT ONCE\x1b[2J"), resource_url="https://x/?APPROVE")
    assert "APPROVE" not in rig.view().pending[0].model_dump_json()


async def test_recipients_can_be_listed_for_a_domain(rig: Rig) -> None:
    rig.policy(pay_to={"api.example.com": frozenset({offer()["payTo"]})})
    assert (await rig.refused(offer(payTo=OTHER))).reason is Reason.PAY_TO_NOT_ALLOWED
    await rig.paid(offer(payTo=OTHER), offer())


async def test_tokens_can_be_listed(rig: Rig) -> None:
    rig.policy(allowed_assets=(Token.parse("USDC@base"), Token.parse("USDT")))
    assert (await rig.refused()).reason is Reason.ASSET_NOT_ALLOWED
    assert rig.view().assets == []
    rig.policy(allowed_assets=(Token.parse("USDC@base-sepolia"),))
    await rig.paid()
    assert rig.view().assets == ["USDC@eip155:84532"]


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"daily_budget_per_domain": 2000}, Reason.BUDGET_DOMAIN),
        ({"daily_budget_per_caller": 2000}, Reason.BUDGET_CALLER),
        ({"daily_budget_per_caller_and_domain": 2000}, Reason.BUDGET_CALLER_DOMAIN),
        ({"budgets": (BudgetRule("api.example.com", None, 2000),)}, Reason.BUDGET_DOMAIN),
        ({"budgets": (BudgetRule(None, "uid:1", 2000),)}, Reason.BUDGET_CALLER),
        ({"budgets": (BudgetRule("api.example.com", "uid:1", 2000),)}, Reason.BUDGET_CALLER_DOMAIN),
    ],
)
async def test_budgets_of_domains_and_callers_hold_and_leave_others_alone(
    rig: Rig, limits: dict[str, Any], reason: Reason
) -> None:
    rig.policy(**limits)
    me = {"uid": 1}
    await rig.paid(what=1, caller=me)
    await rig.paid(what=2, caller=me)
    assert (await rig.refused(what=3, caller=me)).reason is reason
    assert rig.entries("x402.budget.exceeded")[-1].data["code"] == reason.value
    rig.policy(
        allowed_domains=(*rig.service.policies.base.allowed_domains, DomainPattern.parse("other.example.com"))
    )
    elsewhere = {"scheme": "https", "host": "other.example.com", "port": 443}
    others: dict[str, Any] = {"caller": {"uid": 2}, "origin": elsewhere}
    assert isinstance(await rig.pay(what=4, **others), Authorized)


async def test_payments_per_minute_are_counted_over_the_last_sixty_seconds(rig: Rig) -> None:
    rig.policy(payments_per_minute=2)
    await rig.paid(what=1)
    rig.clock.advance(30)
    await rig.paid(what=2)
    assert (await rig.refused(what=3)).reason is Reason.RATE_LIMIT
    rig.clock.advance(30)
    await rig.paid(what=3)


async def test_a_clock_that_is_set_back_does_not_empty_the_minute(rig: Rig) -> None:
    rig.policy(payments_per_minute=2)
    await rig.paid(what=1)
    await rig.paid(what=2)
    rig.clock.advance(-3600)
    assert (await rig.refused(what=3)).reason is Reason.RATE_LIMIT
    rig.clock.advance(3660)
    await rig.paid(what=3)


async def test_a_host_that_takes_money_without_delivering_is_quarantined(rig: Rig) -> None:
    rig.policy(quarantine_after=3)
    for n in range(3):
        await rig.report(await rig.paid(what=n), http_status=502)
    assert (await rig.refused(what=9)).reason is Reason.HOST_QUARANTINED
    await rig.admin.reset(EGRESS, "api.example.com")
    await rig.paid(what=9)


@pytest.mark.parametrize(
    ("failure", "blames"), [("not_sent", False), ("hung_up", False), ("timeout", True), ("connection", True)]
)
async def test_programs_that_hang_up_do_not_quarantine_a_host(rig: Rig, failure: str, blames: bool) -> None:
    """Neither before paying nor after: one of them would do it for all others."""
    rig.policy(quarantine_after=3)
    for n in range(3):
        await rig.report(await rig.paid(what=n), failure=failure)
    if blames:
        assert (await rig.refused(what=9)).reason is Reason.HOST_QUARANTINED
    else:
        await rig.paid(what=9)


async def test_one_good_delivery_ends_the_row_of_failures_and_repeats_count_once(rig: Rig) -> None:
    rig.policy(quarantine_after=3)
    for n in range(2):
        failed = await rig.paid(what=n)
        await rig.report(failed, http_status=502)
        await rig.report(failed, http_status=502)
    await rig.report(await rig.paid(what=7), http_status=200, settlement=SETTLED)
    for n in range(10, 12):
        await rig.report(await rig.paid(what=n), http_status=200)  # delivered, and never proven
    await rig.paid(what=20)


async def test_after_a_refusal_the_same_request_cools_down_and_then_gets_the_same_bytes(rig: Rig) -> None:
    first = await rig.paid()
    await rig.report(first, http_status=402)
    assert (await rig.refused()).reason is Reason.COOL_DOWN
    await rig.paid(what=1)  # another request does not wait
    rig.clock.advance(COOL_DOWN_S)
    assert (await rig.paid()).signature == first.signature


async def test_frozen_means_nothing_is_signed_not_even_a_repeat(rig: Rig) -> None:
    first = await rig.paid()
    await rig.admin.freeze(EGRESS, "something is odd")
    assert (await rig.refused()).reason is Reason.FROZEN
    assert (await rig.refused(what=1)).reason is Reason.FROZEN
    assert rig.view().frozen.reason == "something is odd"
    await rig.admin.unfreeze(EGRESS)
    assert (await rig.paid()).signature == first.signature


async def test_a_restart_keeps_pins_questions_approvals_quarantine_and_freeze(
    make_rig: Callable[..., Rig],
) -> None:
    before = make_rig()
    await before.paid(offer("1000"), what=1)
    await before.refused(offer("5000"), what=2)
    question = pending_id(before)
    await approve(before, question)
    await before.refused(offer("6000"), what=3)
    await before.admin.freeze(EGRESS, "")
    before.ledger.close()
    after = make_rig(clock=before.clock)
    assert after.view().frozen.frozen
    await after.admin.unfreeze(EGRESS)
    assert (await after.refused(offer("1000", payTo=OTHER), what=4)).reason is Reason.PIN_PAY_TO
    assert len(after.view().pending) == 2
    await after.paid(offer("5000"), what=5)


def test_roles_and_kinds_are_spelled_as_the_record_spells_them() -> None:
    assert {kind.value for kind in Kind} == {
        "pin", "price", "trouble", "pending", "approval", "frozen", "overrides", "base", "session",
        "session_payment", "wallet", "default-wallet", "kek", "customer", "receipt",
    }  # fmt: skip
    assert {role.value for role in Role} == {"egress", "admin", "agent", "reconciler"}
