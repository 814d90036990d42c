"""What JSON-RPC 2.0 carries: a call, and the error that answers one. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Call:
    method: str
    params: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class RpcError:
    """The server understood the call and refused it: an answer, not a fault."""

    code: int
    message: str
    """Printable, clipped, and without parts of the URL."""

    def __str__(self) -> str:
        return f"error {self.code}: {self.message}"
