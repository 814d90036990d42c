"""Small notes in the reconciler's state folder: what was told, what was handed on. No payment depends on them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import structlog

_log = structlog.get_logger("reconcile.state")


def read(path: Path) -> dict[str, Any]:
    """Empty if there is none. One that cannot be read counts as none: rather twice than never."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _log.warning("state.unreadable", file=str(path), error=type(error).__name__)
        return {}
    return document if isinstance(document, dict) else {}


def write(path: Path, document: dict[str, Any]) -> bool:
    """At once, so that a crash leaves the old one. False if it cannot be written."""
    temporary = path.with_suffix(".new")
    try:
        temporary.write_text(json.dumps(document), "utf-8")
        os.replace(temporary, path)
    except OSError as error:
        _log.error("state.unwritable", file=str(path), error=error.strerror)
        return False
    return True
