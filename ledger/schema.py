"""The tables of a ledger file, and the projection kept in them."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from ledger.projection import Payment
from ledger.states import State

APPLICATION_ID: Final = int.from_bytes(b"osmL")
"""`PRAGMA application_id`: what file(1) and this program tell a ledger by."""
FORMAT: Final = 1
"""`PRAGMA user_version`: the version of docs/ledger-format.md."""

ENTRIES: Final = """
CREATE TABLE entries (
  seq   INTEGER PRIMARY KEY,
  entry TEXT NOT NULL,       -- canonical JSON, byte for byte what the hash covers
  hash  BLOB NOT NULL
) STRICT;
"""

PROJECTION: Final = """
CREATE TABLE meta (
  id         INTEGER PRIMARY KEY CHECK (id = 1),  -- there is one row
  head_seq   INTEGER NOT NULL,
  head_hash  BLOB NOT NULL,
  latest_day TEXT                                 -- NULL until something was signed
) STRICT;

CREATE TABLE payments (
  payment_id    TEXT NOT NULL PRIMARY KEY,
  intent_key    TEXT NOT NULL,
  state         TEXT NOT NULL,
  delivered     INTEGER NOT NULL,
  proven        INTEGER NOT NULL,
  domain        TEXT NOT NULL,
  caller        TEXT NOT NULL,
  wallet        TEXT NOT NULL,
  network       TEXT NOT NULL,
  asset         TEXT NOT NULL,
  amount        TEXT NOT NULL,
  usd_micros    INTEGER NOT NULL,
  authorization TEXT NOT NULL,
  signed_at     INTEGER NOT NULL,
  valid_before  INTEGER NOT NULL,
  day           TEXT NOT NULL,
  signed_seq    INTEGER NOT NULL,
  last_seq      INTEGER NOT NULL
) STRICT;

CREATE TABLE payment_entries (
  payment_id TEXT NOT NULL,
  seq        INTEGER NOT NULL,
  PRIMARY KEY (payment_id, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE spend (
  day        TEXT NOT NULL,
  domain     TEXT NOT NULL,
  caller     TEXT NOT NULL,
  usd_micros INTEGER NOT NULL,
  calls      INTEGER NOT NULL,
  PRIMARY KEY (day, domain, caller)
) STRICT, WITHOUT ROWID;

CREATE TABLE spend_total (
  day        TEXT NOT NULL PRIMARY KEY,
  usd_micros INTEGER NOT NULL,
  calls      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE facts (
  kind  TEXT NOT NULL,
  key   TEXT NOT NULL,
  value TEXT NOT NULL,      -- canonical JSON
  seq   INTEGER NOT NULL,   -- the entry that said so
  PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
"""

INDEXES: Final = """
CREATE INDEX payments_by_intent ON payments (intent_key, signed_seq);
CREATE INDEX payments_by_state ON payments (state, valid_before);
CREATE INDEX payments_by_day ON payments (day, domain);
CREATE INDEX payments_by_signed_at ON payments (signed_at);
CREATE INDEX payments_unproven ON payments (signed_seq) WHERE proven = 0;
CREATE INDEX spend_by_caller ON spend (day, caller, usd_micros);
"""
"""For keyd's questions: the newest payment of an intent, what the chain has not confirmed, what was signed in
the last minute, what a day was spent on and by whom (with the sum in the index: SQLite would scan the day instead)."""

EMPTY: Final = "INSERT INTO meta VALUES (1, 0, zeroblob(32), NULL);"
"""The one row of `meta` before the first entry."""

PAYMENT_COLUMNS: Final = Payment._fields
"""Columns of `payments`, in order."""
_COLUMNS: Final = ", ".join(PAYMENT_COLUMNS)
_PLACES: Final = ", ".join("?" for _ in PAYMENT_COLUMNS)
SELECT_PAYMENT: Final = f"SELECT {_COLUMNS} FROM payments WHERE payment_id = ?"  # noqa: S608 - constants
INSERT_PAYMENT: Final = f"INSERT INTO payments ({_COLUMNS}) VALUES ({_PLACES})"  # noqa: S608 - constants
PUT_PAYMENT: Final = f"""
{INSERT_PAYMENT}
ON CONFLICT (payment_id) DO UPDATE
SET state = excluded.state, delivered = excluded.delivered, proven = excluded.proven,
    last_seq = excluded.last_seq
"""


PUT_PAYMENT_ENTRY: Final = "INSERT INTO payment_entries VALUES (?, ?)"
_ADD: Final = (
    "ON CONFLICT DO UPDATE SET usd_micros = usd_micros + excluded.usd_micros, calls = calls + excluded.calls"
)
ADD_SPEND: Final = f"INSERT INTO spend VALUES (?, ?, ?, ?, ?) {_ADD}"  # noqa: S608 - constants
ADD_SPEND_TOTAL: Final = f"INSERT INTO spend_total VALUES (?, ?, ?) {_ADD}"  # noqa: S608 - constants
PUT_FACT: Final = "INSERT INTO facts VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value, seq = excluded.seq"
REMOVE_FACT: Final = "DELETE FROM facts WHERE kind = ? AND key = ?"
SEE_DAY: Final = "UPDATE meta SET latest_day = max(coalesce(latest_day, ''), ?)"


class SqlTables:
    """The projection in the tables of one connection (`ledger.projection.Tables`)."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def payment(self, payment_id: str) -> Payment | None:
        row = self._db.execute(SELECT_PAYMENT, (payment_id,)).fetchone()
        return None if row is None else payment_from_row(row)

    def put_payment(self, payment: Payment) -> None:
        self._db.execute(PUT_PAYMENT, payment)
        self._db.execute(PUT_PAYMENT_ENTRY, (payment.payment_id, payment.last_seq))

    def add_spend(self, day: str, domain: str, caller: str, *, usd_micros: int, calls: int) -> None:
        self._db.execute(ADD_SPEND, (day, domain, caller, usd_micros, calls))
        self._db.execute(ADD_SPEND_TOTAL, (day, usd_micros, calls))

    def put_fact(self, kind: str, key: str, value: str | None, seq: int) -> None:
        if value is None:
            self._db.execute(REMOVE_FACT, (kind, key))
        else:
            self._db.execute(PUT_FACT, (kind, key, value, seq))

    def see_day(self, day: str) -> None:
        self._db.execute(SEE_DAY, (day,))


def payment_from_row(row: tuple[Any, ...]) -> Payment:
    """The payment in a row of `SELECT * FROM payments`."""
    payment_id, intent_key, state, delivered, proven, *rest = row
    return Payment(payment_id, intent_key, State(state), bool(delivered), bool(proven), *rest)
