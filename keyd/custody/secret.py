"""Bytes that cannot be printed, pickled or compared by accident."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """A key. `grep .reveal(` finds every place that uses one."""

    __slots__ = ("_bytes",)

    def __init__(self, value: bytes) -> None:
        self._bytes = value

    def reveal(self) -> bytes:
        return self._bytes

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._bytes, other._bytes)

    __hash__ = None  # type: ignore[assignment]  # a dict of secrets would be a place to look for them

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret does not leave the process")
