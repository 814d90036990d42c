"""The policy in force: keyd.toml, and on top of it what the record says was changed at run time."""

from __future__ import annotations

import sqlite3

from keyd.core.overrides import Document, Limits, Overrides, apply
from keyd.core.policy import Policy
from keyd.record import facts
from keyd.record.facts import Kind


class Policies:
    """Base and overrides. The overrides are read from the ledger each time, so no copy of them can be stale."""

    def __init__(self, base: Policy, *, limits: Limits | None = None, enforce: bool = True) -> None:
        self.base = base
        self.limits = limits or Limits()
        self.enforce = enforce
        """False: overrides are tried out only; the base decides, and the record says what they would refuse."""
        self._applied: tuple[Policy, Document, Policy] | None = None

    def overrides(self, db: sqlite3.Connection) -> Overrides:
        return Overrides.from_document(facts.get(db, Kind.OVERRIDES, "") or {})

    def in_force(self, db: sqlite3.Connection) -> Policy:
        """Base and overrides together, as the transaction of `db` sees them."""
        document = facts.get(db, Kind.OVERRIDES, "") or {}
        applied = self._applied  # once: a thread that looks at an older moment may replace it meanwhile
        if applied is None or applied[:2] != (self.base, document):
            applied = (self.base, document, apply(self.base, Overrides.from_document(document)))
            self._applied = applied
        return applied[2]

    def governing(self, db: sqlite3.Connection) -> Policy:
        """The policy that decides: the one in force, or the base alone while overrides are only tried out."""
        return self.in_force(db) if self.enforce else self.base
