"""What can go wrong with a ledger, by whose fault it is."""

from __future__ import annotations


class LedgerError(Exception):
    """A ledger cannot be used. `hint` is the way out, in one sentence, for the operator."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class LedgerUnavailable(LedgerError):
    """Nothing was recorded, because the disk or the database failed. A later attempt may succeed."""


class EntryRefused(LedgerError):
    """The entry itself cannot be recorded (the caller's fault); nothing was written."""


class CanonicalError(EntryRefused):
    """A value that has no canonical form in a ledger: a float, a lone surrogate, an integer beyond 2^53-1."""


class NoteRefused(LedgerError):
    """Not a signed head, or not one of the key in question."""
