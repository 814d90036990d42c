"""Signing in instead of paying: where an administrator allows it, as the wallet that paid there, on record first."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from eth_account import Account

from keyd import api
from keyd.core import siwe
from keyd.core.eip3009 import Authorization
from keyd.core.policy import Deny
from keyd.reasons import Reason
from keyd.signins import SIGN_INS_PER_MINUTE, SignIns
from ledger.errors import LedgerError
from tests.keyd.conftest import EGRESS, NETWORK, PAYER, Rig, offer
from tests.keyd.test_admin import AGENT, BOT, change

ORIGIN = {"scheme": "https", "host": "api.example.com", "port": 443}


def request_at(rig: Rig, **members: Any) -> api.SignInRequest:
    issued = rig.clock.now_us // 1_000_000
    fields: dict[str, Any] = {
        "origin": ORIGIN,
        "method": "GET",
        "path": "/weather",
        "caller": {"uid": 1000},
        "info": {
            "domain": "api.example.com",
            "uri": "https://api.example.com/weather?key=secret",
            "version": "1",
            "nonce": "0123456789abcdef",
            "issuedAt": _rfc3339(issued),
        },
        "supported_chains": [{"chainId": NETWORK, "type": "eip191"}],
    }
    return api.SignInRequest.model_validate(fields | members)


def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def ask(rig: Rig, sign_ins: SignIns | None = None, **members: Any) -> api.SignInReply | Deny:
    return await (sign_ins or SignIns(rig.service)).sign_in(EGRESS, request_at(rig, **members))


async def reason_of(rig: Rig, **members: Any) -> Reason | None:
    reply = await ask(rig, **members)
    return reply.reason if isinstance(reply, Deny) else None


@pytest.fixture
async def customer(rig: Rig) -> Rig:
    """Has paid api.example.com, and may sign in there."""
    await rig.report(await rig.paid(offer()), http_status=200)
    await change(rig, signin_allow=["api.example.com"])
    return rig


async def test_a_customer_signs_in_with_the_wallet_that_paid(customer: Rig) -> None:
    reply = await ask(customer)
    assert isinstance(reply, api.SignInReply)
    proof = reply.proof
    (entry,) = customer.entries("x402.signin.signed")
    digest = bytes.fromhex(entry.data["digest"])
    assert Account._recover_hash(digest, signature=proof.signature) == PAYER == proof.address
    assert (entry.data["domain"], entry.data["caller"]) == ("api.example.com", "uid:1000")
    assert entry.data["uri"] == "https://api.example.com/weather"  # the query may be a secret
    assert proof.signature not in f"{reply!r} {reply} {entry}"


async def test_what_is_signed_is_what_the_proof_says(customer: Rig) -> None:
    reply = await ask(customer)
    assert isinstance(reply, api.SignInReply)
    members = reply.proof.model_dump(by_alias=True, exclude={"signature", "request_id"})
    text = siwe.SignIn(
        domain=members["domain"],
        address=members["address"],
        uri=members["uri"],
        chain_id=int(members["chainId"].partition(":")[2]),
        nonce=members["nonce"],
        issued_at=members["issuedAt"],
        expires_at=members["expirationTime"],
        request_id=None,
    ).message()
    assert Account._recover_hash(siwe.digest(text), signature=reply.proof.signature) == PAYER


async def test_nothing_is_spent_and_no_payment_is_signed(customer: Rig) -> None:
    before = (customer.view().spent_today, len(customer.entries("x402.payment.signed")))
    await ask(customer)
    assert (customer.view().spent_today, len(customer.entries("x402.payment.signed"))) == before


async def test_without_its_entry_there_is_no_signature(
    customer: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed: list[bytes] = []
    monkeypatch.setattr("keyd.custody.keystore.Payer.sign", lambda _, digest: signed.append(digest))

    def fails(*_: object) -> None:
        raise LedgerError("disk full")

    monkeypatch.setattr("ledger.transaction.Transaction.append", fails)
    with pytest.raises(LedgerError):
        await ask(customer)
    assert signed == []


async def test_by_default_no_host_is_signed_in_to(rig: Rig) -> None:
    await rig.report(await rig.paid(offer()), http_status=200)
    assert await reason_of(rig) is Reason.SIGNIN_NOT_ALLOWED
    assert rig.entries("x402.signin.refused")[-1].data["code"] == "signin_not_allowed"


async def test_a_host_that_never_took_a_payment_is_not_signed_in_to(rig: Rig) -> None:
    await change(rig, signin_allow=["api.example.com"])
    assert await reason_of(rig) is Reason.SIGNIN_NEVER_PAID
    payment = await rig.paid(offer())
    assert await reason_of(rig) is Reason.SIGNIN_NEVER_PAID  # signed, and nobody knows whether it was taken
    await rig.report(payment, http_status=402)
    assert await reason_of(rig) is Reason.SIGNIN_NEVER_PAID
    await rig.report(payment, http_status=200)
    assert await reason_of(rig) is None


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"caller": None}, Reason.CALLER_UNKNOWN),
        ({"origin": ORIGIN | {"host": "other.example.com"}}, Reason.DOMAIN_NOT_ALLOWED),
        ({"origin": ORIGIN | {"scheme": "http", "port": 80}}, Reason.DOMAIN_NOT_ALLOWED),
        ({"session": "ab" * 32}, Reason.SESSION_INVALID),
        ({"info": {}}, Reason.SIGNIN_UNSUITABLE),
        ({"supported_chains": [{"chainId": "eip155:1", "type": "eip191"}]}, Reason.SIGNIN_UNSUITABLE),
    ],
)
async def test_who_may_not_pay_may_not_sign_in_either(
    customer: Rig, members: dict[str, Any], reason: Reason
) -> None:
    assert await reason_of(customer, **members) is reason
    assert customer.entries("x402.signin.signed") == []


async def test_frozen_denied_switched_off_and_other_callers_do_not_sign_in(customer: Rig) -> None:
    await customer.admin.freeze(EGRESS, "")
    assert await reason_of(customer) is Reason.FROZEN
    await customer.admin.unfreeze(EGRESS)
    customer.policy(callers=frozenset({"uid:1"}))
    assert await reason_of(customer) is Reason.CALLER_NOT_ALLOWED
    assert await reason_of(customer, caller={"uid": 1}) is None
    await change(customer, deny=["api.example.com"])
    assert await reason_of(customer, caller={"uid": 1}) is Reason.DOMAIN_DENIED
    await change(customer, enable=False)
    assert await reason_of(customer, caller={"uid": 1}) is Reason.X402_DISABLED


async def test_an_agent_may_take_it_away_and_only_propose_to_allow_it(rig: Rig) -> None:
    proposed = await change(rig, AGENT, signin_allow=["api.example.com"])
    assert (proposed.applied, proposed.wider) == (False, ["lets wallets sign in to api.example.com"])
    assert rig.view().signin_domains == []
    await change(rig, signin_allow=["api.example.com", "http://127.0.0.1:4021"])
    assert (await change(rig, AGENT, signin_deny=["api.example.com"])).applied
    assert rig.view().signin_domains == ["http://127.0.0.1:4021"]
    assert rig.entries("x402.policy.changed")[-1].actor == str(BOT)


@pytest.mark.parametrize("domain", ["*", "*.example.com", "https://api.example.com/path"])
async def test_only_one_host_at_a_time_can_be_allowed(rig: Rig, domain: str) -> None:
    denied = await rig.admin.change(BOT, frozenset(api.Role), api.PolicyPatch(signin_allow=[domain]))
    assert isinstance(denied, Deny)
    assert denied.reason is Reason.REQUEST_MALFORMED


async def test_overrides_that_are_only_tried_out_let_nobody_sign_in(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(enforce=False)
    await rig.report(await rig.paid(offer()), http_status=200)
    await change(rig, signin_allow=["api.example.com"])
    assert await reason_of(rig) is Reason.SIGNIN_NOT_ALLOWED


async def test_a_restart_keeps_customers_and_permissions(make_rig: Callable[..., Rig]) -> None:
    before = make_rig()
    await before.report(await before.paid(offer()), http_status=200)
    await change(before, signin_allow=["api.example.com"])
    before.ledger.close()
    assert await reason_of(make_rig(clock=before.clock)) is None


async def test_floods_of_challenges_are_limited_and_counted(customer: Rig) -> None:
    sign_ins = SignIns(customer.service)
    for _ in range(SIGN_INS_PER_MINUTE):
        assert isinstance(await ask(customer, sign_ins), api.SignInReply)
    denied = await ask(customer, sign_ins)
    assert isinstance(denied, Deny)
    assert denied.reason is Reason.RATE_LIMIT
    for _ in range(2 * SIGN_INS_PER_MINUTE):
        await ask(customer, sign_ins)
    assert len(customer.entries("x402.signin.signed")) == SIGN_INS_PER_MINUTE
    assert len(customer.entries("x402.signin.refused")) == SIGN_INS_PER_MINUTE
    customer.clock.advance(61)
    assert isinstance(await ask(customer, sign_ins), api.SignInReply)


async def test_a_sign_in_is_no_transfer_even_for_the_same_wallet(customer: Rig) -> None:
    reply = await ask(customer)
    assert isinstance(reply, api.SignInReply)
    (payment,) = customer.entries("x402.payment.signed")
    digest = bytes.fromhex(payment.data["digest"])
    assert Authorization.from_json(payment.data["authorization"]).from_ == PAYER
    assert Account._recover_hash(digest, signature=reply.proof.signature) != PAYER
