"""What sellers asked for the last times, so that the next request can bring the payment along (ADR 0013).

Only a memory: where prepaying is allowed at all, and whether these terms are still those that were paid before, keyd
decides for each payment. It forgets at the first surprise, and then the seller has to ask again.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mitmproxy import http

from egress.reach.destinations import origin_of
from egress.wire.x402 import PaymentRequired
from keyd.api import Origin

MAX_REMEMBERED: Final = 512
"""Requests whose terms are kept, those that were used last."""
MAX_TERMS: Final = 16 * 1024
"""Bytes of terms that are kept, extensions and target included; ordinary ones take 1 KB. With MAX_REMEMBERED this
bounds the memory at 8 MiB of JSON."""
FRESH_S: Final = 600.0
"""How long after its last confirmation a price is worth a guess."""

_PERSONAL: Final = ("Authorization", "Cookie")
"""Whoever shows who he is may have been let in, or have paid, already."""
_CONDITIONAL: Final = (
    *("If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range"),
)
"""The answer may be 304, which is free."""

type _Key = tuple[str, Origin, str]


@dataclass(slots=True)
class _Remembered:
    required: PaymentRequired
    times: int
    until: float


class Prepayments:
    """Terms of 402s by method, origin and target (path with query)."""

    def __init__(
        self, after: Callable[[Origin, str], int | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`after`: how many 402s in a row keyd's policy wants for an origin and method; None: it permits none."""
        self._after = after
        self._clock = clock
        self._remembered: OrderedDict[_Key, _Remembered] = OrderedDict()

    def asked(self, request: http.Request, origin: Origin, required: PaymentRequired) -> None:
        """A seller has answered `request` with these terms, and keyd has signed a payment for them."""
        if self._after(origin, request.method) is None or not _is_plain(request):
            return
        if required.dialect != "x402" or _size(request, required) > MAX_TERMS:
            return
        key = (request.method, origin, request.path)
        known = self._remembered.pop(key, None)
        times = known.times + 1 if known is not None and known.required == required else 1
        self._remembered[key] = _Remembered(required, times, self._clock() + FRESH_S)
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    def expected(self, request: http.Request) -> PaymentRequired | None:
        """The terms that the answer to `request` will bring, if that is as good as certain."""
        if not self._remembered or (key := _key(request)) is None or not _is_plain(request):
            return None
        known, after = self._remembered.get(key), self._after(key[1], request.method)
        if known is None or after is None or known.times < after or self._clock() >= known.until:
            return None
        return known.required

    def confirm(self, request: http.Request) -> None:
        """A prepaid request was answered, and its receipt says that the payment was taken."""
        if (key := _key(request)) in self._remembered and key is not None:
            self._remembered[key].until = self._clock() + FRESH_S
            self._remembered.move_to_end(key)

    def forget(self, request: http.Request) -> None:
        """Anything else has come of a prepaid request, or keyd said no: the seller has to ask again."""
        if (key := _key(request)) is not None:
            self._remembered.pop(key, None)


def _key(request: http.Request) -> _Key | None:
    if request.scheme not in ("http", "https"):
        return None
    origin = origin_of("https" if request.scheme == "https" else "http", request.host, request.port)
    return None if origin is None else (request.method, origin, request.path)


def _size(request: http.Request, required: PaymentRequired) -> int:
    said = (required.accepts, required.resource, required.extensions, required.error)
    return len(json.dumps(said)) + len(request.path)


def _is_plain(request: http.Request) -> bool:
    return not any(name in request.headers for name in (*_PERSONAL, *_CONDITIONAL))
