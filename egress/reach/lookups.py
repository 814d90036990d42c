"""Looking up names, so that one caller's slow names hold up no other's.

The resolver blocks a thread for as long as a name server is silent, half a minute and more, and there are only so many.
A program that asks for names whose servers are silent, by design or by accident, may hold some of them, never all.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final
from weakref import WeakValueDictionary

from mitmproxy.connection import Client
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

THREADS: Final = 32
PER_CALLER: Final = 8
"""Lookups of one caller at a time: an ordinary one takes milliseconds, and a client remembers its connections."""

_caller: contextvars.ContextVar[str | None] = contextvars.ContextVar("caller", default=None)
"""For whom the current task connects; None in tasks that connect for egress itself."""


class LookupThreads(ThreadPoolExecutor):
    """Threads for an event loop's lookups, which cannot be interrupted: who stops does not wait for them."""

    def __init__(self) -> None:
        super().__init__(THREADS, "lookup")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)


class Lookups:
    """mitmproxy addon. Behind `Identity`, which knows whom a connection belongs to."""

    def __init__(self, owner: Callable[[Client], str]) -> None:
        self._owner = owner
        self._places: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Put it in front of `loop`'s resolver, which `asyncio.open_connection` uses."""
        resolve = loop.getaddrinfo

        async def getaddrinfo(host: Any, port: Any, **kwargs: Any) -> Any:
            if (caller := _caller.get()) is None:
                return await resolve(host, port, **kwargs)
            places = self._places.setdefault(caller, asyncio.Semaphore(PER_CALLER))
            await places.acquire()
            lookup = asyncio.ensure_future(resolve(host, port, **kwargs))
            lookup.add_done_callback(partial(_give_back, places))
            # Who waits may hang up. The thread goes on, and so does its place: hanging up must not buy another one.
            return await asyncio.shield(lookup)

        loop.getaddrinfo = getaddrinfo  # type: ignore[method-assign]

    def server_connect(self, data: ServerConnectionHookData) -> None:
        """Runs in the task that connects next."""
        _caller.set(self._owner(data.client))


def _give_back(places: asyncio.Semaphore, lookup: asyncio.Future[Any]) -> None:
    places.release()
    if not lookup.cancelled():
        lookup.exception()  # whoever asked may not be there to hear it
