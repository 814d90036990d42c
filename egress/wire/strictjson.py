"""JSON from the network, read so that it means the same to everybody: bounded, no duplicate keys, no NaN."""

from __future__ import annotations

import json
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
    _check_text_and_numbers(value)
    _check_depth(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # With a duplicate key, seller, egress and keyd could each read another price from the same bytes.
    members = dict(pairs)
    if len(members) != len(pairs):
        raise JsonError("duplicate key")
    return members


def _refuse_constant(name: str) -> None:
    raise JsonError(f"{name} is not a JSON number")


def _check_text_and_numbers(value: Any) -> None:
    """By writing it again, which C does: a walk through millions of values would hold up everybody's traffic."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise JsonError("lone surrogate in a string") from None
    except ValueError:  # 1e999 reads as infinity
        raise JsonError("number out of range") from None
    except RecursionError:
        raise JsonError("nested too deeply") from None


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        inside = (outer.values() if type(outer) is dict else outer for outer in level)
        level = [
            inner for members in inside for inner in members if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return
    raise JsonError("nested too deeply")
