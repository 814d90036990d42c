"""The projection says what the entries say, by property and against a second implementation, in dictionaries."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ledger import Entry, EntryRefused, Ledger, Transaction
from ledger.projection import Payment, fold
from ledger.verify import verify
from tests.ledger.test_projection import CALLERS, DAYS, DOMAINS, PROOF, SIGNED, WAIT_S, fact, sql_rows


class DictTables:
    """The projection in dictionaries: the oracle that the SQL is compared with."""

    def __init__(self) -> None:
        self.payments: dict[str, Payment] = {}
        self.spend: dict[tuple[str, ...], list[int]] = {}
        self.total: dict[tuple[str, ...], list[int]] = {}
        self.stories: set[tuple[str, int]] = set()
        self.facts: dict[tuple[str, str], tuple[str, int]] = {}
        self.latest_day: str | None = None

    def payment(self, payment_id: str) -> Payment | None:
        return self.payments.get(payment_id)

    def put_payment(self, payment: Payment) -> None:
        self.payments[payment.payment_id] = payment
        self.stories.add((payment.payment_id, payment.last_seq))

    def put_fact(self, kind: str, key: str, value: str | None, seq: int) -> None:
        if value is None:
            self.facts.pop((kind, key), None)
        else:
            self.facts[kind, key] = (value, seq)

    def add_spend(self, day: str, domain: str, caller: str, *, usd_micros: int, calls: int) -> None:
        for sums, key in ((self.spend, (day, domain, caller)), (self.total, (day,))):
            row = sums.setdefault(key, [0, 0])
            row[0] += usd_micros
            row[1] += calls

    def see_day(self, day: str) -> None:
        self.latest_day = max(day, self.latest_day or day)

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        return {
            "payments": sorted(map(tuple, self.payments.values())),
            "spend": sorted((*key, *sums) for key, sums in self.spend.items()),
            "spend_total": sorted((*key, *sums) for key, sums in self.total.items()),
            "payment_entries": sorted(self.stories),
            "facts": sorted((*key, *fact) for key, fact in self.facts.items()),
            "meta": [(self.latest_day,)],
        }


_NUMBERS = st.integers(1, 6)
_FACTS = st.lists(st.builds(fact, st.sampled_from("abc"), st.none() | st.integers(0, 5)), max_size=3)
_EVENTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("signed"),
            _NUMBERS,
            st.fixed_dictionaries(
                {
                    "usd_micros": st.integers(0, 10**12),
                    "day": st.sampled_from(DAYS),
                    "domain": st.sampled_from(DOMAINS),
                    "caller": st.sampled_from(CALLERS),
                }
            ),
        ),
        st.tuples(
            st.sampled_from(["settled", "refused", "unknown", "released"]),
            _NUMBERS,
            st.sampled_from(
                [{}, {"delivered": True}, {"delivered": False}, PROOF, {"delivered": True} | PROOF]
            ),
        ),
        st.tuples(st.just("attempt"), _NUMBERS, st.fixed_dictionaries({"facts": _FACTS})),
    ),
    max_size=30,
)


def _data(
    event: str, number: int, members: dict[str, Any], signed_data: Callable[..., Any]
) -> dict[str, Any]:
    return (
        signed_data(number, **members) if event == "signed" else {"payment_id": f"{number:032x}", **members}
    )


def _entries(events: list[Any], signed_data: Callable[..., Any]) -> list[Entry]:
    return [
        Entry(seq, "", f"x402.payment.{event}", "test", _data(event, number, members, signed_data), b"")
        for seq, (event, number, members) in enumerate(events, start=1)
    ]


def _folded(entries: list[Entry]) -> DictTables:
    tables = DictTables()
    for entry in entries:
        try:
            fold(entry, tables)
        except EntryRefused:
            continue
    return tables


@given(_EVENTS)
def test_every_prefix_folds_to_the_same_state_at_once_or_step_by_step(
    signed_data: Callable[..., Any], events: list[Any]
) -> None:
    entries = _entries(events, signed_data)
    tables = DictTables()
    for length, entry in enumerate(entries):
        assert tables.rows() == _folded(entries[:length]).rows()
        before = copy.deepcopy(tables.rows())
        try:
            fold(entry, tables)
        except EntryRefused:
            assert tables.rows() == before  # refused: nothing was changed
    assert tables.rows() == _folded(entries).rows()


@given(_EVENTS)
def test_spend_is_what_was_signed_and_not_released(
    signed_data: Callable[..., Any], events: list[Any]
) -> None:
    tables = _folded(_entries(events, signed_data))
    for (day,), (usd_micros, calls) in tables.total.items():
        payments = [payment for payment in tables.payments.values() if payment.day == day]
        assert usd_micros == sum(payment.usd_micros for payment in payments if payment.state != "released")
        assert calls == len(payments)
        by_key = [sums for key, sums in tables.spend.items() if key[0] == day]
        assert [usd_micros, calls] == [sum(column) for column in zip(*by_key, strict=True)]


@given(_EVENTS)
def test_what_was_settled_delivered_or_proven_stays_so(
    signed_data: Callable[..., Any], events: list[Any]
) -> None:
    tables = DictTables()
    for entry in _entries(events, signed_data):
        before = dict(tables.payments)
        try:
            fold(entry, tables)
        except EntryRefused:
            continue
        for payment_id, old in before.items():
            new = tables.payments[payment_id]
            assert new.delivered >= old.delivered
            assert new.proven >= old.proven
            if old.state in ("settled", "released") and "proof" not in entry.data:
                assert new.state == old.state
            if old.state == "settled" and old.proven:
                assert new.state == "settled"
            # what was signed is never rewritten
            changed = {name: getattr(old, name) for name in ("state", "delivered", "proven", "last_seq")}
            assert new._replace(**changed) == old


class SqlAgainstDict(RuleBasedStateMachine):
    """A real ledger, with steps that fail and reopenings in between, against the oracle."""

    make_signed: Callable[..., Any]

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "ledger.db"
        self.ledger = Ledger.open(self.path, clock=lambda: 0)
        self.oracle = DictTables()
        self.seq = 0

    @rule(events=_EVENTS.filter(bool))
    def a_step_appends_some_entries(self, events: list[Any]) -> None:
        """Entries that are refused are passed over, and the step goes on."""

        def step(transaction: Transaction) -> list[Entry]:
            appended = []
            for event, number, members in events:
                data = _data(event, number, members, self.make_signed)
                try:
                    appended.append(transaction.append(f"x402.payment.{event}", "test", data))
                except EntryRefused:
                    continue
            return appended

        for entry in self.ledger.transact(step).result(WAIT_S):
            self.seq += 1
            assert entry.seq == self.seq
            fold(entry, self.oracle)

    @rule(number=_NUMBERS)
    @precondition(lambda self: self.seq > 0)
    def a_step_raises_after_appending(self, number: int) -> None:
        def step(transaction: Transaction) -> None:
            transaction.append(SIGNED, "test", self.make_signed(number + 100))
            raise RuntimeError

        with pytest.raises(RuntimeError):
            self.ledger.transact(step).result(WAIT_S)

    @rule()
    def it_is_reopened(self) -> None:
        self.ledger.close()
        self.ledger = Ledger.open(self.path, clock=lambda: 0)

    @invariant()
    def the_tables_are_those_of_the_oracle(self) -> None:
        assert sql_rows(self.ledger) == self.oracle.rows()
        assert self.ledger.head().seq == self.seq

    def teardown(self) -> None:
        with closing(self.ledger):
            verdict = verify(self.path)
        self.folder.cleanup()
        assert verdict.problems == []
        assert verdict.entries == self.seq


def test_the_sql_tables_always_equal_the_fold(signed_data: Callable[..., Any]) -> None:
    machine = type("Machine", (SqlAgainstDict,), {"make_signed": staticmethod(signed_data)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
