"""Signing in instead of paying: who may, where, as which wallet, and the record of it.

A sign-in moves no money, but it proves to a host who we are and lets its bearer in: it is off for every host until an
administrator allows it, and possible only where the same wallet has paid before.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from keyd import api
from keyd.core import siwe
from keyd.core.intent import UNKNOWN_CALLER, Intent
from keyd.core.policy import Deny, Policy, admit
from keyd.core.siwe import SignIn
from keyd.custody.keystore import Payer
from keyd.peer import Peer
from keyd.reasons import Reason
from keyd.record import facts, payments, standing
from keyd.record.facts import Kind
from keyd.record.floods import Flood
from keyd.service import Service
from ledger.transaction import Transaction

SIGN_INS_PER_MINUTE: Final = 120
"""Of one caller. Each is an entry, and a page of a seller can ask for one with every answer."""


@dataclass(frozen=True, slots=True)
class _Recorded:
    sign_in: SignIn
    payer: Payer


class SignIns:
    """Decides, records, signs. Methods raise LedgerError if that cannot be recorded; then nothing was signed."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._asked = Flood(SIGN_INS_PER_MINUTE)
        self._refused = Flood(SIGN_INS_PER_MINUTE)

    async def sign_in(self, peer: Peer, request: api.SignInRequest) -> api.SignInReply | Deny:
        """The answer to a challenge of a host, or why there is none."""
        step = asyncio.wrap_future(
            self._service.ledger.transact(lambda tx: self._decide_and_record(tx, peer, request))
        )
        recorded = await step
        if isinstance(recorded, Deny):
            return recorded
        signature = recorded.payer.sign(siwe.digest(recorded.sign_in.message()))
        proof = api.SignInProof.model_validate(recorded.sign_in.as_json() | {"signature": signature})
        return api.SignInReply(proof=proof)

    def _decide_and_record(self, tx: Transaction, peer: Peer, request: api.SignInRequest) -> _Recorded | Deny:
        intent = _intent(request)
        decided = self._decide(tx, intent, request)
        named: dict[str, Any] = {
            "caller": intent.caller,
            "domain": intent.domain,
            "method": intent.method,
            "path": intent.path,
        }
        if isinstance(decided, Deny):
            suppressed = self._refused.note(intent.caller, tx.now)
            if suppressed is not None:
                data = named | {"code": decided.reason.value, "detail": decided.detail}
                tx.append("x402.signin.refused", str(peer), data | {"suppressed": suppressed})
            return decided
        sign_in = decided.sign_in
        data = named | {
            "address": sign_in.address,
            "chain_id": sign_in.chain_id,
            "digest": siwe.digest(sign_in.message()).hex(),
            "expires_at": sign_in.expires_at,
            "nonce": sign_in.nonce,
            "uri": sign_in.uri.partition("?")[0][:512],
            "wallet": decided.payer.label,
        }
        tx.append("x402.signin.signed", str(peer), data)
        return decided

    def _decide(self, tx: Transaction, intent: Intent, request: api.SignInRequest) -> _Recorded | Deny:
        now_s, day = tx.now // 1_000_000, payments.budget_day(tx.now)
        policy = self._service.policies.governing(tx.db)
        record = standing.load(tx.db, intent, policy, now_s=now_s, day=day)
        if denial := admit(intent, policy, record) or _not_allowed(intent, policy):
            return denial
        wallet = facts.get(tx.db, Kind.CUSTOMER, intent.domain)
        if wallet is None:
            return Deny(Reason.SIGNIN_NEVER_PAID, f"nothing was ever paid to {intent.domain}")
        payer = self._service.custody.payer(tx.db, wallet)
        if isinstance(payer, Deny):
            return payer
        if self._asked.note(intent.caller, tx.now) is None:
            return Deny(Reason.RATE_LIMIT, f"more than {SIGN_INS_PER_MINUTE} sign-ins in a minute")
        try:
            sign_in = siwe.answer(
                request.info,
                request.supported_chains,
                origin=request.origin,
                networks=policy.networks,
                address=payer.address,
                now_s=now_s,
            )
        except ValueError as error:
            return Deny(Reason.SIGNIN_UNSUITABLE, str(error))
        return _Recorded(sign_in, payer)


def _not_allowed(intent: Intent, policy: Policy) -> Deny | None:
    if intent.domain in policy.signin_domains:
        return None
    return Deny(Reason.SIGNIN_NOT_ALLOWED, f"signing in to {intent.domain} is not allowed")


def _intent(request: api.SignInRequest) -> Intent:
    """The request in the terms of the policy, which asks the same of it as of a payment."""
    return Intent(
        origin=request.origin,
        method=request.method,
        path=request.path,
        caller=UNKNOWN_CALLER if request.caller is None else str(request.caller),
        fingerprint="",
        key=None,
        x402_version=2,
        offers=(),
        resource_url=None,
        wallet_id=None,
        session=request.session,
    )
