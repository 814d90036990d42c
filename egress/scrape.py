"""Where Prometheus asks: `GET /metrics`, of one egress, or of all workers as one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
WORKER_LIMIT_S: Final = 2.0
"""Prometheus gives up after 10 s; a worker that takes longer than this is left out of the answer."""

_log = structlog.get_logger("egress")

type Exposition = Callable[[], Awaitable[bytes]]


@asynccontextmanager
async def answering(where: Path | socket.socket, exposition: Exposition) -> AsyncIterator[None]:
    """Answer `GET /metrics` on a Unix socket to be made, or on a bound TCP socket."""

    async def answer(request: web.Request) -> web.Response:
        if isinstance(where, socket.socket) and not _is_loopback(request.headers.get("Host", "")):
            return web.Response(status=403, text="osmoda-egress: ask for 127.0.0.1 or localhost\n")
        return web.Response(body=await exposition(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5)
    await runner.setup()
    try:
        if isinstance(where, Path):
            await web.UnixSite(runner, str(where)).start()
        else:
            await web.SockSite(runner, where).start()
            [(host, port, *_)] = runner.addresses
            _log.info("egress.metrics.ready", host=host, port=port)
        yield
    finally:
        await runner.cleanup()


def _is_loopback(host: str) -> bool:
    """What a Host field names. A web page may have a name that leads here (DNS rebinding); its browser would let it read
    what it gets, were it not for this."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


async def of_workers(sockets: Mapping[int, Path], own: Iterable[Metric]) -> bytes:
    """The figures of the workers behind `sockets`, each with a label `worker`, and `own` ones."""
    texts = await asyncio.gather(*(_ask(path) for path in sockets.values()))
    merged: dict[str, Metric] = {}
    for number, text in zip(sockets, texts, strict=True):
        for family in text_string_to_metric_families(text):
            into = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                into.samples.append(sample._replace(labels={**sample.labels, "worker": str(number)}))
    registry = CollectorRegistry()
    registry.register(_Given([*own, *merged.values()]))
    return generate_latest(registry)


async def _ask(path: Path) -> str:
    try:
        async with (
            asyncio.timeout(WORKER_LIMIT_S),
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
            session.get("http://worker/metrics") as answer,
        ):
            return await answer.text()
    except (TimeoutError, aiohttp.ClientError, OSError) as error:  # ended, or hangs: the others still count
        _log.warning("egress.metrics.worker_unanswered", error=str(error))
        return ""


class _Given(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> list[Metric]:
        return self._families
