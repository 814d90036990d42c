"""The record: a hash-chained, append-only log. Standard library only."""

from ledger.chain import Head
from ledger.entry import Entry
from ledger.errors import EntryRefused, LedgerError, LedgerUnavailable
from ledger.log import Ledger
from ledger.transaction import Transaction

__all__ = ["Entry", "EntryRefused", "Head", "Ledger", "LedgerError", "LedgerUnavailable", "Transaction"]
