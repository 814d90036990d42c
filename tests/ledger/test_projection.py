"""The projection says what the entries say: by hand, by property, and against a second implementation."""

from __future__ import annotations

import copy
import json
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
from ledger.schema import SqlTables
from ledger.states import State
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


def sql_rows(ledger: Ledger) -> dict[str, list[tuple[Any, ...]]]:
    return {
        "payments": rows(ledger, "SELECT * FROM payments ORDER BY payment_id"),
        "spend": rows(ledger, "SELECT * FROM spend ORDER BY day, domain, caller"),
        "spend_total": rows(ledger, "SELECT * FROM spend_total ORDER BY day"),
        "payment_entries": rows(ledger, "SELECT * FROM payment_entries ORDER BY payment_id, seq"),
        "facts": rows(ledger, "SELECT * FROM facts ORDER BY kind, key"),
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


PROOF = {"proof": {"chain": "eip155:84532", "block": 7}}


@pytest.mark.parametrize(
    ("outcomes", "state", "delivered", "proven"),
    [
        # what somebody says
        (["settled"], "settled", 0, 0),
        (["refused"], "refused", 0, 0),
        (["unknown"], "unknown", 0, 0),
        (["unknown", "refused"], "refused", 0, 0),
        (["refused", "unknown"], "unknown", 0, 0),
        (["unknown", "settled"], "settled", 0, 0),
        (["refused", "settled"], "settled", 0, 0),
        (["settled", "unknown"], "settled", 0, 0),
        (["settled", "refused"], "settled", 0, 0),
        # what was delivered stays delivered
        (["unknown delivered", "refused"], "refused", 1, 0),
        (["settled", "unknown delivered"], "settled", 1, 0),
        (["released proof", "refused delivered"], "released", 1, 1),
        # proof outweighs what anybody says, before and after
        (["settled proof"], "settled", 0, 1),
        (["released proof"], "released", 0, 1),
        (["unknown", "released proof"], "released", 0, 1),
        (["settled", "settled proof"], "settled", 0, 1),
        (["settled", "released proof"], "released", 0, 1),
        (["settled proof", "refused"], "settled", 0, 1),
        (["released proof", "settled"], "released", 0, 1),
        (["released proof", "settled proof"], "settled", 0, 1),
        # only a transfer, or that there can be none, is proof of anything
        (["refused proof"], "refused", 0, 0),
        (["settled proof", "unknown proof"], "settled", 0, 1),
    ],
)
def test_a_payment_becomes(
    ledger: Ledger, signed_data: Any, outcomes: list[str], state: str, delivered: int, proven: int
) -> None:
    data = signed_data()
    append(ledger, SIGNED, data)
    for outcome in outcomes:
        name, *words = outcome.split()
        members = {"payment_id": data["payment_id"]}
        members |= {"delivered": True} if "delivered" in words else {}
        members |= PROOF if "proof" in words else {}
        append(ledger, f"x402.payment.{name}", members)
    last = 1 + len(outcomes)
    assert rows(ledger, "SELECT state, delivered, proven, last_seq FROM payments") == [
        (state, delivered, proven, last)
    ]
    spent = 0 if state == "released" else 1000
    assert rows(ledger, "SELECT usd_micros, calls FROM spend") == [(spent, 1)]
    assert rows(ledger, "SELECT usd_micros, calls FROM spend_total") == [(spent, 1)]


def test_only_a_release_gives_money_back_and_the_call_stays_counted(ledger: Ledger, signed_data: Any) -> None:
    payment_id = signed_data()["payment_id"]
    append(ledger, SIGNED, signed_data(usd_micros=4000))
    append(ledger, SIGNED, signed_data(2, usd_micros=1))
    for outcome in ("unknown", "refused"):
        append(ledger, f"x402.payment.{outcome}", {"payment_id": payment_id})
        assert rows(ledger, "SELECT usd_micros, calls FROM spend") == [(4001, 2)]
    append(ledger, "x402.payment.released", {"payment_id": payment_id} | PROOF)
    assert rows(ledger, "SELECT usd_micros, calls FROM spend") == [(1, 2)]
    assert rows(ledger, "SELECT usd_micros, calls FROM spend_total") == [(1, 2)]


@pytest.mark.parametrize(
    ("before", "release", "why"),
    [
        pytest.param(None, {}, "needs a proof", id="without a proof"),
        pytest.param(None, {"proof": "yes"}, "proof is not an object", id="with a proof that is a word"),
        pytest.param("settled", PROOF, "proven to be settled", id="of what was proven to be settled"),
        pytest.param("released", PROOF, "released already", id="a second time"),
    ],
)
def test_money_is_not_given_back(
    ledger: Ledger, signed_data: Any, before: str | None, release: dict[str, Any], why: str
) -> None:
    payment = {"payment_id": signed_data()["payment_id"]}
    append(ledger, SIGNED, signed_data())
    if before:
        append(ledger, f"x402.payment.{before}", payment | PROOF)
    tables, head = sql_rows(ledger), ledger.head()
    with pytest.raises(EntryRefused, match=why):
        append(ledger, "x402.payment.released", payment | release)
    assert sql_rows(ledger) == tables
    assert ledger.head() == head


def test_money_that_was_released_by_a_false_proof_is_counted_again_once(
    ledger: Ledger, signed_data: Any
) -> None:
    payment = {"payment_id": signed_data()["payment_id"]} | PROOF
    append(ledger, SIGNED, signed_data())
    for outcome in ("released", "settled", "settled"):
        append(ledger, f"x402.payment.{outcome}", payment)
    assert rows(ledger, "SELECT usd_micros, calls FROM spend_total") == [(1000, 1)]


def test_the_story_of_a_payment_is_each_entry_about_it(ledger: Ledger, signed_data: Any) -> None:
    append(ledger, SIGNED, signed_data(1))
    append(ledger, SIGNED, signed_data(2))
    append(ledger, "x402.payment.unknown", {"payment_id": f"{1:032x}"})
    append(ledger, "x402.payment.attempt", {"payment_id": f"{1:032x}"})
    append(ledger, "x402.payment.settled", {"payment_id": f"{1:032x}"})
    assert rows(ledger, "SELECT payment_id, seq FROM payment_entries ORDER BY payment_id, seq") == [
        (f"{1:032x}", 1),
        (f"{1:032x}", 3),
        (f"{1:032x}", 5),
        (f"{2:032x}", 2),
    ]


def test_a_payment_read_back_has_the_types_it_declares(ledger: Ledger, signed_data: Any) -> None:
    payment_id = signed_data()["payment_id"]
    append(ledger, SIGNED, signed_data())
    append(ledger, "x402.payment.settled", {"payment_id": payment_id, "delivered": True} | PROOF)
    payment = ledger.read(lambda db: SqlTables(db).payment(payment_id))
    assert payment is not None
    assert (payment.state, payment.delivered, payment.proven) == (State.SETTLED, True, True)
    assert [type(value) for value in (payment.state, payment.delivered, payment.proven)] == [
        State,
        bool,
        bool,
    ]


# --- facts


def fact(key: str, value: object, kind: str = "pin") -> dict[str, object]:
    return {"kind": kind, "key": key, "value": value}


def test_the_newest_fact_wins_and_null_removes(ledger: Ledger, signed_data: Any) -> None:
    append(ledger, "any.type", {"facts": [fact("a", {"z": 1, "b": 2}), fact("b", 1), fact("a", 0, "price")]})
    assert rows(ledger, "SELECT * FROM facts ORDER BY kind, key") == [
        ("pin", "a", '{"b":2,"z":1}', 1),
        ("pin", "b", "1", 1),
        ("price", "a", "0", 1),
    ]
    append(ledger, SIGNED, signed_data() | {"facts": [fact("a", None), fact("b", 2), fact("never", None)]})
    assert rows(ledger, "SELECT * FROM facts ORDER BY kind, key") == [
        ("pin", "b", "2", 2),
        ("price", "a", "0", 1),
    ]


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({}, id="an object"),
        pytest.param(None, id="null"),
        pytest.param(["a"], id="a word"),
        pytest.param([{"kind": "pin", "key": "a"}], id="no value"),
        pytest.param([fact("a", 1) | {"seq": 1}], id="another member"),
        pytest.param([fact("a", 1, kind=7)], id="a kind that is a number"),  # type: ignore[arg-type]
        pytest.param([fact("a", 1), fact(None, 1)], id="a key that is null"),  # type: ignore[arg-type]
    ],
)
def test_an_entry_with_malformed_facts_changes_nothing(
    ledger: Ledger, signed_data: Any, facts: object
) -> None:
    before = sql_rows(ledger)
    for kind in (SIGNED, "any.type"):
        with pytest.raises(EntryRefused, match="fact"):
            append(ledger, kind, signed_data() | {"facts": facts})
    assert sql_rows(ledger) == before
    assert ledger.head().seq == 0


def test_an_entry_that_is_refused_leaves_no_facts(ledger: Ledger) -> None:
    with pytest.raises(EntryRefused):
        append(ledger, "x402.payment.settled", {"payment_id": "ab" * 16, "facts": [fact("a", 1)]})
    assert rows(ledger, "SELECT * FROM facts") == []


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
        append(ledger, f"x402.payment.{outcome}", {"payment_id": "ab" * 16} | PROOF)
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
        pytest.param({"signed_at": None}, id="no time of signing"),
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
        ("SELECT count(*) FROM payments WHERE signed_at > 5", "payments_by_signed_at"),
        (
            "SELECT * FROM payments WHERE proven = 0 AND signed_seq > 5 ORDER BY signed_seq",
            "payments_unproven",
        ),
        ("SELECT sum(usd_micros) FROM spend WHERE day = 'x' AND caller = 'y'", "spend_by_caller"),
        ("SELECT seq FROM payment_entries WHERE payment_id = 'x' ORDER BY seq", "PRIMARY KEY"),
        ("SELECT value FROM facts WHERE kind = 'x' AND key = 'y'", "PRIMARY KEY"),
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
