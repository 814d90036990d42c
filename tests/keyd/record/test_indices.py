"""What keyd really asks of its ledger, seen by SQLite's own trace, is answered from an index: no table is read whole.

So a decision takes as long in a ledger of ten million entries as in an empty one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from keyd import api
from keyd.client import KeydClient
from ledger import store
from ledger.export import FORMATS, Period, export
from tests.keyd.conftest import Keyd, Rig, sign_request

DAY = "2026-11-21"
ONE_ROW = {"meta", "CONSTANT"}
LAST_ENTRIES = "FROM entries ORDER BY seq DESC LIMIT 2"
OVERVIEWS = {
    "wallet_show": "payments",  # adds up all payments of a wallet, in a thread
    "payments": "payments",  # from the newest back until it has enough
}


class Trace:
    """Every statement that a connection runs, with its values filled in."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rig: Rig) -> None:
        self.statements: list[str] = []
        self._path = rig.ledger.path
        opened = store.open_reader

        def open_reader(*arguments: object) -> sqlite3.Connection:
            db = opened(*arguments)  # type: ignore[arg-type]
            db.set_trace_callback(self.statements.append)
            return db

        monkeypatch.setattr(store, "open_reader", open_reader)
        for db in rig.ledger._idle_readers:  # opened before, and used again
            db.set_trace_callback(self.statements.append)
        rig.ledger.transact(lambda tx: tx.db.set_trace_callback(self.statements.append)).result()

    def whole(self) -> set[str]:
        """Tables of which a statement since the last time read every row, as the statement names them."""
        seen, self.statements[:] = {*self.statements}, []
        with closing(sqlite3.connect(self._path)) as db:
            steps = [step.split() for statement in seen for step in _plan(db, statement)]
        scanned = {step[1] for step in steps if step[0] == "SCAN"} - ONE_ROW
        return {
            name for name in scanned if not name.startswith("(subquery")
        }  # of rows that were searched for


def _plan(db: sqlite3.Connection, statement: str) -> list[str]:
    if not statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE")) or statement.endswith(LAST_ENTRIES):
        return []
    return [detail for *_, detail in db.execute(f"EXPLAIN QUERY PLAN {statement}")]


@pytest.fixture
async def trace(monkeypatch: pytest.MonkeyPatch, keyd: Keyd) -> Trace:
    trace = Trace(monkeypatch, keyd.rig)
    for what in range(3):
        await keyd.rig.paid(what=what)
    assert trace.statements
    return trace


async def test_a_payment_and_its_outcome_read_no_table_whole(client: KeydClient, trace: Trace) -> None:
    assert trace.whole() == set()  # those of the fixture
    reply = await client.sign(sign_request(what=9))
    await client.sign(sign_request(what=9))  # a repeat
    await client.outcome(api.OutcomeReport(payment_id=reply.payment_id, http_status=200))
    assert any("spend_total" in statement for statement in trace.statements)
    assert trace.whole() == set()


@pytest.mark.parametrize("by", api.SpendBy)
async def test_spending_of_a_day_is_found_by_the_day(
    client: KeydClient, trace: Trace, by: api.SpendBy
) -> None:
    trace.whole()
    await client.spend(by=by, since=DAY)
    assert trace.whole() == set()


ASKED: dict[str, Callable[[KeydClient], object]] = {
    "health": KeydClient.health,
    "policy": KeydClient.policy,
    "open_payments": KeydClient.open_payments,
    "ledger_head": KeydClient.ledger_head,
    "ledger_entries": lambda keyd: keyd.ledger_entries(limit=5),
    "payments": KeydClient.payments,
    "wallet_show": lambda keyd: keyd.wallet_show("default"),
}


@pytest.mark.parametrize("endpoint", ASKED)
async def test_what_is_asked_often_reads_no_table_whole(
    client: KeydClient, trace: Trace, endpoint: str
) -> None:
    trace.whole()
    await ASKED[endpoint](client)  # type: ignore[misc]
    assert trace.whole() <= {OVERVIEWS.get(endpoint, "")}


@pytest.mark.parametrize("form", sorted(FORMATS.keys() - {"jsonl"}))
def test_an_export_of_a_month_finds_its_payments_by_their_time(trace: Trace, rig: Rig, form: str) -> None:
    trace.whole()
    period = Period.parse("2026-11-01", "2026-11-30")
    assert rig.ledger.read(lambda db: list(export(db, form, period)))
    assert trace.whole() == set()


async def test_the_trace_sees_a_table_that_is_read_whole(trace: Trace, rig: Rig) -> None:
    trace.whole()
    rig.ledger.read(lambda db: db.execute("SELECT COUNT(*) FROM payments WHERE caller = 'uid:1'").fetchall())
    assert trace.whole() == {"payments"}
