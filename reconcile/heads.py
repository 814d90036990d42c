"""Hands the newest signed head of the ledger to whoever keeps it elsewhere.

Whoever has a head can tell later whether the ledger was cut off or rewritten (docs/ledger-format.md). The machine that keeps
the ledger cannot be the one that keeps the heads.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Final

import aiohttp
import structlog

from keyd.client import KeydClient, KeydProtocolError, KeydRefused, KeydUnreachable
from reconcile import state
from reconcile.config import ReconcileSettings
from reconcile.hook import deliver

STATE_FILE: Final = "heads.json"
_log = structlog.get_logger("reconcile.heads")


async def hand_on_head(settings: ReconcileSettings, keyd: KeydClient, session: aiohttp.ClientSession) -> bool:
    """Gives the newest signed head to the hook of `settings.heads`, once. False: it was not taken, or not noted."""
    if not settings.heads.wanted:
        return True
    try:
        head = await keyd.ledger_head()
    except (KeydRefused, KeydProtocolError, KeydUnreachable) as error:
        _log.error("heads.unknown", error=type(error).__name__)
        return False
    note = Path(settings.state_dir) / STATE_FILE
    if head.note is None or state.read(note).get("handed_on") == head.note:
        return True
    document = {"version": 1, "host": socket.gethostname(), "key": head.key, "note": head.note}
    if not await deliver(settings.heads, json.dumps(document).encode() + b"\n", session):
        return False
    _log.info("heads.handed_on", entries=head.note.split("\n")[1][:20])
    return state.write(note, {"handed_on": head.note})
