"""Structured logs on stderr: one JSON object a line. RPC servers are named by host only."""

from __future__ import annotations

import logging

from keyd import jsonlog


def configure() -> None:
    jsonlog.configure()
    # aiohttp's and asyncio's own records may quote URLs, and those carry the keys of RPC providers.
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
