"""One paid request from end to end: an ordinary client through egress and keyd, beside the SDK inside the program."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator

import httpx

from bench.harness import Comparison, Contender, Peer, Stage, at_most
from bench.stack import egress_for, keyd_with_wallet, sdk, sdk_versions, seller

REQUESTS = 100
"""In a round. Each is another resource, so that each is another payment."""

versions = sdk_versions


def comparisons(stage: Stage) -> Iterator[Comparison]:
    with (
        seller(stage.folder) as api,
        keyd_with_wallet(stage.folder, allowed_domains=[api]) as keyd,
        egress_for(keyd) as egress,
        sdk() as peer,
        Buyer(egress.url) as buyer,
    ):
        url = f"{api}/item"
        yield Comparison(
            "one paid request, 402 and all",
            "ms",
            Contender("httpx through egress and keyd", lambda: buyer.pay(url, REQUESTS)),
            [
                Peer(
                    Contender("SDK's httpx client", lambda: peer.figures({"pay": url, "n": REQUESTS})),
                    at_most(1.0),
                )
            ],
        )


class Buyer:
    """An httpx client that knows of nothing but a proxy; it keeps its connections, as the SDK's does."""

    def __init__(self, proxy: str) -> None:
        self._runner = asyncio.Runner()
        self._http = httpx.AsyncClient(proxy=proxy, timeout=30)
        # The SDK's worker counts from 1 as well: resources, and so fingerprints, of the two must differ.
        self._numbers = itertools.count(1_000_000)

    def pay(self, url: str, count: int) -> list[float]:
        return self._runner.run(self._pay(url, count))

    async def _pay(self, url: str, count: int) -> list[float]:
        taken = []
        for number in itertools.islice(self._numbers, count):
            began = time.perf_counter()
            response = await self._http.get(f"{url}/{number}")
            taken.append((time.perf_counter() - began) * 1e3)
            if response.status_code != 200:
                raise RuntimeError(f"{response.status_code}: {response.headers.get('X-402-Egress')}")
        return taken

    def __enter__(self) -> Buyer:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._http.aclose())
        self._runner.close()
