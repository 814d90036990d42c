"""Small durable state beside the payments: pins, approvals, proposals, overrides, freezes.

A fact is a JSON value under (kind, key). An entry carries the facts that it changes in `data.facts`; the ledger
folds them into its `facts` table, the newest wins, None removes. So every bit of state that a decision depends
on has an entry behind it, and a restart forgets nothing.
"""

from __future__ import annotations

import json
import sqlite3
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What the facts are about. The ledger does not know these names; they are keyd's."""

    PIN = "pin"
    """domain → {network, asset, pay_to} of its first payment"""
    PRICE = "price"
    """domain, method and path → micro-USD of the first payment"""
    RECEIPT = "receipt"
    """network and transaction → the payment that a seller claimed, or the chain proved, it settled"""
    TROUBLE = "trouble"
    """domain → payments in a row that were not delivered or not proven"""
    CUSTOMER = "customer"
    """domain → label of the wallet that it took money from last: who can sign in there"""
    PENDING = "pending"
    """approval or proposal id → what waits for a person"""
    APPROVAL = "approval"
    """approval id → Unix seconds until which it may be used, once"""
    FROZEN = "frozen"
    """"" → {by, reason, at}"""
    OVERRIDES = "overrides"
    """"" → the overrides in force"""
    SESSION = "session"
    """SHA-256 of a session's token → {id, label, caller, budget_usd_micros, expires_at}"""
    SESSION_PAYMENT = "session_payment"
    """session id "/" payment id → label of the session"""
    WALLET = "wallet"
    """label → {address, archived, created_at}"""
    DEFAULT_WALLET = "default-wallet"
    """"" → the label that pays, if an administrator chose one at run time"""
    KEK = "kek"
    """"" → {id, next}: which key-encryption key seals the wallets, and which one is about to"""
    BASE = "base"
    """"" → the policy of keyd.toml at the last start"""


type Fact = dict[str, Any]


def put(kind: Kind, key: str, value: Any) -> Fact:
    """A change for `data.facts`. `value` None removes the fact."""
    return {"key": key, "kind": kind.value, "value": value}


def get(db: sqlite3.Connection, kind: Kind, key: str) -> Any:
    """The value under (kind, key); None if there is none."""
    row = db.execute("SELECT value FROM facts WHERE kind = ? AND key = ?", (kind.value, key)).fetchone()
    return None if row is None else json.loads(row[0])


def every(db: sqlite3.Connection, kind: Kind) -> dict[str, Any]:
    """All facts of a kind, by key. For kinds that stay small: pending, approvals."""
    rows = db.execute("SELECT key, value FROM facts WHERE kind = ? ORDER BY key", (kind.value,))
    return {key: json.loads(value) for key, value in rows}


def under(db: sqlite3.Connection, kind: Kind, prefix: str) -> list[str]:
    """Keys of a kind that begin with `prefix`."""
    rows = db.execute(
        "SELECT key FROM facts WHERE kind = ? AND substr(key, 1, ?) = ?", (kind.value, len(prefix), prefix)
    )
    return [str(key) for (key,) in rows]


def receipt_key(network: str, transaction: str) -> str:
    """Key of a receipt: CAIP-2 network, and the transaction's hash in lower case."""
    return f"{network} {transaction.lower()}"


def price_prefix(domain: str) -> str:
    """What every `price_key` of a domain begins with."""
    return json.dumps([domain])[:-1] + ","


def price_key(domain: str, method: str, path: str) -> str:
    """Key of a pinned price. JSON keeps the three apart, whatever a path contains."""
    return json.dumps([domain, method, path])
