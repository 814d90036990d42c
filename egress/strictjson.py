"""JSON from the network, read so that it means the same to everybody: bounded, no duplicate keys, no NaN."""

from __future__ import annotations

import json
import math
from typing import Any, Final

MAX_DEPTH: Final = 64
"""Containers within containers. A bazaar schema nests about fifteen deep; a parser bomb nests thousands."""


class JsonError(ValueError):
    """Not JSON that egress is willing to read. The text names the fault, never the content."""


def loads(text: str | bytes) -> Any:
    """Parse `text` (bytes must be UTF-8). Raises JsonError, and nothing else, whatever the input."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except JsonError:
        raise
    except RecursionError:
        raise JsonError("nested too deeply") from None
    except ValueError:  # JSONDecodeError, UnicodeDecodeError, an integer of thousands of digits
        raise JsonError("not valid JSON") from None
    _check(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # With a duplicate key, seller, egress and keyd could each read another price from the same bytes.
    members = dict(pairs)
    if len(members) != len(pairs):
        raise JsonError("duplicate key")
    return members


def _refuse_constant(name: str) -> None:
    raise JsonError(f"{name} is not a JSON number")


def _check(root: Any) -> None:
    """Depth, finite numbers, and strings that exist in Unicode (a lone surrogate cannot be sent on)."""
    pending: list[tuple[Any, int]] = [(root, 1)]
    while pending:
        value, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise JsonError("nested too deeply")
        if isinstance(value, dict):
            pending.extend((key, depth) for key in value)
            pending.extend((member, depth + 1) for member in value.values())
        elif isinstance(value, list):
            pending.extend((member, depth + 1) for member in value)
        elif isinstance(value, float) and not math.isfinite(value):  # 1e999 reads as infinity
            raise JsonError("number out of range")
        elif isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
            raise JsonError("lone surrogate in a string")
