"""The projection: what the entries add up to. One rule for each type of entry, written once.

`fold` runs when an entry is appended, in the same transaction, and again when the ledger is verified.
It knows the types of entries and the few members it adds up; it knows nothing of policy. Days, amounts
and times were decided by whoever wrote the entry.

A rule looks at everything it needs before it changes anything: an entry that is refused changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, NoReturn, Protocol

from ledger import canonical
from ledger.entry import Entry
from ledger.errors import EntryRefused

SIGNED: Final = "x402.payment.signed"
RELEASED: Final = "x402.payment.released"

_HEX_128_BITS: Final = re.compile(r"[0-9a-f]{32}")
_HEX_256_BITS: Final = re.compile(r"[0-9a-f]{64}")
_AMOUNT: Final = re.compile(r"0|[1-9][0-9]{0,77}")  # 2^256 - 1 has 78 digits
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_AUTHORIZATION: Final = frozenset({"from", "to", "value", "validAfter", "validBefore", "nonce"})
"""Parameters of EIP-3009 `transferWithAuthorization`, without the signature, which no entry may hold."""

_FACT: Final = frozenset({"kind", "key", "value"})
"""Members of a fact: small state of keyd's that an entry changes."""


class State(StrEnum):
    """What is known of a payment. A payment starts as signed."""

    SIGNED = "signed"
    SETTLED = "settled"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    RELEASED = "released"

    @property
    def final(self) -> bool:
        """Nothing a seller says changes these; proof from the chain does."""
        return self in (State.SETTLED, State.RELEASED)


OUTCOMES: Final = {f"x402.payment.{state}": state for state in (State.SETTLED, State.REFUSED, State.UNKNOWN)}


@dataclass(frozen=True, slots=True)
class Payment:
    """A row of `payments`: one signed authorization and what became of it."""

    payment_id: str
    intent_key: str
    state: State
    delivered: bool
    """The seller delivered an answer (sticky), whatever became of the money."""
    proven: bool
    """The state rests on proof from the chain, not on anybody's word."""
    domain: str
    caller: str
    wallet: str
    network: str
    asset: str
    """Address of the token's contract."""
    amount: str
    """Atomic units, decimal."""
    usd_micros: int
    """Micro-USD (10^-6 USD) counted against the budget."""
    authorization: str
    """The EIP-3009 parameters as canonical JSON; there is no signature in it."""
    signed_at: int
    """Unix time in seconds."""
    valid_before: int
    """Unix time in seconds from which the authorization is void."""
    day: str
    """UTC day whose budget it counts against, YYYY-MM-DD."""
    signed_seq: int
    last_seq: int
    """The newest entry about this payment."""


class Tables(Protocol):
    """Where the projection is kept."""

    def payment(self, payment_id: str) -> Payment | None: ...

    def put_payment(self, payment: Payment) -> None:
        """Insert, or replace the payment with the same id; entry `last_seq` becomes part of its story."""

    def add_spend(self, day: str, domain: str, caller: str, *, usd_micros: int, calls: int) -> None:
        """Add to the sums of this day, for the domain and caller and in total."""

    def put_fact(self, kind: str, key: str, value: str | None, seq: int) -> None:
        """The fact (kind, key) becomes `value`, canonical JSON, said by entry `seq`; None removes it."""

    def see_day(self, day: str) -> None:
        """`latest_day` becomes `day`, unless it is later already: a clock set back un-spends nothing."""


def fold(entry: Entry, tables: Tables) -> None:
    """Add `entry` to `tables`. Raises EntryRefused, with `tables` unchanged, if it cannot be true."""
    facts = _facts(entry)
    if entry.type == SIGNED:
        _signed(entry, tables)
    elif entry.type == RELEASED:
        _released(entry, tables)
    elif entry.type in OUTCOMES:
        _outcome(entry, OUTCOMES[entry.type], tables)
    for kind, key, value in facts:
        tables.put_fact(kind, key, value, entry.seq)


def _signed(entry: Entry, tables: Tables) -> None:
    payment = _payment(entry)
    if tables.payment(payment.payment_id) is not None:
        _refuse(entry, f"payment {payment.payment_id} is in the ledger already")
    tables.put_payment(payment)
    tables.add_spend(payment.day, payment.domain, payment.caller, usd_micros=payment.usd_micros, calls=1)
    tables.see_day(payment.day)


def _outcome(entry: Entry, state: State, tables: Tables) -> None:
    """What somebody says became of a payment; proof from the chain outweighs it, before and after."""
    payment = _known_payment(entry, tables)
    proven = state is State.SETTLED and _proven(entry)
    tables.put_payment(
        replace(
            payment,
            state=state if proven or not payment.state.final else payment.state,
            delivered=payment.delivered or _delivered(entry),
            proven=payment.proven or proven,
            last_seq=entry.seq,
        )
    )
    if proven and payment.state is State.RELEASED:
        # The proof of the release was false: without this the budget would have the money twice.
        tables.add_spend(payment.day, payment.domain, payment.caller, usd_micros=payment.usd_micros, calls=0)


def _released(entry: Entry, tables: Tables) -> None:
    payment = _known_payment(entry, tables)
    if payment.state is State.RELEASED:  # a second release would give the same money back twice
        _refuse(entry, f"payment {payment.payment_id} is released already")
    if payment.state is State.SETTLED and payment.proven:
        _refuse(entry, f"payment {payment.payment_id} was proven to be settled")
    if not _proven(entry):
        _refuse(entry, "a release needs a proof")
    tables.put_payment(replace(payment, state=State.RELEASED, proven=True, last_seq=entry.seq))
    tables.add_spend(payment.day, payment.domain, payment.caller, usd_micros=-payment.usd_micros, calls=0)


def _payment(entry: Entry) -> Payment:
    return Payment(
        payment_id=_matching(entry, "payment_id", _HEX_128_BITS),
        intent_key=_matching(entry, "intent_key", _HEX_256_BITS),
        state=State.SIGNED,
        delivered=False,
        proven=False,
        domain=_text(entry, "domain"),
        caller=_text(entry, "caller"),
        wallet=_text(entry, "wallet"),
        network=_text(entry, "network"),
        asset=_text(entry, "asset"),
        amount=_matching(entry, "amount", _AMOUNT),
        usd_micros=_natural(entry, "usd_micros"),
        authorization=_authorization(entry),
        signed_at=_natural(entry, "signed_at"),
        valid_before=_natural(entry, "valid_before"),
        day=_matching(entry, "day", _DAY),
        signed_seq=entry.seq,
        last_seq=entry.seq,
    )


def _known_payment(entry: Entry, tables: Tables) -> Payment:
    payment_id = _matching(entry, "payment_id", _HEX_128_BITS)
    payment = tables.payment(payment_id)
    if payment is None:
        _refuse(entry, f"there is no payment {payment_id}")
    return payment


def _text(entry: Entry, name: str) -> str:
    value = entry.data.get(name)
    if not isinstance(value, str):
        _refuse(entry, f"{name} is not a string")
    return value


def _matching(entry: Entry, name: str, pattern: re.Pattern[str]) -> str:
    value = _text(entry, name)
    if not pattern.fullmatch(value):
        _refuse(entry, f"{name} does not match {pattern.pattern}")
    return value


def _natural(entry: Entry, name: str) -> int:
    """A negative amount would make room in the budget."""
    value = entry.data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        _refuse(entry, f"{name} is not an integer of at least 0")
    return value


def _delivered(entry: Entry) -> bool:
    value = entry.data.get("delivered", False)
    if not isinstance(value, bool):
        _refuse(entry, "delivered is neither true nor false")
    return value


def _proven(entry: Entry) -> bool:
    value = entry.data.get("proof")
    if value is not None and not isinstance(value, dict):
        _refuse(entry, "proof is not an object")
    return value is not None


def _facts(entry: Entry) -> list[tuple[str, str, str | None]]:
    """(kind, key, value) of each fact that the entry carries; a value of None removes it."""
    facts = entry.data.get("facts", [])
    if not isinstance(facts, list):
        _refuse(entry, "facts is not a list")
    return [_fact(entry, fact) for fact in facts]


def _fact(entry: Entry, fact: object) -> tuple[str, str, str | None]:
    if not isinstance(fact, dict) or fact.keys() != _FACT:
        _refuse(entry, f"a fact needs exactly {', '.join(sorted(_FACT))}")
    kind, key, value = fact["kind"], fact["key"], fact["value"]
    if not isinstance(kind, str) or not isinstance(key, str):
        _refuse(entry, "kind and key of a fact are strings")
    return kind, key, None if value is None else canonical.encode(value).decode()


def _authorization(entry: Entry) -> str:
    value: Mapping[str, Any] | None = entry.data.get("authorization")
    if not isinstance(value, dict) or value.keys() != _AUTHORIZATION:
        _refuse(entry, f"authorization needs exactly {', '.join(sorted(_AUTHORIZATION))}")
    if not all(isinstance(member, str) for member in value.values()):
        _refuse(entry, "a member of authorization is not a string")
    return canonical.encode(value).decode()


def _refuse(entry: Entry, why: str) -> NoReturn:
    raise EntryRefused(f"{entry.type}: {why}")
