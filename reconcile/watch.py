"""Once in a pass: what is wrong with keyd, and was an administrator told? Read `watch` from the top."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import aiohttp
import structlog

from keyd.client import KeydClient, KeydProtocolError, KeydRefused, KeydUnreachable
from reconcile import state
from reconcile.alerts import (
    KEYD_UNREACHABLE,
    LEDGER_FAILURE,
    Alert,
    conditions,
    keyd_unreachable,
    ledger_failure,
)
from reconcile.config import ReconcileSettings
from reconcile.hook import deliver

STATE_FILE: Final = "alerts.json"
_LEDGER_UNAVAILABLE: Final = "ledger_unavailable"  # of keyd.reasons
_log = structlog.get_logger("reconcile.watch")


async def watch(settings: ReconcileSettings, keyd: KeydClient, session: aiohttp.ClientSession) -> bool:
    """Tells the hook of `settings.alerts` what it was not told before. False: it could not be told, or not noted.

    Told before noted: a crash in between tells twice, and never keeps silent.
    """
    if not settings.alerts.wanted:
        return True
    note = Path(settings.state_dir) / STATE_FILE
    told = _told(note)
    current, unknown = await _look(keyd)
    new = [alert for alert in current if alert.id not in told]
    if new and not await deliver(settings.alerts, _document(new), session):
        return False
    # What could not be looked at counts as lasting; what is over may be told again when it comes back.
    lasting = {alert.id for alert in current} | (
        told - {KEYD_UNREACHABLE, LEDGER_FAILURE} if unknown else set()
    )
    return lasting == told or state.write(note, {"told": sorted(lasting)})


async def _look(keyd: KeydClient) -> tuple[list[Alert], bool]:
    """What there is to tell; True if the rest is unknown, because keyd does not say."""
    try:
        return conditions(await keyd.policy(), await keyd.health()), False
    except KeydRefused as refused:
        if refused.refusal.code == _LEDGER_UNAVAILABLE:
            return [ledger_failure()], True
        _log.error("watch.refused", error=str(refused))
        return [], True
    except (KeydUnreachable, KeydProtocolError):
        return [keyd_unreachable()], True


def _document(alerts: Sequence[Alert]) -> bytes:
    """ASCII: whatever a seller wrote, no reader needs to know about encodings."""
    document = {
        "version": 1,
        "host": socket.gethostname(),
        "time": int(time.time()),
        "alerts": [alert.as_json() for alert in alerts],
    }
    return json.dumps(document, ensure_ascii=True).encode() + b"\n"


def _told(note: Path) -> set[str]:
    """Ids of what was told and lasts. A note that cannot be read makes everything be told again."""
    told = state.read(note).get("told")
    return set(map(str, told)) if isinstance(told, list) else set()
