"""The projection: what the entries add up to. One rule for each type of entry, written once.

`fold` runs when an entry is appended, in the same transaction, and again when the ledger is verified.
It knows the types of entries and the few members it adds up; it knows nothing of policy. Days, amounts
and times were decided by whoever wrote the entry.

A rule looks at everything it needs before it changes anything: an entry that is refused changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, NoReturn, Protocol

from ledger import canonical, states
from ledger.entry import Entry
from ledger.errors import EntryRefused
from ledger.states import Event, Standing, State

SIGNED: Final = "x402.payment.signed"

_HEX_128_BITS: Final = re.compile(r"[0-9a-f]{32}")
_HEX_256_BITS: Final = re.compile(r"[0-9a-f]{64}")
_AMOUNT: Final = re.compile(r"0|[1-9][0-9]{0,77}")  # 2^256 - 1 has 78 digits
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_AUTHORIZATION: Final = frozenset({"from", "to", "value", "validAfter", "validBefore", "nonce"})
"""Parameters of EIP-3009 `transferWithAuthorization`, without the signature, which no entry may hold."""

PATTERNS: Final = {
    "payment_id": _HEX_128_BITS,
    "intent_key": _HEX_256_BITS,
    "amount": _AMOUNT,
    "day": _DAY,
}
_TEXTS: Final = ("domain", "caller", "wallet", "network", "asset")
_NATURALS: Final = ("usd_micros", "signed_at", "valid_before")
"""Members of a signed payment, by what they must be."""

_CANONICAL_AUTHORIZATION: Final = (
    "{" + ",".join(f'"{name}":"%({name})s"' for name in sorted(_AUTHORIZATION)) + "}"
)

_FACT: Final = frozenset({"kind", "key", "value"})
"""Members of a fact: small state of keyd's that an entry changes."""


OUTCOMES: Final = {
    f"x402.payment.{event}": event for event in (Event.SETTLED, Event.REFUSED, Event.UNKNOWN, Event.RELEASED)
}
_ENDED: Final = {State.SETTLED: "was proven to be settled", State.RELEASED: "is released already"}


class Payment(NamedTuple):
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
    elif entry.type in OUTCOMES:
        _outcome(entry, tables)
    for kind, key, value in facts:
        tables.put_fact(kind, key, value, entry.seq)


def _signed(entry: Entry, tables: Tables) -> None:
    payment = _payment(entry)
    if tables.payment(payment.payment_id) is not None:
        _refuse(entry, f"payment {payment.payment_id} is in the ledger already")
    tables.put_payment(payment)
    tables.add_spend(payment.day, payment.domain, payment.caller, usd_micros=payment.usd_micros, calls=1)
    tables.see_day(payment.day)


def _outcome(entry: Entry, tables: Tables) -> None:
    """What became of a payment (`ledger.states`): its new state, and the budget if that changes sides."""
    payment = _known_payment(entry, tables)
    event, delivered = event_of(entry), payment.delivered or says_delivered(entry)
    before: Standing = (payment.state, payment.proven)
    after = states.TRANSITIONS[before][event]
    if after is None:  # a second release, for example, would give the same money back twice
        _refuse(entry, f"payment {payment.payment_id} {_ENDED[payment.state]}")
    state, proven = after
    tables.put_payment(payment._replace(state=state, proven=proven, delivered=delivered, last_seq=entry.seq))
    if change := states.counts(after) - states.counts(before):
        usd_micros = change * payment.usd_micros
        tables.add_spend(payment.day, payment.domain, payment.caller, usd_micros=usd_micros, calls=0)


def event_of(entry: Entry) -> Event:
    event, proven = OUTCOMES[entry.type], _proven(entry)
    if event is Event.RELEASED and not proven:
        _refuse(entry, "a release needs a proof")
    return Event.CONFIRMED if event is Event.SETTLED and proven else event


def _payment(entry: Entry) -> Payment:
    data = entry.data
    for name, pattern in PATTERNS.items():
        _matching(entry, name, pattern)
    for name in _TEXTS:
        _text(entry, name)
    for name in _NATURALS:
        _natural(entry, name)
    return Payment(
        payment_id=data["payment_id"],
        intent_key=data["intent_key"],
        state=State.SIGNED,
        delivered=False,
        proven=False,
        domain=data["domain"],
        caller=data["caller"],
        wallet=data["wallet"],
        network=data["network"],
        asset=data["asset"],
        amount=data["amount"],
        usd_micros=data["usd_micros"],
        authorization=_authorization(entry),
        signed_at=data["signed_at"],
        valid_before=data["valid_before"],
        day=data["day"],
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
    if type(value) is not str:
        _refuse(entry, f"{name} is not a string")
    return value


def _matching(entry: Entry, name: str, pattern: re.Pattern[str]) -> str:
    value = entry.data.get(name)
    if type(value) is not str:
        _refuse(entry, f"{name} is not a string")
    if pattern.fullmatch(value) is None:
        _refuse(entry, f"{name} does not match {pattern.pattern}")
    return value


def _natural(entry: Entry, name: str) -> int:
    """A negative amount would make room in the budget."""
    value = entry.data.get(name)
    if type(value) is not int or value < 0:  # a bool is no number
        _refuse(entry, f"{name} is not an integer of at least 0")
    return value


def says_delivered(entry: Entry) -> bool:
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
    facts = entry.data.get("facts")
    if facts is None and "facts" not in entry.data:
        return []
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
    try:
        letters = "".join(value.values())
    except TypeError:
        _refuse(entry, "a member of authorization is not a string")
    # Always so in what keyd writes: nothing to escape, and a third of the time.
    if letters.isascii() and letters.isalnum():
        return _CANONICAL_AUTHORIZATION % value
    return canonical.encode(value).decode()


def _refuse(entry: Entry, why: str) -> NoReturn:
    raise EntryRefused(f"{entry.type}: {why}")
