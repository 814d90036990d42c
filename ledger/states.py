"""The life of a payment as a table: every state, every event, and what comes of it. Pure.

    signed ─┬─ refused ─┐                       budget is reserved in the entry that makes it signed,
            ├─ unknown ─┼─ released             before the signature exists; only `released` gives it back
            ├─ settled ─┘
            └─ confirmed

Sellers and egress claim (settled, refused, unknown); only the chain proves (confirmed, released). A claim moves
what was claimed before and never what was proven; a proof moves everything but a confirmation.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """What is known of a payment, as `payments.state` has it. Confirmed is `settled` with `proven` set."""

    SIGNED = "signed"
    SETTLED = "settled"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    RELEASED = "released"


class Event(StrEnum):
    """An entry about a payment, by what it rests on."""

    SETTLED = "settled"
    """A seller's SettlementResponse agreed with what was signed."""
    REFUSED = "refused"
    """The server answered 4xx to the payment."""
    UNKNOWN = "unknown"
    """No answer, an error, or an answer that proves nothing."""
    CONFIRMED = "confirmed"
    """The chain: the authorization was used."""
    RELEASED = "released"
    """The chain: the authorization was not used and cannot be any more."""


type Standing = tuple[State, bool]
"""(state, proven)"""

SIGNED: Final[Standing] = (State.SIGNED, False)
SETTLED: Final[Standing] = (State.SETTLED, False)
REFUSED: Final[Standing] = (State.REFUSED, False)
UNKNOWN: Final[Standing] = (State.UNKNOWN, False)
CONFIRMED: Final[Standing] = (State.SETTLED, True)
RELEASED: Final[Standing] = (State.RELEASED, True)

# fmt: off
TRANSITIONS: Final[Mapping[Standing, Mapping[Event, Standing | None]]] = {
    SIGNED:    {Event.SETTLED: SETTLED, Event.REFUSED: REFUSED, Event.UNKNOWN: UNKNOWN,
                Event.CONFIRMED: CONFIRMED, Event.RELEASED: RELEASED},
    REFUSED:   {Event.SETTLED: SETTLED, Event.REFUSED: REFUSED, Event.UNKNOWN: UNKNOWN,
                Event.CONFIRMED: CONFIRMED, Event.RELEASED: RELEASED},
    UNKNOWN:   {Event.SETTLED: SETTLED, Event.REFUSED: REFUSED, Event.UNKNOWN: UNKNOWN,
                Event.CONFIRMED: CONFIRMED, Event.RELEASED: RELEASED},
    SETTLED:   {Event.SETTLED: SETTLED, Event.REFUSED: SETTLED, Event.UNKNOWN: SETTLED,
                Event.CONFIRMED: CONFIRMED, Event.RELEASED: RELEASED},
    CONFIRMED: {Event.SETTLED: CONFIRMED, Event.REFUSED: CONFIRMED, Event.UNKNOWN: CONFIRMED,
                Event.CONFIRMED: CONFIRMED, Event.RELEASED: None},
    RELEASED:  {Event.SETTLED: RELEASED, Event.REFUSED: RELEASED, Event.UNKNOWN: RELEASED,
                Event.CONFIRMED: CONFIRMED, Event.RELEASED: None},
}
# fmt: on
"""What an event makes of a payment. None: the entry cannot be true and is not written. From RELEASED to CONFIRMED
the money counts as spent again: the proof of the release was false."""


def counts(standing: Standing) -> bool:
    """Whether the payment's money counts against the budget of its day."""
    return standing != RELEASED
