"""egress as a proxy for what is not paid: latency, CPU, throughput, memory, tunnels, start."""

from __future__ import annotations

import ssl
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from bench.client import Client, Route, answered_per_s, latencies_s
from bench.harness import Comparison, Contender, Peer, Stage, at_least, at_most
from bench.process import cpu_s, peak_mb, resident_mb
from bench.proxies import (
    Authority,
    Running,
    egress,
    egress_program,
    make_authority,
    mitmdump,
    origin,
    quick_origin,
    tinyproxy,
)

REQUESTS = 1500
"""In a round: a second or more, so that a clock tick of CPU time (10 ms) is below one percent."""
LARGE = 500_000_000
HANDSHAKES = 50
WORKERS_S = 2.0
TARGET = at_most(0.55)

type Ports = dict[str, int]
"""Scheme → port of its origin."""


def comparisons(stage: Stage) -> Iterator[Comparison]:
    authority = make_authority(stage.folder)
    ports = {"http": origin(stage), "https": origin(stage, authority)}
    ours, theirs = egress(stage, authority), mitmdump(stage, authority)
    for scheme in ("http", "https"):
        for clients in (1, 16):
            yield from _pass_through(ours, theirs, ports, scheme, clients)
    yield from _tunnels(stage, authority, ports["https"])
    yield from _large(ours, theirs, ports["https"])
    yield _workers(stage, authority)
    yield from _start(stage, authority)


def _pass_through(
    ours: Running, theirs: Running, ports: Ports, scheme: str, clients: int
) -> Iterator[Comparison]:
    what = f"{scheme}, keep-alive, {clients} client{'s' if clients > 1 else ''}"

    def compare(name: str, unit: str, figure: Callable[[Running, Route, int], float]) -> Comparison:
        contenders = [
            Contender(proxy.name, partial(_once, figure, proxy, ports[scheme], scheme, clients))
            for proxy in (ours, theirs)
        ]
        return Comparison(f"{name}, {what}", unit, contenders[0], [Peer(contenders[1], TARGET)])

    yield compare("added latency (p50)", "ms", _added_ms)
    yield compare("CPU for a request", "ms", _cpu_ms)


def _once(
    figure: Callable[[Running, Route, int], float], proxy: Running, port: int, scheme: str, clients: int
) -> Sequence[float]:
    return [figure(proxy, proxy.route(port, tls=scheme == "https"), clients)]


def _added_ms(_: Running, route: Route, clients: int) -> float:
    direct = latencies_s(_directly(route), clients, REQUESTS)
    return (statistics.median(latencies_s(route, clients, REQUESTS)) - statistics.median(direct)) * 1e3


def _directly(route: Route) -> Route:
    if route.tls is None:
        return Route(route.port)
    insecure = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    insecure.check_hostname, insecure.verify_mode = False, ssl.CERT_NONE
    return Route(route.port, insecure)


def _cpu_ms(proxy: Running, route: Route, clients: int) -> float:
    before = cpu_s(proxy.pid)
    count = len(latencies_s(route, clients, REQUESTS))
    return (cpu_s(proxy.pid) - before) / count * 1e3


def _tunnels(stage: Stage, authority: Authority, port: int) -> Iterator[Comparison]:
    ours = egress(stage, authority, intercept=False)
    peers = [mitmdump(stage, authority, intercept=False)]
    if (tiny := tinyproxy(stage, authority)) is not None:
        peers.append(tiny)

    def contender(proxy: Running, sample: Callable[[Route], Sequence[float]]) -> Contender:
        return Contender(proxy.name, partial(sample, proxy.route(port, tls=True)))

    for name, unit, sample in (
        ("tunnel: new connection with TLS and a request", "ms", _new_connections_ms),
        (f"tunnel: download of {LARGE // 1_000_000} MB", "s", _download_s),
    ):
        judged = [
            Peer(contender(peers[0], sample), at_most(1)),
            *(Peer(contender(p, sample)) for p in peers[1:]),
        ]
        yield Comparison(name, unit, contender(ours, sample), judged)


def _new_connections_ms(route: Route) -> list[float]:
    taken = []
    for _ in range(HANDSHAKES):
        began = time.perf_counter()
        with Client(route) as client:
            client.get()
        taken.append((time.perf_counter() - began) * 1e3)
    return taken


def _download_s(route: Route) -> list[float]:
    with Client(route) as client:
        began = time.perf_counter()
        client.download(LARGE)
        return [time.perf_counter() - began]


def _upload_s(route: Route) -> list[float]:
    with Client(route) as client:
        began = time.perf_counter()
        client.upload(LARGE)
        return [time.perf_counter() - began]


def _large(ours: Running, theirs: Running, port: int) -> Iterator[Comparison]:
    for name, sample in (("download", _download_s), ("upload", _upload_s)):
        contenders = [Contender(p.name, partial(sample, p.route(port, tls=True))) for p in (ours, theirs)]
        yield Comparison(
            f"{name} of {LARGE // 1_000_000} MB over https, intercepted",
            "s",
            contenders[0],
            [Peer(contenders[1], at_most(1))],
            rounds=3,
        )
    yield Comparison(
        "memory at its peak, after all of these",
        "MB",
        Contender(ours.name, lambda: [peak_mb(ours.pid)]),
        [Peer(Contender(theirs.name, lambda: [peak_mb(theirs.pid)]))],
        target=at_most(100),
        rounds=1,
    )


def _workers(stage: Stage, authority: Authority) -> Comparison:
    """Client and origin need some of the same cores, so both are as light as Python has them."""
    port = quick_origin(stage)
    one, two = (egress(stage, authority, intercept=False, workers=workers) for workers in (1, 2))

    def per_second(proxy: Running) -> Sequence[float]:
        return [answered_per_s(proxy.route(port, tls=False), 16, WORKERS_S)]

    return Comparison(
        "http, keep-alive, 16 clients, two workers",
        "requests/s",
        Contender("2 workers", partial(per_second, two)),
        [Peer(Contender("1 worker", partial(per_second, one)), at_least(1.6))],
        more_is_better=True,
    )


def _start(stage: Stage, authority: Authority) -> Iterator[Comparison]:
    """With an authority that exists: the first start ever makes one, which takes longer."""
    program = egress_program(stage, authority, "started")

    def seconds() -> Sequence[float]:
        began = time.perf_counter()
        program.start()
        taken = time.perf_counter() - began
        program.stop()
        return [taken]

    def resident() -> Sequence[float]:
        program.start()
        resident = resident_mb(program.program.pid)
        program.stop()
        return [resident]

    yield Comparison("start until ready", "s", Contender("egress", seconds), target=at_most(1.5))
    yield Comparison("memory when ready", "MB", Contender("egress", resident), target=at_most(90))
