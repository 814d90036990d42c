"""One paid request from end to end: an ordinary client through egress and keyd, beside the SDK inside the program.

And what prepayment saves of it, where the same is bought again and again.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import urllib.request
from collections.abc import Iterable, Iterator

import httpx

from bench.harness import Bound, Comparison, Contender, Peer, Stage, at_most
from bench.stack import egress_for, keyd_with_wallet, sdk, sdk_versions, seller

REQUESTS = 100
"""In a round. Each is another resource, so that each is another payment."""
AFTER = 3
"""Equal 402s before the first prepaid request."""
AWAY_MS = 20.0
"""What prepayment saves is a round trip, and on loopback there is none: so far away is a host of the same region."""
REQUESTS_AWAY = 30

versions = sdk_versions


def comparisons(stage: Stage) -> Iterator[Comparison]:
    yield from _one_request(stage)
    yield from _prepaid(stage, f"seller {AWAY_MS:g} ms away", AWAY_MS, REQUESTS_AWAY, at_most(0.6))
    yield from _prepaid(stage, "seller on loopback", 0, REQUESTS, None)


def _one_request(stage: Stage) -> Iterator[Comparison]:
    with (
        seller(stage.folder) as api,
        keyd_with_wallet(stage.folder / "one", allowed_domains=[api]) as keyd,
        egress_for(keyd) as egress,
        sdk(coincurve=False) as as_installed,
        sdk() as with_coincurve,
        Buyer(egress.url) as buyer,
    ):
        url = f"{api}/item"
        question = {"pay": url, "n": REQUESTS}
        yield Comparison(
            "one paid request, 402 and all",
            "ms",
            Contender("httpx through egress and keyd", lambda: buyer.pay(url, REQUESTS)),
            [
                Peer(
                    Contender("SDK's httpx client, as installed", lambda: as_installed.figures(question)),
                    at_most(1.0),
                ),
                Peer(Contender("SDK's httpx client and coincurve", lambda: with_coincurve.figures(question))),
            ],
        )


def _prepaid(
    stage: Stage, where: str, away_ms: float, requests: int, target: Bound | None
) -> Iterator[Comparison]:
    """Two sellers alike; keyd's policy permits prepayment for one of them. Raises RuntimeError if it did not happen."""
    with (
        seller(stage.folder, f"known-{away_ms:g}", away_ms=away_ms) as known,
        seller(stage.folder, f"asking-{away_ms:g}", away_ms=away_ms) as asking,
        keyd_with_wallet(
            stage.folder / f"prepaid-{away_ms:g}",
            allowed_domains=[known, asking],
            prepay=[{"domain": known, "methods": ["GET"], "after": AFTER}],
        ) as keyd,
        egress_for(keyd) as egress,
        Buyer(egress.url) as buyer,
    ):
        yield Comparison(
            f"the same bought again and again, {where}",
            "ms",
            Contender("prepaid", lambda: buyer.pay_again(f"{known}/weather", requests)),
            [
                Peer(
                    Contender("402 each time", lambda: buyer.pay_again(f"{asking}/weather", requests)),
                    target,
                )
            ],
        )
        if (asked := _times_asked(known)) != AFTER:
            raise RuntimeError(f"of prepaid requests {asked} were answered with 402, not {AFTER}")


def _times_asked(api: str) -> int:
    with urllib.request.urlopen(f"{api}/asked") as answer:  # noqa: S310 - a seller of ours
        return int(answer.read())


class Buyer:
    """An httpx client that knows of nothing but a proxy; it keeps its connections, as the SDK's does."""

    def __init__(self, proxy: str) -> None:
        self._runner = asyncio.Runner()
        self._http = httpx.AsyncClient(proxy=proxy, timeout=30)
        self._numbers = itertools.count()

    def pay(self, url: str, count: int) -> list[float]:
        """Milliseconds of each of `count` requests, none of which was made before."""
        return self._pay(f"{url}/{number}" for number in itertools.islice(self._numbers, count))

    def pay_again(self, url: str, count: int) -> list[float]:
        """Milliseconds of each of `count` requests to one URL."""
        return self._pay(itertools.repeat(url, count))

    def _pay(self, urls: Iterable[str]) -> list[float]:
        return self._runner.run(self._ask(urls))

    async def _ask(self, urls: Iterable[str]) -> list[float]:
        taken = []
        for url in urls:
            began = time.perf_counter()
            response = await self._http.get(url)
            taken.append((time.perf_counter() - began) * 1e3)
            if response.status_code != 200:
                raise RuntimeError(f"{response.status_code}: {response.headers.get('X-402-Egress')}")
        return taken

    def __enter__(self) -> Buyer:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._http.aclose())
        self._runner.close()
