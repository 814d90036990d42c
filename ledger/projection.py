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


class State(StrEnum):
    """What is known of a payment. A payment starts as signed."""

    SIGNED = "signed"
    SETTLED = "settled"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    RELEASED = "released"

    @property
    def final(self) -> bool:
        """Settled money does not come back, and released money is not spent again."""
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
        """Insert, or replace the payment with the same id."""

    def add_spend(self, day: str, domain: str, caller: str, *, usd_micros: int, calls: int) -> None:
        """Add to the sums of this day, for the domain and caller and in total."""

    def see_day(self, day: str) -> None:
        """`latest_day` becomes `day`, unless it is later already: a clock set back un-spends nothing."""


def fold(entry: Entry, tables: Tables) -> None:
    """Add `entry` to `tables`. Raises EntryRefused, with `tables` unchanged, if it cannot be true."""
    if entry.type == SIGNED:
        _signed(entry, tables)
    elif entry.type == RELEASED:
        _released(entry, tables)
    elif entry.type in OUTCOMES:
        _outcome(entry, OUTCOMES[entry.type], tables)


def _signed(entry: Entry, tables: Tables) -> None:
    payment = _payment(entry)
    if tables.payment(payment.payment_id) is not None:
        _refuse(entry, f"payment {payment.payment_id} is in the ledger already")
    tables.put_payment(payment)
    tables.add_spend(payment.day, payment.domain, payment.caller, usd_micros=payment.usd_micros, calls=1)
    tables.see_day(payment.day)


def _outcome(entry: Entry, state: State, tables: Tables) -> None:
    payment = _known_payment(entry, tables)
    tables.put_payment(
        replace(
            payment,
            state=payment.state if payment.state.final else state,
            delivered=payment.delivered or _delivered(entry),
            last_seq=entry.seq,
        )
    )


def _released(entry: Entry, tables: Tables) -> None:
    payment = _known_payment(entry, tables)
    if payment.state.final:  # a second release would give the same money back twice
        _refuse(entry, f"payment {payment.payment_id} is {payment.state} and cannot be released")
    tables.put_payment(replace(payment, state=State.RELEASED, last_seq=entry.seq))
    tables.add_spend(payment.day, payment.domain, payment.caller, usd_micros=-payment.usd_micros, calls=0)


def _payment(entry: Entry) -> Payment:
    return Payment(
        payment_id=_matching(entry, "payment_id", _HEX_128_BITS),
        intent_key=_matching(entry, "intent_key", _HEX_256_BITS),
        state=State.SIGNED,
        delivered=False,
        domain=_text(entry, "domain"),
        caller=_text(entry, "caller"),
        wallet=_text(entry, "wallet"),
        network=_text(entry, "network"),
        asset=_text(entry, "asset"),
        amount=_matching(entry, "amount", _AMOUNT),
        usd_micros=_natural(entry, "usd_micros"),
        authorization=_authorization(entry),
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


def _authorization(entry: Entry) -> str:
    value: Mapping[str, Any] | None = entry.data.get("authorization")
    if not isinstance(value, dict) or value.keys() != _AUTHORIZATION:
        _refuse(entry, f"authorization needs exactly {', '.join(sorted(_AUTHORIZATION))}")
    if not all(isinstance(member, str) for member in value.values()):
        _refuse(entry, "a member of authorization is not a string")
    return canonical.encode(value).decode()


def _refuse(entry: Entry, why: str) -> NoReturn:
    raise EntryRefused(f"{entry.type}: {why}")
