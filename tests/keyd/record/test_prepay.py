"""Paying before the server asks: what keyd permits, and that a wrong guess never costs twice."""

from __future__ import annotations

from typing import Any

import pytest

from keyd import api
from keyd.core.policy import Deny, PrepayRule
from keyd.reasons import Reason
from keyd.service import Authorized
from tests.keyd.conftest import EGRESS, Rig, offer

RULE = PrepayRule("api.example.com", frozenset({"GET"}), 3)
OTHER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"


@pytest.fixture
def known(rig: Rig) -> Rig:
    """One with a rule."""
    rig.policy(prepay=(RULE,))
    return rig


async def prepay(rig: Rig, *offers: dict[str, Any], what: int = 1, **members: Any) -> Authorized | Deny:
    return await rig.pay(*offers, what=what, prepaid=True, **members)


async def reason(rig: Rig, *offers: dict[str, Any], **members: Any) -> Reason:
    denial = await prepay(rig, *offers, **members)
    assert isinstance(denial, Deny), denial
    return denial.reason


async def report(rig: Rig, paid: Authorized, status: int) -> None:
    outcome = api.OutcomeReport(payment_id=paid.payment.payment_id, http_status=status)
    await rig.service.record_outcome(EGRESS, outcome)


async def test_known_terms_may_be_prepaid_and_the_ledger_marks_it(known: Rig) -> None:
    await known.paid()
    paid = await prepay(known)
    assert isinstance(paid, Authorized)
    assert not paid.payment.repeat
    ordinary, prepaid = (entry.data for entry in known.entries("x402.payment.signed"))
    assert "prepaid" not in ordinary
    assert prepaid["prepaid"] is True
    assert [entry.data.get("prepaid") for entry in known.entries("x402.payment.attempt")] == [None, True]


async def test_nothing_is_prepaid_without_a_rule_that_names_domain_and_method(rig: Rig) -> None:
    await rig.paid()
    assert await reason(rig) is Reason.PREPAY_NOT_ALLOWED
    rig.policy(
        prepay=(
            PrepayRule("other.example.com", frozenset({"GET"}), 3),
            PrepayRule(RULE.domain, frozenset({"POST"}), 3),
        )
    )
    assert await reason(rig) is Reason.PREPAY_NOT_ALLOWED
    assert len(rig.entries("x402.payment.signed")) == 1


async def test_what_was_never_paid_is_not_prepaid(known: Rig) -> None:
    assert await reason(known) is Reason.PREPAY_NOT_ALLOWED
    await known.paid()
    assert await reason(known, path="/another") is Reason.PREPAY_NOT_ALLOWED


@pytest.mark.parametrize("changed", [{"payTo": OTHER}, {"amount": "1001"}])
async def test_other_terms_than_the_pinned_are_not_prepaid_and_nobody_is_asked(
    known: Rig, changed: dict[str, str]
) -> None:
    await known.paid(offer("1000"))
    assert await reason(known, offer(**{"amount": "1000", **changed})) is Reason.PREPAY_NOT_ALLOWED
    assert known.views.policy(known.clock(), wallet=None, default_wallet="").pending == []
    assert isinstance(await prepay(known, offer("999")), Authorized)  # cheaper is no surprise


async def test_a_hold_refuses_a_prepayment_without_a_question(known: Rig) -> None:
    await known.paid()
    known.policy(prepay=(RULE,), approve_above=1)
    assert await reason(known) is Reason.APPROVAL_REQUIRED
    assert known.views.policy(known.clock(), wallet=None, default_wallet="").pending == []


async def test_budget_cap_and_freeze_hold_for_prepayments_too(known: Rig) -> None:
    await known.paid()
    known.policy(prepay=(RULE,), daily_budget=1500)
    assert await reason(known) is Reason.BUDGET_DAILY
    known.policy(prepay=(RULE,), max_payment=1)
    assert await reason(known) is Reason.CAP_PER_PAYMENT


async def test_a_wrong_guess_is_not_paid_again_but_repeated_in_the_same_bytes(known: Rig) -> None:
    await known.paid()
    guess = await prepay(known)
    assert isinstance(guess, Authorized)
    await report(known, guess, 402)
    at_once = await known.pay(what=1)  # the ordinary path, for the 402 that came back
    assert isinstance(at_once, Deny)
    assert at_once.reason is Reason.COOL_DOWN
    known.clock.advance(11)
    later = await known.pay(what=1)
    assert isinstance(later, Authorized)
    assert (later.payment.repeat, later.signature) == (True, guess.signature)
    dearer = await known.pay(offer("1500"), what=1)
    assert isinstance(dearer, Deny)
    assert dearer.reason is Reason.INTENT_OPEN_TERMS_CHANGED
    assert len(known.entries("x402.payment.signed")) == 2
    view = known.views.policy(known.clock(), wallet=None, default_wallet="")
    assert view.spent_today == "0.002"  # what was signed stays reserved


async def test_a_prepaid_request_that_is_repeated_gets_the_same_bytes(known: Rig) -> None:
    await known.paid()
    first = await prepay(known)
    again = await prepay(known)
    assert isinstance(first, Authorized)
    assert isinstance(again, Authorized)
    assert (again.payment.repeat, again.signature) == (True, first.signature)


async def test_after_a_delivered_answer_the_next_prepaid_request_is_a_new_purchase(known: Rig) -> None:
    await known.paid()
    first = await prepay(known)
    assert isinstance(first, Authorized)
    await report(known, first, 200)
    known.clock.advance(1)
    second = await prepay(known)
    assert isinstance(second, Authorized)
    assert second.signature != first.signature
