"""What the ledger keeps of a payment's life: the data of each entry, and the facts that it changes.

Signatures and payment headers are bearer instruments and never in here; the EIP-712 digest is.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from keyd import api
from keyd.core import attestations
from keyd.core.attestations import Paid
from keyd.core.eip3009 import Authorization
from keyd.core.evidence import Evidence
from keyd.core.intent import Intent
from keyd.core.offers import Offer
from keyd.core.policy import Allow, Deny, Standing
from keyd.peer import Peer
from keyd.reasons import Reason
from keyd.record import facts, proposals, sessions
from keyd.record.facts import Kind
from keyd.record.payments import Payment
from ledger import states
from ledger.entry import Entry
from ledger.states import Event, State
from ledger.transaction import Transaction

type Data = dict[str, Any]

_BUDGETS: Final = frozenset(
    {
        Reason.BUDGET_DAILY,
        Reason.BUDGET_DOMAIN,
        Reason.BUDGET_CALLER,
        Reason.BUDGET_CALLER_DOMAIN,
        Reason.BUDGET_SESSION,
    }
)


_BEFORE_OFFERS: Final = frozenset(
    {
        Reason.CALLER_UNKNOWN,
        Reason.CALLER_NOT_ALLOWED,
        Reason.SESSION_INVALID,
        Reason.SESSION_REQUIRED,
        Reason.X402_DISABLED,
        Reason.FROZEN,
        Reason.DOMAIN_DENIED,
        Reason.DOMAIN_NOT_ALLOWED,
        Reason.HOST_QUARANTINED,
    }
)
"""Refusals for which no offer was looked at."""
FEW_OFFERS: Final = 4
"""Offers recorded of such a refusal: enough to ask later what another policy would have done, and not much room for
the words of a host that nobody allowed."""


def attempt(intent: Intent, *, repeat_of: str | None = None, suppressed: int = 0) -> Data:
    """`x402.payment.attempt`: what was asked for, enough to judge it again under another policy.

    `suppressed` repeats of this caller came before and have no entry of their own.
    """
    return intent.record() | {"repeat_of": repeat_of} | _suppressed(suppressed)


def signed(
    payment_id: str,
    intent: Intent,
    asked: Entry,
    wallet: str,
    offer: Offer,
    authorization: Authorization,
    digest: bytes,
    now_s: int,
    day: str,
) -> Data:
    """`x402.payment.signed`: written before the signature is made."""
    return {
        "amount": str(offer.amount),
        "asset": offer.asset.address,
        "asset_decimals": offer.asset.decimals,
        "asset_symbol": offer.asset.symbol,
        "attempt": asked.seq,
        "authorization": authorization.as_json(),
        "caller": intent.caller,
        "day": day,
        "digest": digest.hex(),
        "domain": intent.domain,
        "intent_key": intent.intent_key,
        "network": offer.asset.network,
        "payment_id": payment_id,
        "signed_at": now_s,
        "usd_micros": offer.usd_micros,
        "valid_before": authorization.valid_before,
        "wallet": wallet,
    } | ({"prepaid": True} if intent.prepaid else {})


def signed_offer(intent: Intent, offer: Offer, payer: str, now_s: int) -> Data:
    """What the seller signed about the offer that is paid, if it did."""
    paid = Paid(
        origin=str(intent.origin),
        network=offer.asset.network,
        asset=offer.asset.address,
        pay_to=offer.pay_to,
        amount=offer.amount,
        payer=payer,
    )
    found = attestations.offer_evidence(intent.signed_offers, paid, now_s)
    return {} if found is None else {"signed_offer": found}


def signed_receipt(payment: Payment, report: api.OutcomeReport, found: Evidence, now_s: int) -> Data:
    """What the seller signed about the payment that it took, if it did."""
    paid = Paid(
        origin=payment.domain if "://" in payment.domain else f"https://{payment.domain}",
        network=payment.network,
        asset=payment.asset,
        pay_to=payment.authorization.to,
        amount=payment.amount,
        payer=payment.authorization.from_,
    )
    receipt = attestations.receipt_evidence(report.settlement, paid, found.transaction, now_s)
    return {} if receipt is None else {"receipt": receipt}


def signed_facts(payment_id: str, intent: Intent, decision: Allow, standing: Standing) -> Data:
    """Pins what is paid for the first time, or what a person approved; an approval is used up. In a session, the
    payment becomes one of its own."""
    offer, changes = decision.offer, []
    if standing.pin is None or decision.approval is not None:
        pin = {"asset": offer.asset.address, "network": offer.asset.network, "pay_to": offer.pay_to}
        changes.append(facts.put(Kind.PIN, intent.domain, pin))
    if intent.path and (standing.pinned_price is None or decision.approval is not None):
        key = facts.price_key(intent.domain, intent.method, intent.path)
        changes.append(facts.put(Kind.PRICE, key, offer.usd_micros))
    if decision.approval is not None:
        changes.append(facts.put(Kind.APPROVAL, decision.approval, None))
    data: Data = {}
    if (session := standing.session) is not None:
        changes.append(sessions.payment_fact(session, payment_id))
        data["session"] = {"id": session.id, "label": session.label}
    return data | {"facts": changes} if changes else data


def refusal(tx: Transaction, peer: Peer, intent: Intent, denial: Deny, suppressed: int) -> Deny:
    """`x402.payment.attempt` and `.rejected`, with the question to a person if the payment is held.

    `suppressed` refusals of this caller came before and have no entry of their own.
    """
    question = attempt(intent)
    if denial.reason in _BEFORE_OFFERS:
        question["offers"] = question["offers"][:FEW_OFFERS]
    asked = tx.append("x402.payment.attempt", str(peer), question)
    data = {
        "attempt": asked.seq,
        "caller": intent.caller,
        "code": denial.reason.value,
        "detail": denial.detail,
        "domain": intent.domain,
    } | _suppressed(suppressed)
    if denial.reason in _BUDGETS:
        tx.append("x402.budget.exceeded", str(peer), data)
    if denial.ask is not None:
        key, changes = proposals.held_payment(tx.db, intent, denial, denial.ask, tx.now // 1_000_000)
        if key is not None:
            data |= {"approval": key} | ({"facts": changes} if changes else {})
            denial = Deny(denial.reason, f"{denial.detail} (approval id {key})")
    tx.append("x402.payment.rejected", str(peer), data)
    return denial


def says_nothing_new(payment: Payment, found: Evidence) -> bool:
    """Whether an outcome leaves the payment as it is."""
    before = (State(payment.state), payment.proven)
    after = states.TRANSITIONS[before][Event(found.state)]
    return after == before and (payment.delivered or not found.delivered)


def outcome(payment: Payment, report: api.OutcomeReport, found: Evidence, suppressed: int = 0) -> Data:
    """`x402.payment.settled|refused|unknown` on egress's report.

    `suppressed` outcomes for this caller said nothing new and have no entry of their own.
    """
    data: Data = {
        "delivered": found.delivered,
        "http_status": report.http_status,
        "notes": list(found.notes),
        "payment_id": payment.payment_id,
        "transaction": found.transaction,
    } | ({} if report.answered_at is None else {"answered_at": report.answered_at})
    return data | _suppressed(suppressed)


def _suppressed(count: int) -> Data:
    return {"suppressed": count} if count else {}


def claimed(db: sqlite3.Connection, payment: Payment, transaction: str) -> str | None:
    """The other payment whose receipt `transaction` was; None if there is none."""
    other: str | None = facts.get(db, Kind.RECEIPT, facts.receipt_key(payment.network, transaction))
    return None if other == payment.payment_id else other


def _receipt(payment: Payment, transaction: str | None) -> list[facts.Fact]:
    if transaction is None:
        return []
    return [facts.put(Kind.RECEIPT, facts.receipt_key(payment.network, transaction), payment.payment_id)]


def proven(db: sqlite3.Connection, payment: Payment, found: api.ChainEvidence, state: str) -> Data:
    """`x402.payment.settled|released` on proof from the chain."""
    data: Data = {
        "facts": _receipt(payment, found.transaction),
        "payment_id": payment.payment_id,
        "proof": found.model_dump(mode="json", exclude={"payment_id", "transaction"}),
        "transaction": found.transaction,
    }
    if state == "settled" and payment.delivered and facts.get(db, Kind.TROUBLE, payment.domain) is not None:
        data["facts"].append(facts.put(Kind.TROUBLE, payment.domain, None))
    return data


def outcome_facts(db: sqlite3.Connection, payment: Payment, found: Evidence) -> Data:
    """What an outcome says about its receipt and about the host, beside the payment."""
    changes = _receipt(payment, found.transaction)
    if payment.state == "signed":  # its first outcome; later ones say nothing new about the host
        changes += _trouble_facts(db, payment.domain, found)
    paid = found.delivered or found.state == "settled"
    if paid and facts.get(db, Kind.CUSTOMER, payment.domain) != payment.wallet:
        changes.append(facts.put(Kind.CUSTOMER, payment.domain, payment.wallet))
    return {"facts": changes} if changes else {}


def _trouble_facts(db: sqlite3.Connection, domain: str, found: Evidence) -> list[facts.Fact]:
    """Counts payments in a row that were not delivered or not proven; one good one ends the row. What was no
    fault of the host says nothing about it."""
    if found.host_blameless:
        return []
    before = facts.get(db, Kind.TROUBLE, domain)
    if not (found.delivered and found.state == "settled"):
        return [facts.put(Kind.TROUBLE, domain, (before or 0) + 1)]
    return [] if before is None else [facts.put(Kind.TROUBLE, domain, None)]
