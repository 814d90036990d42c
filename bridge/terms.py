"""Reads the terms of a 402, to have them quoted. Pure. Nothing is paid by what is read here.

Sources: x402 specs/transports-v2/http.md (PAYMENT-REQUIRED), specs/transports-v1/http.md (body). Egress has a reader of
its own, which pays; a test holds the two together.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

MAX_HEADER: Final = 128 * 1024
"""Bytes; as egress takes them."""
MAX_DEPTH: Final = 64
"""Containers within containers."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a seller asks for, as received."""

    version: Literal[1, 2]
    accepts: tuple[Any, ...]
    description: str | None = None
    """Of what is sold, in the seller's words."""
    dialect: Literal["x402", "flat"] = "x402"
    """`flat`: the one entry is osModa's `{amount, asset, chain, payTo, expiry}`."""


def read_terms(header_values: Sequence[str], body: bytes, *, flat_dialect: bool = False) -> Terms | None:
    """The terms of a 402: its PAYMENT-REQUIRED header, else its body. None if neither can be read.

    `flat_dialect`: the header may be osModa's flat form, as egress reads it with `x402.flat_dialect`.
    """
    if len(header_values) == 1:
        value = _decoded(header_values[0])
        if flat_dialect and _is_flat(value):
            return Terms(2, (value,), dialect="flat")
        if (found := _terms(value, default=2)) is not None:
            return found
    return _terms(loads(body), default=None)


def loads(text: str | bytes) -> Any:
    """JSON of bounded depth, without duplicate keys and non-finite numbers; None if it is something else."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return value if _fits(value, MAX_DEPTH) else None


def version_of(value: object, default: Literal[2] | None) -> Literal[1, 2] | None:
    """`x402Version`, if it is one of those that exist."""
    value = default if value is None else value
    if isinstance(value, bool):  # `True == 1` in Python
        return None
    return 1 if value == 1 else 2 if value == 2 else None


def _terms(value: object, *, default: Literal[2] | None) -> Terms | None:
    if not isinstance(value, dict):
        return None
    version, accepts = version_of(value.get("x402Version"), default), value.get("accepts")
    if version is None or not isinstance(accepts, list) or not accepts:
        return None
    resource = value.get("resource")
    source = resource if isinstance(resource, dict) else accepts[0] if isinstance(accepts[0], dict) else {}
    description = source.get("description")
    return Terms(version, tuple(accepts), description if isinstance(description, str) else None)


def _is_flat(value: object) -> bool:
    named = value.keys() if isinstance(value, dict) else frozenset()
    return not {"accepts", "x402Version"} & named and named >= {"amount", "asset", "chain", "payTo"}


def _decoded(value: str) -> Any:
    if len(value) > MAX_HEADER:
        return None
    compact = "".join(value.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return loads(base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True))
    except (binascii.Error, ValueError):
        return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate key")
    return members


def _refuse(name: str) -> None:
    raise ValueError(name)


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError("number out of range")
    return value


def _fits(value: object, depth: int) -> bool:
    if isinstance(value, str):
        return not any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, dict):
        return depth > 0 and all(_fits(k, depth - 1) and _fits(v, depth - 1) for k, v in value.items())
    if isinstance(value, list):
        return depth > 0 and all(_fits(entry, depth - 1) for entry in value)
    return True
