"""What an answer to a paid request proves. Pure: facts from egress in, a state in words out.

Nothing here frees budget: a signature that left can be settled until `validBefore`, whatever the server said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from keyd import api
from keyd.core.assets import V1_NETWORKS

State = Literal["settled", "refused", "unknown"]

BLAMELESS: Final = ("not_sent", "hung_up")
"""Failures that are not the server's. Otherwise any program could have a host quarantined for all others."""
_TRANSACTION: Final = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
_CLIP: Final = 200


@dataclass(frozen=True, slots=True)
class Signed:
    """What was signed, to hold a settlement response against."""

    payer: str
    network: str
    amount: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """`delivered` completes the intent: the application has its answer, the next request is a new purchase."""

    state: State
    delivered: bool
    transaction: str | None
    notes: tuple[str, ...]
    """What contradicts what was signed, and reasons the server gave; escaped and clipped."""
    host_blameless: bool
    """The payment never left egress, or the application did not wait for what it bought: this says nothing about the host."""


def weigh(signed: Signed, report: api.OutcomeReport) -> Evidence:
    """Names the state of a payment from what egress saw (x402 specification, SettlementResponse)."""
    status = report.http_status
    delivered = status is not None and 200 <= status < 400
    notes = [] if report.failure is None else [no_answer(report.failure)]
    if report.settlement is not None:
        contradictions = _contradictions(signed, report.settlement)
        if not contradictions:
            transaction = report.settlement["transaction"].lower()
            return Evidence("settled", delivered, transaction, tuple(notes), host_blameless=False)
        notes += contradictions
    refused = status is not None and 400 <= status < 500
    state: State = "refused" if refused else "unknown"
    return Evidence(state, delivered, None, tuple(notes), host_blameless=report.failure in BLAMELESS)


def no_answer(failure: str) -> str:
    """The note that an outcome gets for it."""
    return f"no answer: {failure}"


def used_before(found: Evidence, other: str) -> Evidence:
    """What is left of a receipt whose transaction settled payment `other` already, as it or somebody else claimed.

    One transfer pays once. A facilitator that settles several payments in one transaction has the chain for a witness.
    """
    note = f"transaction {found.transaction} was the receipt of payment {other} already"
    return replace(found, state="unknown", transaction=None, notes=(*found.notes, note))


RELEASE_MARGIN_S: Final = 120
"""A block must be this much older than `validBefore` was due: one whose timestamp lags must not free money."""


def prove(
    valid_before: int, found: api.ChainEvidence, *, now_s: int, enough_sources: bool
) -> Literal["settled", "released"] | None:
    """What the chain's word proves: settled if the authorization was used; released if it can never be.

    Never used and still valid proves nothing (EIP-3009: `validBefore` is compared with the block's timestamp).
    That it was used costs nobody anything if it is a lie; that it was not frees money, so it takes enough witnesses.
    """
    if found.used:
        return "settled"
    dead_at = valid_before + RELEASE_MARGIN_S
    dead = found.block_timestamp > dead_at and now_s > dead_at
    return "released" if dead and enough_sources else None


def _contradictions(signed: Signed, settlement: Mapping[str, Any]) -> list[str]:
    """Why this response does not prove that exactly our payment was settled; empty if it does."""
    found = []
    if settlement.get("success") is not True:
        reason = settlement.get("errorReason")
        found.append("the server says it was not settled" + ("" if reason is None else f": {_quote(reason)}"))
    transaction = settlement.get("transaction")
    if not isinstance(transaction, str) or _TRANSACTION.fullmatch(transaction) is None:
        found.append(f"transaction {_quote(transaction)} is not a transaction hash")
    network = settlement.get("network")
    if not isinstance(network, str) or V1_NETWORKS.get(network, network) != signed.network:
        found.append(f"network {_quote(network)} is not {signed.network}")
    payer = settlement.get("payer")
    if payer is not None and str(payer).lower() != signed.payer.lower():
        found.append(f"payer {_quote(payer)} is not our wallet")
    amount = settlement.get("amount")
    if amount not in (None, "") and str(amount) != str(signed.amount):
        found.append(f"amount {_quote(amount)} is not {signed.amount}")
    return found


def _quote(value: object) -> str:
    return ascii(str(value)[:_CLIP])
