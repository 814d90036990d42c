"""The life of a payment. Read `authorize_payment` from top to bottom: it is the whole decision.

Everything that decides runs inside one ledger transaction, on the projection of what was recorded before:
there is no budget in memory that could differ from the record, and parallel requests decide one after the
other. The signature is made only after that transaction is on the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from keyd import api, quotes
from keyd.core import eip3009, evidence
from keyd.core.eip3009 import Authorization
from keyd.core.evidence import Signed
from keyd.core.intent import Intent
from keyd.core.offers import Offer
from keyd.core.policy import Allow, Deny, Policy, Standing, admit, choose, decide, same_terms
from keyd.custody.keystore import Payer
from keyd.custody.wallets import Custody
from keyd.peer import Peer
from keyd.reasons import Reason
from keyd.record import payments, records, standing
from keyd.record.floods import Flood
from keyd.record.payments import Payment
from keyd.record.policies import Policies
from keyd.record.turns import Turns
from ledger.log import Ledger
from ledger.transaction import Transaction

REFUSALS_PER_MINUTE: Final = 120
"""Refusals of one caller that are recorded one by one. A program that asks more often is in a loop, or hostile: the
next entry says how many there were."""
REPEATS_PER_MINUTE: Final = 120
"""Repeats of one caller, and outcomes that say nothing new, that are recorded one by one: a payment stays open for ten
minutes, and a program that retries all the time must not fill the disk that every payment needs."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """What may be bought, and whose wallet pays."""

    allowed: Allow
    payer: Payer

    @property
    def offer(self) -> Offer:
        return self.allowed.offer


@dataclass(frozen=True, slots=True)
class Recorded:
    """A payment that the ledger holds and that may now be signed."""

    payment_id: str
    offer: Offer
    authorization: Authorization
    digest: bytes
    """What is signed (EIP-712), and on record."""
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
        custody: Custody,
        policies: Policies,
        entropy: Callable[[int], bytes],
        proof_sources: int = 1,
    ) -> None:
        self.ledger = ledger
        self.custody = custody
        self.policies = policies
        self.entropy = entropy
        self._proof_sources = proof_sources
        self._turns = Turns(ledger)
        self._refusals = Flood(REFUSALS_PER_MINUTE)
        self._repeats = Flood(REPEATS_PER_MINUTE)
        self._outcomes = Flood(REPEATS_PER_MINUTE)

    # -- asked to pay -------------------------------------------------------------------------------------

    async def authorize_payment(self, peer: Peer, intent: Intent) -> Authorized | Deny:
        """The decision on one 402. Raises LedgerError if it cannot be recorded; then nothing was signed."""
        payment = await self._transact(lambda tx: self._decide_and_record(tx, peer, intent))
        if isinstance(payment, Deny):
            return payment
        # The entry is on the disk. From here a crash over-counts this payment; it can never under-count it.
        return Authorized(payment, payment.payer.sign(payment.digest))

    def _decide_and_record(self, tx: Transaction, peer: Peer, intent: Intent) -> Recorded | Deny:
        now_s, day = tx.now // 1_000_000, payments.budget_day(tx.now)
        policy = self.policies.governing(tx.db)
        record = standing.load(tx.db, intent, policy, now_s=now_s, day=day)
        verdict = _judge(tx, intent, policy, record, self.custody, now_s)
        if isinstance(verdict, Deny):
            suppressed = self._refusals.note(intent.caller, tx.now)
            return verdict if suppressed is None else records.refusal(tx, peer, intent, verdict, suppressed)
        if isinstance(verdict, Recorded):
            self._record_repeat(tx, peer, intent, verdict)
            return verdict

        asked = tx.append("x402.payment.attempt", str(peer), records.attempt(intent))
        payer = verdict.payer
        authorization = eip3009.authorize(
            payer=payer.address,
            pay_to=verdict.offer.pay_to,
            value=verdict.offer.amount,
            window_s=verdict.offer.window_s,
            nonce=self.entropy(32),
            now_s=now_s,
        )
        digest = eip3009.digest(authorization, verdict.offer.asset)
        payment_id = self.entropy(16).hex()
        data = records.signed(
            payment_id, intent, asked, payer.label, verdict.offer, authorization, digest, now_s, day
        )
        data |= records.signed_facts(payment_id, intent, verdict.allowed, record)
        data |= records.signed_offer(intent, verdict.offer, payer.address, now_s)
        data |= self._shadow(tx, intent, payer)
        tx.append("x402.payment.signed", str(peer), data)
        return Recorded(payment_id, verdict.offer, authorization, digest, payer, repeat=False)

    def _record_repeat(self, tx: Transaction, peer: Peer, intent: Intent, verdict: Recorded) -> None:
        """What is signed again has an entry from the first time; this one only says that it was asked for."""
        suppressed = self._repeats.note(intent.caller, tx.now)
        if suppressed is not None:
            data = records.attempt(intent, repeat_of=verdict.payment_id, suppressed=suppressed)
            tx.append("x402.payment.attempt", str(peer), data)

    def _shadow(self, tx: Transaction, intent: Intent, payer: Payer) -> dict[str, Any]:
        """With `enforce = false`: what the overrides would have refused, for the record."""
        if self.policies.enforce:
            return {}
        policy, now_s, day = self.policies.in_force(tx.db), tx.now // 1_000_000, payments.budget_day(tx.now)
        record = standing.load(tx.db, intent, policy, now_s=now_s, day=day)
        stricter = decide(intent, policy, payer=payer.address, standing=record)
        if isinstance(stricter, Allow):
            return {}
        return {"would_refuse": {"code": stricter.reason.value, "detail": stricter.detail}}

    def quote(self, intent: Intent, now_us: int) -> api.Quote:
        """What the decision would be at `now_us`. Leaves no trace."""
        return self.ledger.read(
            lambda db: quotes.quote(
                db, intent, self.policies.governing(db), self.custody.payer(db, None), now_us
            )
        )

    # -- told what became of it ---------------------------------------------------------------------------

    async def record_outcome(self, peer: Peer, report: api.OutcomeReport) -> str | Deny:
        """Records what became of a payment and returns its state. Never frees budget. Raises LedgerError."""
        return await self._transact(lambda tx: self._weigh_and_record(tx, peer, report))

    def _weigh_and_record(self, tx: Transaction, peer: Peer, report: api.OutcomeReport) -> str | Deny:
        payment = payments.by_id(tx.db, report.payment_id)
        if payment is None:
            return Deny(Reason.PAYMENT_UNKNOWN, f"there is no payment {report.payment_id}")
        signed = Signed(payment.authorization.from_, payment.network, payment.amount)
        found = evidence.weigh(signed, report)
        other = None if found.transaction is None else records.claimed(tx.db, payment, found.transaction)
        if other is not None:
            found = evidence.used_before(found, other)
        is_news = not records.says_nothing_new(payment, found)
        suppressed = 0 if is_news else self._outcomes.note(payment.caller, tx.now)
        if suppressed is None:
            return payment.state
        data = records.outcome(payment, report, found, suppressed)
        data |= records.outcome_facts(tx.db, payment, found)
        data |= records.signed_receipt(payment, report, found, tx.now // 1_000_000)
        tx.append(f"x402.payment.{found.state}", str(peer), data)
        return _state_of(tx, payment)

    async def record_evidence(self, peer: Peer, found: api.ChainEvidence) -> str | Deny:
        """Settles or releases a payment on proof from the chain. The only way budget ever comes back."""
        return await self._transact(lambda tx: self._prove_and_record(tx, peer, found))

    def _prove_and_record(self, tx: Transaction, peer: Peer, found: api.ChainEvidence) -> str | Deny:
        payment = payments.by_id(tx.db, found.payment_id)
        if payment is None:
            return Deny(Reason.PAYMENT_UNKNOWN, f"there is no payment {found.payment_id}")
        state = evidence.prove(
            payment.authorization.valid_before,
            found,
            now_s=tx.now // 1_000_000,
            enough_sources=found.sources >= self._proof_sources,
        )
        if state is None or (payment.proven and payment.state == state):
            return payment.state
        if payment.proven and payment.state == "settled":  # an RPC server that now says otherwise is wrong
            return payment.state
        tx.append(f"x402.payment.{state}", str(peer), records.proven(tx.db, payment, found, state))
        return _state_of(tx, payment)

    # -- everything else ----------------------------------------------------------------------------------

    async def record_stranger(self, peer: Peer, what: str, suppressed: int) -> None:
        """Somebody without the right role spoke to the socket."""
        data = {"pid": peer.pid, "request": what, "suppressed": suppressed, "uid": peer.uid}
        await self._transact(lambda tx: tx.append("keyd.peer.refused", str(peer), data))

    async def record(self, actor: str, event: str, data: dict[str, object]) -> None:
        """An event that decides nothing: a wallet was made, keyd started."""
        await self._transact(lambda tx: tx.append(event, actor, data))

    def problems(self) -> list[str]:
        """Why no payment can be made now, in words; empty if one could."""
        policy, frozen = self.ledger.read(lambda db: (self.policies.governing(db), standing.is_frozen(db)))
        found = []
        if not policy.enabled:
            found.append("payments are switched off ([x402] enable)")
        if frozen:
            found.append("payments are frozen (`osmoda-keyctl x402 unfreeze`)")
        if not policy.allowed_domains:
            found.append("no domain may be paid ([x402] allowed_domains is empty)")
        if self.ledger.fault is not None:
            found.append(f"{api.LEDGER_WRITE_FAILED}: {self.ledger.fault}")
        if (wallet := self.custody.default_problem()) is not None:
            found.append(f"{wallet.detail} ({wallet.reason})")
        return found

    async def _transact[T](self, step: Callable[[Transaction], T]) -> T:
        return await self._turns.take(step)


def _judge(
    tx: Transaction, intent: Intent, policy: Policy, record: Standing, custody: Custody, now_s: int
) -> Purchase | Recorded | Deny:
    """A new purchase, the repeat of one that is open, or neither."""
    if denial := admit(intent, policy, record):
        return denial
    payer = custody.payer(tx.db, intent.wallet_id)
    if isinstance(payer, Deny):
        return payer
    earlier = payments.latest_of(tx.db, intent.intent_key)
    if earlier is not None:
        if earlier.is_open(now_s) or payments.overlaps(tx.db, earlier, intent.started_us, now_s):
            return _repeat(tx, intent, policy, payer, earlier, now_s)
        if earlier.is_unresolved(now_s):
            detail = f"payment {earlier.payment_id} expired a moment ago; its outcome is not certain yet"
            return Deny(Reason.INTENT_UNRESOLVED, detail)
    decision = choose(intent, policy, payer=payer.address, standing=record)
    return decision if isinstance(decision, Deny) else Purchase(decision, payer)


def _repeat(
    tx: Transaction, intent: Intent, policy: Policy, payer: Payer, earlier: Payment, now_s: int
) -> Recorded | Deny:
    """The same authorization again: deterministic signing gives the same bytes, so it cannot cost twice."""
    if payments.cools_down(tx.db, earlier, now_s):
        return Deny(Reason.COOL_DOWN, f"payment {earlier.payment_id} was refused by the server a moment ago")
    offer = same_terms(
        intent,
        policy,
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
    digest = eip3009.digest(earlier.authorization, offer.asset)
    return Recorded(earlier.payment_id, offer, earlier.authorization, digest, payer, repeat=True)


def _state_of(tx: Transaction, payment: Payment) -> str:
    after = payments.by_id(tx.db, payment.payment_id)
    return payment.state if after is None else after.state
