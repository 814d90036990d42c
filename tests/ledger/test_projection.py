"""The projection says what the entries say: by hand, by property, and against a second implementation."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import astuple, replace
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

WAIT_S = 20
DAYS = ["2026-11-20", "2026-11-21", "2026-11-22"]
DOMAINS = ["api.example.com", "http://127.0.0.1:4021"]
CALLERS = ["uid:1000", "uid:1001"]
SIGNED = "x402.payment.signed"


def append(ledger: Ledger, kind: str, data: dict[str, Any]) -> Entry:
    return ledger.transact(lambda transaction: transaction.append(kind, "test", data)).result(WAIT_S)


def rows(ledger: Ledger, query: str) -> list[tuple[Any, ...]]:
    return ledger.read(lambda db: db.execute(query).fetchall())


class DictTables:
    """The projection in dictionaries: the oracle that the SQL is compared with."""

    def __init__(self) -> None:
        self.payments: dict[str, Payment] = {}
        self.spend: dict[tuple[str, ...], list[int]] = {}
        self.total: dict[tuple[str, ...], list[int]] = {}
        self.latest_day: str | None = None

    def payment(self, payment_id: str) -> Payment | None:
        return self.payments.get(payment_id)

    def put_payment(self, payment: Payment) -> None:
        self.payments[payment.payment_id] = payment

    def add_spend(self, day: str, domain: str, caller: str, *, usd_micros: int, calls: int) -> None:
        for sums, key in ((self.spend, (day, domain, caller)), (self.total, (day,))):
            row = sums.setdefault(key, [0, 0])
            row[0] += usd_micros
            row[1] += calls

    def see_day(self, day: str) -> None:
        self.latest_day = max(day, self.latest_day or day)

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        return {
            "payments": sorted(astuple(payment) for payment in self.payments.values()),
            "spend": sorted((*key, *sums) for key, sums in self.spend.items()),
            "spend_total": sorted((*key, *sums) for key, sums in self.total.items()),
            "meta": [(self.latest_day,)],
        }


def sql_rows(ledger: Ledger) -> dict[str, list[tuple[Any, ...]]]:
    return {
        "payments": rows(ledger, "SELECT * FROM payments ORDER BY payment_id"),
        "spend": rows(ledger, "SELECT * FROM spend ORDER BY day, domain, caller"),
        "spend_total": rows(ledger, "SELECT * FROM spend_total ORDER BY day"),
        "meta": rows(ledger, "SELECT latest_day FROM meta"),
    }


# --- by hand


def test_a_signed_payment_is_counted_and_kept(ledger: Ledger, signed_data: Any) -> None:
    data = signed_data(1, usd_micros=4000)
    entry = append(ledger, SIGNED, data)

    assert rows(ledger, "SELECT * FROM spend") == [("2026-11-21", "api.example.com", "uid:1000", 4000, 1)]
    assert rows(ledger, "SELECT * FROM spend_total") == [("2026-11-21", 4000, 1)]
    assert rows(ledger, "SELECT latest_day FROM meta") == [("2026-11-21",)]
    [(state, delivered, authorization, signed, last)] = rows(
        ledger, "SELECT state, delivered, authorization, signed_seq, last_seq FROM payments"
    )
    assert (state, delivered, signed, last) == ("signed", 0, entry.seq, entry.seq)
    assert json.loads(authorization) == data["authorization"]


def test_spend_is_kept_by_day_domain_and_caller(ledger: Ledger, signed_data: Any) -> None:
    append(ledger, SIGNED, signed_data(1, usd_micros=1))
    append(ledger, SIGNED, signed_data(2, usd_micros=10))
    append(ledger, SIGNED, signed_data(3, usd_micros=100, caller="uid:0"))
    append(ledger, SIGNED, signed_data(4, usd_micros=1000, domain="b.example.com"))
    append(ledger, SIGNED, signed_data(5, usd_micros=10000, day="2026-11-22"))
    assert rows(ledger, "SELECT * FROM spend ORDER BY usd_micros") == [
        ("2026-11-21", "api.example.com", "uid:1000", 11, 2),
        ("2026-11-21", "api.example.com", "uid:0", 100, 1),
        ("2026-11-21", "b.example.com", "uid:1000", 1000, 1),
        ("2026-11-22", "api.example.com", "uid:1000", 10000, 1),
    ]
    assert rows(ledger, "SELECT * FROM spend_total ORDER BY day") == [
        ("2026-11-21", 1111, 4),
        ("2026-11-22", 10000, 1),
    ]


def test_the_latest_day_never_goes_back(ledger: Ledger, signed_data: Any) -> None:
    for number, day in enumerate(["2026-11-21", "2026-11-22", "2026-11-20"]):
        append(ledger, SIGNED, signed_data(number, day=day))
    assert rows(ledger, "SELECT latest_day FROM meta") == [("2026-11-22",)]


@pytest.mark.parametrize(
    ("outcomes", "state", "delivered"),
    [
        (["settled"], "settled", 0),
        (["refused"], "refused", 0),
        (["unknown"], "unknown", 0),
        (["unknown", "refused"], "refused", 0),
        (["refused", "unknown"], "unknown", 0),
        (["unknown", "settled"], "settled", 0),
        (["refused", "settled"], "settled", 0),
        (["settled", "unknown"], "settled", 0),
        (["settled", "refused"], "settled", 0),
        (["released", "settled"], "released", 0),
        (["unknown", "released"], "released", 0),
        (["unknown+", "refused"], "refused", 1),
        (["settled", "unknown+"], "settled", 1),
        (["released", "refused+"], "released", 1),
    ],
)
def test_a_payment_becomes(
    ledger: Ledger, signed_data: Any, outcomes: list[str], state: str, delivered: int
) -> None:
    data = signed_data()
    append(ledger, SIGNED, data)
    for outcome in outcomes:
        extra = {"delivered": True} if outcome.endswith("+") else {}
        kind = f"x402.payment.{outcome.rstrip('+')}"
        last = append(ledger, kind, {"payment_id": data["payment_id"]} | extra)
    assert rows(ledger, "SELECT state, delivered, last_seq FROM payments") == [(state, delivered, last.seq)]


def test_only_a_release_gives_money_back_and_the_call_stays_counted(ledger: Ledger, signed_data: Any) -> None:
    payment_id = signed_data()["payment_id"]
    append(ledger, SIGNED, signed_data(usd_micros=4000))
    append(ledger, SIGNED, signed_data(2, usd_micros=1))
    for outcome in ("unknown", "refused"):
        append(ledger, f"x402.payment.{outcome}", {"payment_id": payment_id})
        assert rows(ledger, "SELECT usd_micros, calls FROM spend") == [(4001, 2)]
    append(ledger, "x402.payment.released", {"payment_id": payment_id})
    assert rows(ledger, "SELECT usd_micros, calls FROM spend") == [(1, 2)]
    assert rows(ledger, "SELECT usd_micros, calls FROM spend_total") == [(1, 2)]


@pytest.mark.parametrize("first", ["settled", "released"])
def test_money_that_is_settled_or_released_is_not_given_back_again(
    ledger: Ledger, signed_data: Any, first: str
) -> None:
    payment = {"payment_id": signed_data()["payment_id"]}
    append(ledger, SIGNED, signed_data())
    append(ledger, f"x402.payment.{first}", payment)
    before = sql_rows(ledger)
    with pytest.raises(EntryRefused, match=f"is {first}"):
        append(ledger, "x402.payment.released", payment)
    assert sql_rows(ledger) == before
    assert ledger.head().seq == 2


def test_other_entries_fold_to_nothing(ledger: Ledger, signed_data: Any) -> None:
    before = sql_rows(ledger)
    for kind in ("x402.payment.attempt", "x402.payment.rejected", "keyd.started", "x402.payment.signed.not"):
        append(ledger, kind, signed_data())
    assert sql_rows(ledger) == before
    assert ledger.head().seq == 4


# --- what cannot be true is refused


@pytest.mark.parametrize("outcome", ["settled", "refused", "unknown", "released"])
def test_an_outcome_of_a_payment_that_does_not_exist_is_refused(ledger: Ledger, outcome: str) -> None:
    with pytest.raises(EntryRefused, match="there is no payment"):
        append(ledger, f"x402.payment.{outcome}", {"payment_id": "ab" * 16})
    assert ledger.head().seq == 0


def test_a_payment_is_signed_once(ledger: Ledger, signed_data: Any) -> None:
    append(ledger, SIGNED, signed_data())
    before = sql_rows(ledger)
    with pytest.raises(EntryRefused, match="in the ledger already"):
        append(ledger, SIGNED, signed_data(usd_micros=5))
    assert sql_rows(ledger) == before
    assert ledger.head().seq == 1


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"usd_micros": -1}, id="negative USD"),
        pytest.param({"usd_micros": True}, id="USD that is a truth value"),
        pytest.param({"usd_micros": "1"}, id="USD that is a string"),
        pytest.param({"usd_micros": None}, id="no USD"),
        pytest.param({"amount": "-1"}, id="negative amount"),
        pytest.param({"amount": "1.5"}, id="fractional amount"),
        pytest.param({"amount": "01"}, id="amount with a leading zero"),
        pytest.param({"amount": "1\n"}, id="amount with a line end"),
        pytest.param({"amount": "١"}, id="amount in other digits"),
        pytest.param({"payment_id": "AB" * 16}, id="upper-case id"),
        pytest.param({"payment_id": "ab" * 15}, id="short id"),
        pytest.param({"intent_key": "ab" * 16}, id="short intent key"),
        pytest.param({"domain": None}, id="no domain"),
        pytest.param({"day": "21 Nov 2026"}, id="day in another form"),
        pytest.param({"valid_before": -1}, id="negative time"),
        pytest.param({"authorization": "0x"}, id="authorization that is a string"),
        pytest.param({"authorization": {}}, id="authorization without members"),
    ],
)
def test_a_signed_entry_that_cannot_be_folded_is_refused(
    ledger: Ledger, signed_data: Any, changes: dict[str, Any]
) -> None:
    before = sql_rows(ledger)
    with pytest.raises(EntryRefused):
        append(ledger, SIGNED, signed_data(**changes))
    assert sql_rows(ledger) == before
    assert ledger.head().seq == 0


@pytest.mark.parametrize("change", [{"signature": "0x00"}, {"nonce": 7}], ids=["signature", "number"])
def test_an_authorization_has_its_six_members_and_no_signature(
    ledger: Ledger, signed_data: Any, change: dict[str, Any]
) -> None:
    data = signed_data()
    with pytest.raises(EntryRefused, match="authorization"):
        append(ledger, SIGNED, data | {"authorization": data["authorization"] | change})


def test_delivered_is_true_or_false(ledger: Ledger, signed_data: Any) -> None:
    append(ledger, SIGNED, signed_data())
    with pytest.raises(EntryRefused, match="delivered"):
        append(
            ledger, "x402.payment.settled", {"payment_id": signed_data()["payment_id"], "delivered": "yes"}
        )
    assert rows(ledger, "SELECT state FROM payments") == [("signed",)]


# --- keyd's questions stay fast: they are answered from an index


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (
            "SELECT * FROM payments WHERE intent_key = 'x' ORDER BY signed_seq DESC LIMIT 1",
            "payments_by_intent",
        ),
        ("SELECT * FROM payments WHERE state = 'unknown' AND valid_before < 5", "payments_by_state"),
        ("SELECT sum(usd_micros) FROM payments WHERE day = 'x' AND domain = 'y'", "payments_by_day"),
        ("SELECT * FROM payments WHERE payment_id = 'x'", "autoindex_payments"),
        ("SELECT * FROM spend WHERE day = 'x' AND domain = 'y'", "PRIMARY KEY"),
        ("SELECT * FROM spend_total WHERE day = 'x'", "PRIMARY KEY"),
    ],
)
def test_a_question_is_answered_from_an_index(ledger: Ledger, query: str, index: str) -> None:
    plan = " ".join(row[3] for row in rows(ledger, f"EXPLAIN QUERY PLAN {query}"))
    assert "SEARCH" in plan
    assert index in plan
    assert "SCAN" not in plan
    assert "TEMP B-TREE" not in plan


# --- by property

_NUMBERS = st.integers(1, 6)
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
            st.sampled_from([{}, {"delivered": True}, {"delivered": False}]),
        ),
        st.tuples(st.just("attempt"), _NUMBERS, st.just({})),
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
def test_a_settled_payment_stays_settled_and_a_delivered_one_delivered(
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
            if old.state in ("settled", "released"):
                assert new.state == old.state
            # what was signed is never rewritten
            assert replace(new, state=old.state, delivered=old.delivered, last_seq=old.last_seq) == old


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
