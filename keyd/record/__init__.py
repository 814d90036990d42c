"""Reads and writes of the ledger: what was paid, what waits, what is in force. Inside its transactions."""
