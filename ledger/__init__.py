"""The record: a hash-chained, append-only log. Standard library only."""
