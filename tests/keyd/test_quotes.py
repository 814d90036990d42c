"""A quote says what would be decided, and leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyd import api, quotes
from keyd.core.policy import Deny, Policy
from keyd.domains import DomainPattern
from keyd.reasons import Reason
from keyd.record.sessions import Sessions
from keyd.service import Authorized
from tests.keyd.conftest import EGRESS, NETWORK, POLICY, SELLER, Clock, Rig, intent, offer
from tests.keyd.record.test_sessions import digest_of, opened

EXPIRY = Clock().now_us // 1_000_000 + 60


def request(*offers: dict[str, Any], **members: Any) -> api.QuoteRequest:
    fields = {
        "origin": {"scheme": "https", "host": "api.example.com", "port": 443},
        "path": "/weather",
        "x402_version": 2,
        "offers": list(offers) or [offer()],
    }
    return api.QuoteRequest.model_validate(fields | members)


def ask(rig: Rig, *offers: dict[str, Any], **members: Any) -> api.Quote:
    now_us, assets = rig.clock.now_us, rig.service.policies.base.assets
    asked = quotes.intent_of(request(*offers, **members), "uid:1000", assets, now_us // 1_000_000)
    return rig.service.quote(asked, now_us)


async def test_what_would_be_paid_is_quoted_and_nothing_is_recorded(rig: Rig) -> None:
    await rig.paid()
    before = rig.ledger.head()
    found = ask(rig, offer("2000"), offer("1500"))
    assert (found.verdict, found.code) == ("pay", None)
    assert found.offer == api.QuotedOffer(
        accepted=1, amount="0.0015", amount_usd="0.0015", asset="USDC", network=NETWORK, pay_to=SELLER
    )
    assert rig.ledger.head() == before
    assert rig.view().spent_today == "0.001"


async def test_what_would_be_held_is_no_question_to_anybody(rig: Rig) -> None:
    rig.policy(approve_above=500)
    found = ask(rig)
    assert (found.verdict, found.code) == ("hold", "approval_required")
    assert found.offer is not None
    assert rig.view().pending == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"allowed_domains": ()}, "domain_not_allowed"),
        ({"max_payment": 999}, "cap_per_payment"),
        ({"daily_budget": 999}, "budget_daily"),
        ({"enabled": False}, "x402_disabled"),
    ],
)
async def test_what_would_be_refused_has_a_price_all_the_same(
    rig: Rig, changes: dict[str, Any], code: str
) -> None:
    rig.policy(**changes)
    found = ask(rig)
    assert (found.verdict, found.code) == ("refuse", code)
    assert found.offer is not None
    assert found.offer.amount_usd == "0.001"
    assert found.hint


async def test_what_keyd_could_never_pay_has_no_price(rig: Rig) -> None:
    found = ask(rig, offer(network="eip155:1"))
    assert (found.verdict, found.offer) == ("refuse", None)


async def test_without_a_wallet_the_quote_says_so(rig: Rig) -> None:
    (rig.path / "wallets" / "default.json").unlink()
    assert ask(rig).code == "wallet_missing"


async def test_a_quote_in_a_session_counts_its_budget(rig: Rig) -> None:
    session = digest_of(await opened(Sessions(rig.ledger, rig.service.entropy), "0.001"))
    assert ask(rig, session=session).verdict == "pay"
    await rig.paid(session=session)
    assert ask(rig, session=session).code == "budget_session"
    assert ask(rig, session="0" * 64).code == "session_invalid"
    assert ask(rig).verdict == "pay"


AMOUNTS = st.sampled_from(["1", "999", "1000", "2001", "100000", "100001", "01", "-1"])
OFFERS = st.lists(
    st.builds(
        offer,
        AMOUNTS,
        network=st.sampled_from([NETWORK, "eip155:1"]),
        payTo=st.sampled_from([SELLER, "0x857b06519E91e3A54538791bDbb0E22373e36b66"]),
    ),
    min_size=1,
    max_size=3,
)
POLICIES = st.builds(
    replace,
    st.just(POLICY),
    enabled=st.sampled_from([True, True, False]),
    daily_budget=st.sampled_from([0, 3_000, 1_000_000]),
    max_payment=st.sampled_from([999, 100_000]),
    approve_above=st.sampled_from([None, 1_000]),
    callers=st.sampled_from([frozenset({"*"}), frozenset({"uid:1001"})]),
    allowed_domains=st.sampled_from([POLICY.allowed_domains, (DomainPattern.parse("b.example"),)]),
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(policy=POLICIES, first=OFFERS, offers=OFFERS)
async def test_the_quote_is_the_decision_that_follows(
    policy: Policy,
    first: list[dict[str, Any]],
    offers: list[dict[str, Any]],
    make_rig: Callable[..., Rig],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    rig = make_rig(policy=policy, clock=Clock(), folder=tmp_path_factory.mktemp("quote"))
    await rig.pay(*first)
    quoted = ask(rig, *offers)
    decided = await rig.service.authorize_payment(EGRESS, intent(*offers, what=1))
    if isinstance(decided, Authorized):
        assert quoted.offer is not None
        assert (quoted.verdict, quoted.offer.accepted) == ("pay", decided.payment.offer.index)
    else:
        assert isinstance(decided, Deny)
        assert quoted.code == decided.reason.value
        held = decided.reason.value.startswith("pin_") or decided.reason is Reason.APPROVAL_REQUIRED
        assert quoted.verdict == ("hold" if held else "refuse")
    rig.ledger.close()


def flat_terms(**members: Any) -> dict[str, Any]:
    return {
        "amount": "0.0015",
        "asset": "USDC",
        "chain": "base-sepolia",
        "payTo": SELLER,
        "expiry": EXPIRY,
    } | members


async def test_flat_terms_are_quoted_as_they_would_be_paid(rig: Rig) -> None:
    found = ask(rig, flat_terms(), dialect="flat")
    assert (found.verdict, found.offer and found.offer.amount) == ("pay", "0.0015")
    assert ask(rig, flat_terms(asset="DOGE"), dialect="flat").code == "asset_unknown"
    assert ask(rig, flat_terms()).code == "offer_malformed"
