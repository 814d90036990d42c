"""Names whose servers are silent: only the caller that asks for them waits."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from mitmproxy.connection import Client, Server
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from egress.reach import lookups
from egress.reach.lookups import PER_CALLER, THREADS, Lookups
from tests.egress.conftest import RunEgress
from tests.egress.support.client import App
from tests.egress.support.upstream import Upstream


class Resolver:
    """Silent about every name but "quick.example", until `speak`; then there is no such name."""

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, str]] = []
        """For whom, and the name."""
        self.speak = asyncio.Event()

    async def getaddrinfo(self, host: str, port: int, **_: Any) -> Any:
        self.asked.append((lookups._caller.get(), host))
        if host == "quick.example":
            return [host]
        await self.speak.wait()
        raise OSError("no such name")


@pytest.fixture
async def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    resolver = Resolver()
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver.getaddrinfo)
    return resolver


async def look_up(looking: Lookups, caller: str, host: str) -> Any:
    client = Client(peername=(caller, 1), sockname=("127.0.0.1", 2))
    looking.server_connect(ServerConnectionHookData(Server(address=(host, 443)), client))
    return await asyncio.get_running_loop().getaddrinfo(host, 443)


async def some_rounds() -> None:
    """Of the event loop, more than a lookup takes to reach the resolver."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_caller_holds_a_few_threads_however_often_it_asks_and_hangs_up(resolver: Resolver) -> None:
    looking = Lookups(lambda client: str(client.peername[0]))
    looking.install(asyncio.get_running_loop())
    asking = [asyncio.create_task(look_up(looking, "10.0.0.1", f"slow{i}")) for i in range(3 * THREADS)]
    await some_rounds()
    for task in asking[:PER_CALLER]:
        task.cancel()
    await some_rounds()
    assert len(resolver.asked) == PER_CALLER < THREADS
    assert await look_up(looking, "10.0.0.2", "quick.example") == ["quick.example"]
    resolver.speak.set()
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(result) for result in results[:PER_CALLER]] == [asyncio.CancelledError] * PER_CALLER
    assert [str(result) for result in results[PER_CALLER:]] == ["no such name"] * (len(asking) - PER_CALLER)
    assert await look_up(looking, "10.0.0.1", "quick.example") == ["quick.example"]


async def test_egress_looks_names_up_for_whom_it_connects(run_egress: RunEgress, resolver: Resolver) -> None:
    resolver.speak.set()
    async with run_egress() as egress, App(egress.address, Upstream(80, "http"), host="a.example") as app:
        resolver.asked.clear()
        assert (await app.get()).status == 502
    assert resolver.asked == [(f"uid:{os.geteuid()}", "a.example")]
