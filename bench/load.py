"""Load held: paid and free requests at a steady rate, and afterwards the books of both sides.

The rate is kept by the clock, not by the answers: a proxy that falls behind is asked all the same, and its answers come
late. The seller checks every signature and every nonce. It and the program that asks share the machine with what is
measured, so both are plain asyncio.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from bench.books import Books, compare_books
from bench.harness import Bound, Result, Stage, Summary, at_least, at_most, summary
from bench.process import descriptors, resident_mb
from bench.stack import egress_for, keyd_with_wallet, seller

PAID_PER_S = 50
FREE_PER_S = 200
TIMEOUT_S = 30.0
WATCH_EVERY_S = 1.0
SETTLED_IN = 0.2
"""The part of the run after which memory and descriptors should have stopped growing."""
MAX_GROWTH_MB = 8.0
"""From then on, over the whole rest of the run: allocators move by some megabytes, a leak does not stop there."""
CLOSED_IN_S = 20.0
"""After the load: egress keeps idle connections to keyd for 15 s."""
MAX_DESCRIPTORS_LEFT = 5


def comparisons(stage: Stage) -> Iterator[Result]:
    with (
        seller(stage.folder) as api,
        keyd_with_wallet(stage.folder, allowed_domains=[api]) as keyd,
        egress_for(keyd) as egress,
    ):
        watched = {"egress": Watched(egress.program.pid), "keyd": Watched(keyd.program.pid)}
        load = Load(api, egress.url)
        asyncio.run(_hold(load, watched, stage.duration_s))
        time.sleep(CLOSED_IN_S)
        yield from _answers(load, stage.duration_s)
        for name, process in watched.items():
            yield from process.results(name)
        yield from _drift(asyncio.run(compare_books(api, keyd.socket)))


@dataclass
class Load:
    """What was asked, and how it was answered. Times in milliseconds."""

    api: str
    proxy: str
    paid_ms: list[float] = field(default_factory=list)
    free_ms: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    async def ask(self, application: Application, path: str, taken: list[float]) -> None:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                head = await application.get(self.api + path)
        except (OSError, EOFError, TimeoutError) as error:
            self.errors.append(f"{path}: {type(error).__name__}: {error}")
            return
        if not head.startswith("HTTP/1.1 200 "):
            self.errors.append(f"{path}: {head}")
            return
        taken.append((time.perf_counter() - began) * 1e3)

    async def at_rate(
        self,
        application: Application,
        paths: Iterator[str],
        per_s: int,
        until: float,
        taken: list[float],
    ) -> None:
        asking: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while (now := time.monotonic()) < until:
            while due <= now:
                task = asyncio.create_task(self.ask(application, next(paths), taken))
                asking.add(task)
                task.add_done_callback(asking.discard)
                due += 1 / per_s
            await asyncio.sleep(due - now)
        await asyncio.gather(*asking)


class Application:
    """Asks through a proxy, on as many keep-alive connections as it has questions at the same time."""

    def __init__(self, proxy: str) -> None:
        host, port = proxy.removeprefix("http://").split(":")
        self._proxy = (host, int(port))
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def get(self, url: str) -> str:
        """The head of the answer, once it is complete. Raises OSError, EOFError."""
        connection = self._idle.pop() if self._idle else await asyncio.open_connection(*self._proxy)
        reader, writer = connection
        host = url.split("/", 3)[2]
        writer.write(f"GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        await reader.readexactly(int(head.lower().partition("content-length:")[2].split(None, 1)[0]))
        self._idle.append(connection)
        return head

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


class Watched:
    """Memory of a process, second by second, and its descriptors before and after. It still runs for `results`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._megabytes: list[float] = []
        self._descriptors_before = descriptors(pid)

    def look(self) -> None:
        self._megabytes.append(resident_mb(self._pid))

    def results(self, name: str) -> Iterator[Result]:
        settled = int(len(self._megabytes) * SETTLED_IN)
        megabytes = summary(self._megabytes)
        yield _figure(f"resident memory of {name}", "MB", megabytes)
        grown_mb = _mean(self._megabytes[-settled:]) - _mean(self._megabytes[settled : 2 * settled])
        yield _figure(f"growth of {name} once settled", "MB", _one(grown_mb), at_most(MAX_GROWTH_MB))
        left = descriptors(self._pid) - self._descriptors_before
        yield _figure(
            f"descriptors left in {name} {CLOSED_IN_S:.0f} s later",
            "",
            _one(left),
            at_most(MAX_DESCRIPTORS_LEFT),
        )


async def _hold(load: Load, watched: dict[str, Watched], duration_s: float) -> None:
    until = time.monotonic() + duration_s
    items = (f"/item/{number}" for number in itertools.count())
    application = Application(load.proxy)
    watching = asyncio.create_task(_watch(watched))
    await asyncio.gather(
        load.at_rate(application, items, PAID_PER_S, until, load.paid_ms),
        load.at_rate(application, itertools.repeat("/free"), FREE_PER_S, until, load.free_ms),
    )
    watching.cancel()
    application.close()


async def _watch(watched: dict[str, Watched]) -> None:
    while True:
        for process in watched.values():
            process.look()
        await asyncio.sleep(WATCH_EVERY_S)


def _answers(load: Load, duration_s: float) -> Iterator[Result]:
    for error in load.errors[:10]:
        print(f"  error: {error}", flush=True)
    answered = _figure(
        f"{PAID_PER_S} paid requests/s held",
        "answered/s",
        _one(len(load.paid_ms) / duration_s),
        at_least(PAID_PER_S * 0.99),
        more_is_better=True,
    )
    # Beside the name of the row: runs of different length are compared by that.
    yield replace(answered, ours=f"{answered.ours} for {duration_s:.0f} s")
    yield _figure("errors", "", _one(len(load.errors)), at_most(0))
    yield _figure("paid request", "ms", summary(load.paid_ms))
    yield _figure(f"free request, {FREE_PER_S}/s beside them", "ms", summary(load.free_ms))


def _drift(books: Books) -> Iterator[Result]:
    yield _figure("payments in the seller's books", "", _one(books.sold))
    for name, drift in books.drifts().items():
        yield _figure(f"drift: {name}", "", _one(drift), at_most(0))


def _figure(
    name: str, unit: str, figures: Summary, target: Bound | None = None, *, more_is_better: bool = False
) -> Result:
    return Result(name, unit, more_is_better, "osmoda-x402", figures, target)


def _one(value: float) -> Summary:
    return Summary(value, value, value, value, 1)


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)
