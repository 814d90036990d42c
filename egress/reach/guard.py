"""Where egress goes: not to private, loopback, link-local or metadata addresses, unless the admin says so, and
nowhere but to `allowed_domains`, if there are any.

The filter sits in the resolver call that the connecting code itself makes, so there is no second lookup that a
lying resolver could answer differently (DNS rebinding). Literal addresses never reach the resolver; they are
checked in the `server_connect` hook.
"""

from __future__ import annotations

import asyncio
import contextvars
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from mitmproxy import http
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from egress.reach.destinations import AllowedDomains, AllowedPrivate, covered, is_private, is_private_name
from keyd.reasons import Reason


@dataclass(frozen=True, slots=True)
class Refusal:
    """A destination that egress does not connect to."""

    reason: Reason
    mark: str
    """What its error text contains, and no other: mitmproxy hands an error on as text only."""
    advice: str

    def response(self) -> http.Response:
        """What the application gets; the reason header is added where all answers get it."""
        body = f"osmoda-egress: {self.advice}\n".encode()
        return http.Response.make(403, body, {"Content-Type": "text/plain; charset=utf-8"})


PRIVATE: Final = Refusal(
    Reason.DESTINATION_PRIVATE,
    "destination is private",
    "this host has a private address; `allow_private` in egress.toml permits it",
)
NOT_ALLOWED: Final = Refusal(
    Reason.DESTINATION_NOT_ALLOWED,
    "destination is not allowed",
    "this host is not in `allowed_domains` of egress.toml, and nothing else may be reached from here",
)
_REFUSALS: Final = (PRIVATE, NOT_ALLOWED)
REFUSED_HERE: Final = frozenset(refusal.reason for refusal in _REFUSALS)

_destination: contextvars.ContextVar[tuple[str, int] | None] = contextvars.ContextVar(
    "destination", default=None
)
"""(host, port) that the current task connects to for an application; None in all other tasks."""

type _AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]


class DestinationRefused(OSError):
    """Every address of the destination is private."""

    def __init__(self) -> None:
        super().__init__(PRIVATE.mark)


class Guard:
    """mitmproxy addon. Filters the destinations of all upstream connections of this process."""

    def __init__(
        self,
        allow_private: Iterable[AllowedPrivate],
        allowed_domains: AllowedDomains,
        *,
        behind_proxy: bool = False,
    ) -> None:
        """`behind_proxy`: names are looked up elsewhere, except those that `allow_private` covers."""
        self._allow_private = tuple(allow_private)
        self._allowed_domains = allowed_domains
        self._behind_proxy = behind_proxy

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Put the filter into `loop`'s resolver, which `asyncio.open_connection` uses."""
        resolve = loop.getaddrinfo

        async def getaddrinfo(host: Any, port: Any, **kwargs: Any) -> list[_AddressInfo]:
            found = await resolve(host, port, **kwargs)
            destination = _destination.get()
            return found if destination is None else self._permitted(destination, found)

        loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]

    def server_connect(self, data: ServerConnectionHookData) -> None:
        """Runs in the task that connects next, so the resolver sees what is set here."""
        if data.server.address is None:
            return
        host, port = data.server.address[0], data.server.address[1]
        proxied = self._behind_proxy and not self._allows(host, port)
        _destination.set(None if proxied else (host, port))
        if not self._allowed_domains.covers(host, port):
            data.server.error = NOT_ALLOWED.mark
        elif not self._allows(host, port) and _is_private_spelling(host, known_by_name_only=proxied):
            data.server.error = PRIVATE.mark

    def _permitted(self, destination: tuple[str, int], found: list[_AddressInfo]) -> list[_AddressInfo]:
        host, port = destination
        if self._allows(host, port):
            return found
        permitted = []
        for info in found:
            family, address = info[0], str(info[4][0])
            if family not in (socket.AF_INET, socket.AF_INET6):
                continue
            if not is_private(address) or self._allows(address, port):
                permitted.append(info)
        if not permitted:
            raise DestinationRefused
        return permitted

    def _allows(self, host: str, port: int) -> bool:
        return covered(self._allow_private, host, port)


def _is_private_spelling(host: str, *, known_by_name_only: bool) -> bool:
    try:
        return is_private(host)
    except ValueError:  # a name: the resolver decides, if it is ours
        return known_by_name_only and is_private_name(host)


def refusal_in(error: str | None) -> Refusal | None:
    """The refusal that `error`, the text of a failed connection, comes from."""
    return next((refusal for refusal in _REFUSALS if error and refusal.mark in error), None)
