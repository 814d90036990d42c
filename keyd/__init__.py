"""The daemon that holds the keys: it decides, records and signs, and has no network."""
