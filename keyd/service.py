"""The whole life of a decision. Read `authorize_payment` from top to bottom.

Everything that decides runs inside one ledger transaction, on the projection of what was recorded before:
there is no budget in memory that could differ from the record, and parallel requests decide one after the
other. The signature is made only after that transaction is on the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from keyd import api, eip3009, evidence, payments
from keyd.assets import Asset
from keyd.eip3009 import Authorization
from keyd.evidence import Signed
from keyd.intent import Intent
from keyd.keystore import Keystore, Payer, WalletMissing, WalletUnreadable
from keyd.money import format_usd
from keyd.offers import Offer
from keyd.peer import Peer
from keyd.policy import Deny, Policy, admit, decide, same_terms
from keyd.reasons import Reason
from ledger.entry import Entry
from ledger.log import Ledger
from ledger.transaction import Transaction

MAX_OPEN: Final = 500
"""Payments in one answer to a reconciler; it asks again for the rest."""
_BUDGET_REASONS = frozenset({Reason.BUDGET_DAILY})


@dataclass(frozen=True, slots=True)
class Recorded:
    """A payment that the ledger holds and that may now be signed."""

    payment_id: str
    offer: Offer
    authorization: Authorization
    payer: Payer
    repeat: bool
    """It was signed before, for the same intent."""


@dataclass(frozen=True, slots=True)
class Authorized:
    """A signed payment: the only thing in keyd that carries a signature."""

    payment: Recorded
    signature: str

    def __repr__(self) -> str:
        return f"Authorized({self.payment!r}, signature=…)"


class Service:
    """Decides, records, signs. Clock (in the ledger) and entropy come from outside."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        wallets: Keystore,
        policy: Policy,
        default_wallet: str,
        entropy: Callable[[int], bytes],
    ) -> None:
        self.ledger = ledger
        self.wallets = wallets
        self.policy = policy
        self.default_wallet = default_wallet
        self._entropy = entropy

    async def authorize_payment(self, peer: Peer, intent: Intent) -> Authorized | Deny:
        """The decision on one 402. Raises LedgerError if it cannot be recorded; then nothing was signed."""
        payer = self._open_wallet(intent.wallet_id or self.default_wallet)
        payment = await self._transact(lambda tx: self._decide_and_record(tx, peer, intent, payer))
        if isinstance(payment, Deny):
            return payment
        # The entry is on the disk. From here a crash over-counts this payment; it can never under-count it.
        digest = eip3009.digest(payment.authorization, payment.offer.asset)
        return Authorized(payment, payment.payer.sign(digest))

    def _decide_and_record(
        self, tx: Transaction, peer: Peer, intent: Intent, payer: Payer | Deny
    ) -> Recorded | Deny:
        now_s = tx.now // 1_000_000
        earlier = payments.latest_of(tx.db, intent.intent_key)
        is_open = earlier is not None and earlier.is_open(now_s)
        question = intent.record() | {"repeat_of": earlier.payment_id if earlier and is_open else None}
        attempt = tx.append("x402.payment.attempt", str(peer), question)
        if denial := admit(intent, self.policy):
            return _reject(tx, peer, intent, attempt, denial)
        if isinstance(payer, Deny):
            return _reject(tx, peer, intent, attempt, payer)
        if earlier is not None and is_open:
            repeat = self._repeat(intent, payer, earlier)
            return _reject(tx, peer, intent, attempt, repeat) if isinstance(repeat, Deny) else repeat
        if earlier is not None and earlier.is_unresolved(now_s):
            detail = f"payment {earlier.payment_id} expired a moment ago; its outcome is not certain yet"
            return _reject(tx, peer, intent, attempt, Deny(Reason.INTENT_UNRESOLVED, detail))
        day = payments.budget_day(tx.db, tx.now)
        decision = decide(intent, self.policy, payer=payer.address, spent=payments.spent_on(tx.db, day))
        if isinstance(decision, Deny):
            return _reject(tx, peer, intent, attempt, decision)
        authorization = eip3009.authorize(
            payer=payer.address,
            pay_to=decision.offer.pay_to,
            value=decision.offer.amount,
            window_s=decision.offer.window_s,
            nonce=self._entropy(32),
            now_s=now_s,
        )
        payment_id = self._entropy(16).hex()
        data = _signed_entry(payment_id, intent, attempt, payer.label, decision.offer, authorization, day)
        tx.append("x402.payment.signed", str(peer), data)
        return Recorded(payment_id, decision.offer, authorization, payer, repeat=False)

    def _repeat(self, intent: Intent, payer: Payer, earlier: payments.Payment) -> Recorded | Deny:
        """The same authorization again: deterministic signing gives the same bytes, so it cannot cost twice."""
        offer = same_terms(
            intent,
            self.policy,
            earlier.authorization.from_,
            network=earlier.network,
            asset=earlier.asset,
            pay_to=earlier.authorization.to,
            amount=earlier.amount,
        )
        if offer is None:
            detail = f"payment {earlier.payment_id} is open until {earlier.authorization.valid_before}"
            return Deny(Reason.INTENT_OPEN_TERMS_CHANGED, detail)
        if payer.address != earlier.authorization.from_:
            detail = f"payment {earlier.payment_id} is open and was made by {earlier.authorization.from_}"
            return Deny(Reason.INTENT_OPEN_TERMS_CHANGED, detail)
        return Recorded(earlier.payment_id, offer, earlier.authorization, payer, repeat=True)

    async def record_outcome(self, peer: Peer, report: api.OutcomeReport) -> str | Deny:
        """Records what became of a payment and returns its state. Never frees budget. Raises LedgerError."""
        return await self._transact(lambda tx: self._weigh_and_record(tx, peer, report))

    def _weigh_and_record(self, tx: Transaction, peer: Peer, report: api.OutcomeReport) -> str | Deny:
        payment = payments.by_id(tx.db, report.payment_id)
        if payment is None:
            return Deny(Reason.PAYMENT_UNKNOWN, f"payment {report.payment_id}")
        signed = Signed(payment.authorization.from_, payment.network, payment.amount)
        found = evidence.weigh(signed, report)
        data = {
            "delivered": found.delivered,
            "http_status": report.http_status,
            "notes": list(found.notes),
            "payment_id": payment.payment_id,
            "transaction": found.transaction,
        }
        tx.append(f"x402.payment.{found.state}", str(peer), data)
        after = payments.by_id(tx.db, report.payment_id)
        return found.state if after is None else after.state

    def open_payments(self, after: int) -> api.OpenPayments:
        """What a reconciler has to ask the chain about: every payment whose end is not proven."""
        rows = self.ledger.read(lambda db: payments.unproven(db, after, MAX_OPEN))
        return api.OpenPayments(
            payments=[_open_payment(payment) for payment in rows],
            next=rows[-1].signed_seq if len(rows) == MAX_OPEN else None,
        )

    async def record_evidence(self, peer: Peer, found: api.ChainEvidence) -> str | Deny:
        """Settles or releases a payment on proof from the chain. The only way budget ever comes back."""
        return await self._transact(lambda tx: self._prove_and_record(tx, peer, found))

    def _prove_and_record(self, tx: Transaction, peer: Peer, found: api.ChainEvidence) -> str | Deny:
        payment = payments.by_id(tx.db, found.payment_id)
        if payment is None:
            return Deny(Reason.PAYMENT_UNKNOWN, f"payment {found.payment_id}")
        state = evidence.prove(payment.authorization.valid_before, found, now_s=tx.now // 1_000_000)
        if state is None or payment.state in ("settled", "released"):
            return payment.state
        data = {
            "payment_id": payment.payment_id,
            "proof": found.model_dump(mode="json", exclude={"payment_id", "transaction"}),
            "transaction": found.transaction,
        }
        tx.append(f"x402.payment.{state}", str(peer), data)
        return state

    async def record_stranger(self, peer: Peer, what: str, suppressed: int) -> None:
        """Somebody without the right role spoke to the socket."""
        data = {"pid": peer.pid, "request": what, "suppressed": suppressed, "uid": peer.uid}
        await self._transact(lambda tx: tx.append("keyd.peer.refused", str(peer), data))

    async def record(self, peer: str, event: str, data: dict[str, object]) -> None:
        """An event that decides nothing: a wallet was made, keyd started."""
        await self._transact(lambda tx: tx.append(event, peer, data))

    def view_policy(self, now_us: int) -> api.PolicyView:
        """What is in force and what was spent today."""
        day, spent, by_domain = self.ledger.read(
            lambda db: (
                day := payments.budget_day(db, now_us),
                payments.spent_on(db, day),
                payments.spent_by_domain(db, day),
            )
        )
        policy = self.policy
        wallet = self._open_wallet(self.default_wallet)
        return api.PolicyView(
            enabled=policy.enabled,
            allowed_domains=[str(pattern) for pattern in policy.allowed_domains],
            networks=sorted(policy.networks),
            assets=sorted(str(asset) for asset in payable_assets(policy)),
            max_payment=format_usd(policy.max_payment),
            daily_budget=format_usd(policy.daily_budget),
            spent_today=format_usd(spent),
            left_today=format_usd(max(0, policy.daily_budget - spent)),
            day=day,
            by_domain=[
                api.DomainSpend(domain=domain, usd=format_usd(usd), calls=calls)
                for domain, usd, calls in by_domain
            ],
            wallet=None if isinstance(wallet, Deny) else wallet.address,
            default_wallet_label=self.default_wallet,
        )

    def problems(self) -> list[str]:
        """Why no payment can be made now, in words; empty if one could."""
        found = []
        if not self.policy.enabled:
            found.append("payments are switched off ([x402] enable)")
        if not self.policy.allowed_domains:
            found.append("no domain may be paid ([x402] allowed_domains is empty)")
        wallet = self._open_wallet(self.default_wallet)
        if isinstance(wallet, Deny):
            found.append(f"{wallet.detail}: {wallet.reason.explanation.summary}")
        return found

    def _open_wallet(self, label: str) -> Payer | Deny:
        try:
            return self.wallets.open(label)
        except WalletMissing:
            return Deny(Reason.WALLET_MISSING, f"wallet {label!r}")
        except WalletUnreadable as error:
            return Deny(Reason.WALLET_UNREADABLE, str(error))

    async def _transact[T](self, step: Callable[[Transaction], T]) -> T:
        return await asyncio.wrap_future(self.ledger.transact(step))


def payable_assets(policy: Policy) -> list[Asset]:
    """Tokens that an offer could be paid in under this policy."""
    return [a for a in policy.assets.on(policy.networks) if a.method == "eip3009"]


def _open_payment(payment: payments.Payment) -> api.OpenPayment:
    return api.OpenPayment(
        payment_id=payment.payment_id,
        state=payment.state,
        network=payment.network,
        asset=payment.asset,
        payer=payment.authorization.from_,
        pay_to=payment.authorization.to,
        amount=str(payment.amount),
        nonce="0x" + payment.authorization.nonce.hex(),
        signed_at=payment.authorization.valid_after + eip3009.CLOCK_SKEW_S,
        valid_before=payment.authorization.valid_before,
    )


def _signed_entry(
    payment_id: str,
    intent: Intent,
    attempt: Entry,
    wallet: str,
    offer: Offer,
    authorization: Authorization,
    day: str,
) -> dict[str, object]:
    """The record of an authorization. The signature is not in it (a bearer instrument), its digest is."""
    return {
        "amount": str(offer.amount),
        "asset": offer.asset.address,
        "asset_symbol": offer.asset.symbol,
        "attempt": attempt.seq,
        "authorization": authorization.as_json(),
        "caller": intent.caller,
        "day": day,
        "digest": eip3009.digest(authorization, offer.asset).hex(),
        "domain": intent.domain,
        "intent_key": intent.intent_key,
        "network": offer.asset.network,
        "payment_id": payment_id,
        "signed_at": authorization.valid_after + eip3009.CLOCK_SKEW_S,
        "usd_micros": offer.usd_micros,
        "valid_before": authorization.valid_before,
        "wallet": wallet,
    }


def _reject(tx: Transaction, peer: Peer, intent: Intent, attempt: Entry, denial: Deny) -> Deny:
    """Refusals are recorded, too: an auditor sees what was asked for and why it was not paid."""
    data = {
        "attempt": attempt.seq,
        "caller": intent.caller,
        "code": denial.reason.value,
        "detail": denial.detail,
        "domain": intent.domain,
    }
    if denial.reason in _BUDGET_REASONS:
        tx.append("x402.budget.exceeded", str(peer), data)
    tx.append("x402.payment.rejected", str(peer), data)
    return denial
