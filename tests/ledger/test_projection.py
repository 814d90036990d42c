"""The projection says what the entries say. By property and against a second one: test_projection_properties.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ledger import Entry, EntryRefused, Ledger
from ledger.schema import SqlTables
from ledger.states import State

WAIT_S = 20
DAYS = ["2026-11-20", "2026-11-21", "2026-11-22"]
DOMAINS = ["api.example.com", "http://127.0.0.1:4021"]
CALLERS = ["uid:1000", "uid:1001"]
SIGNED = "x402.payment.signed"


def append(ledger: Ledger, kind: str, data: dict[str, Any]) -> Entry:
    return ledger.transact(lambda transaction: transaction.append(kind, "test", data)).result(WAIT_S)


def rows(ledger: Ledger, query: str) -> list[tuple[Any, ...]]:
    return ledger.read(lambda db: db.execute(query).fetchall())


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
