"""The table of a payment's life."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.states import CONFIRMED, RELEASED, SIGNED, TRANSITIONS, Event, Standing, counts

CLAIMS = (Event.SETTLED, Event.REFUSED, Event.UNKNOWN)


def test_every_event_has_a_meaning_in_every_state() -> None:
    assert all(row.keys() == set(Event) for row in TRANSITIONS.values())
    assert {after for row in TRANSITIONS.values() for after in row.values() if after} <= TRANSITIONS.keys()


@pytest.mark.parametrize("event", CLAIMS)
def test_no_claim_moves_what_was_proven_or_gives_money_back(event: Event) -> None:
    for before, row in TRANSITIONS.items():
        after = row[event]
        assert after is not None
        assert counts(after) == counts(before)
        assert not before[1] or after == before


@given(st.lists(st.sampled_from(Event), max_size=12))
def test_money_comes_back_at_most_once_and_never_after_a_confirmation(events: list[Event]) -> None:
    standing: Standing = SIGNED
    confirmed = False
    for event in events:
        after = TRANSITIONS[standing][event]
        if after is None:
            continue
        assert not (confirmed and after == RELEASED)
        confirmed |= after == CONFIRMED
        standing = after
    assert counts(standing) or not confirmed
