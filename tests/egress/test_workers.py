"""Several workers on one socket: they start and stop as one, and one that dies takes nothing of the others with it."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from egress.callers.netlink import socket_owner
from tests.egress.conftest import RunEgress, WriteConfig
from tests.egress.support.client import App
from tests.egress.support.keyd import FakeKeyd
from tests.egress.support.manager import Manager
from tests.egress.support.process import EgressProcess, egress_process
from tests.egress.support.upstream import Connection, Upstream, selling, serving
from tests.egress.support.wire import paid_answer, payment_required, response

SELLER = selling(lambda _: paid_answer(), lambda _: payment_required())
FREE = selling(lambda _: b"", lambda _: response(200, {}, b"free"))


@asynccontextmanager
async def workers(config: Path, **environment: str) -> AsyncIterator[tuple[EgressProcess, list[int]]]:
    """egress with its workers, all of them ready, and their process ids."""
    async with egress_process(config, until_ready=False, environment=environment) as egress:
        ready = await egress.event("egress.workers.ready")
        egress.address = (ready["host"], ready["port"])
        yield egress, ready["pids"]


class Halves:
    """Each answer comes in two halves; the second when `more` is set."""

    def __init__(self) -> None:
        self.more = asyncio.Event()

    async def __call__(self, connection: Connection) -> None:
        await connection.request()
        await connection.send(response(200, {"Content-Length": "8"}, length=False) + b"half")
        await self.more.wait()
        await connection.send(b"rest")


def worker_of(app: App, pids: list[int]) -> int:
    """Which of `pids` has accepted the application's connection."""
    here, there = app.writer.get_extra_info("sockname"), app.writer.get_extra_info("peername")
    owner = socket_owner(there, here)
    assert owner is not None
    held = {
        pid: [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()] for pid in pids
    }
    (pid,) = [pid for pid, links in held.items() if f"socket:[{owner.inode}]" in links]
    return pid


async def begun(stack: AsyncExitStack, egress: EgressProcess, upstream: Upstream) -> App:
    """An application that has got the first half of its answer."""
    app = await stack.enter_async_context(App(egress.address, upstream))
    await app.send()
    await app.answer(head_only=True)
    assert await app.reader.readexactly(4) == b"half"
    return app


async def streams_of_both(
    stack: AsyncExitStack, egress: EgressProcess, upstream: Upstream, pids: list[int]
) -> dict[int, list[App]]:
    """Streams under way, one through each worker."""
    streams: dict[int, list[App]] = {}
    for pid in pids:
        with standing_still([other for other in pids if other != pid]):
            app = await begun(stack, egress, upstream)
        assert worker_of(app, pids) == pid
        streams[pid] = [app]
    return streams


@contextmanager
def standing_still(pids: list[int]) -> Iterator[None]:
    """Only others accept meanwhile."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def test_two_workers_pay_through_one_address_with_one_authority(
    config: WriteConfig, tmp_path: Path, manager: Manager
) -> None:
    async with (
        serving(SELLER) as upstream,
        workers(config(workers=2), **manager.environment) as (egress, pids),
    ):
        host, port = egress.address
        assert (
            await manager.next() == f"READY=1\nSTATUS=2 of 2 workers; listens on {host}:{port}; keyd answers"
        )
        assert len(set(pids)) == 2
        assert egress.process.pid not in pids
        for _ in range(4):
            async with App(egress.address, upstream) as app:
                assert (await app.get()).status == 200
        egress.terminate()
        assert await manager.next() == "STOPPING=1\nSTATUS=stopping"
        assert await egress.stopped() == 0
    assert len(list((tmp_path / "state/ca").glob("*-ca.pem"))) == 1


PATIENT = """
import egress.loads
egress.loads.PATIENCE_S = 60.0  # a busy machine may let a worker wait for longer than the 5 ms of every day
"""


async def test_connections_that_come_one_by_one_and_stay_are_shared_out(
    config: WriteConfig, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(PATIENT)
    async with (
        serving(FREE) as upstream,
        workers(config(workers=2), PYTHONPATH=str(tmp_path)) as (egress, pids),
        AsyncExitStack() as stack,
    ):
        taken = []
        for _ in range(16):
            app = await stack.enter_async_context(App(egress.address, upstream))
            assert (await app.get()).status == 200
            taken.append(worker_of(app, pids))
        assert [taken.count(pid) for pid in pids] == [8, 8]


async def test_a_killed_worker_loses_its_own_streams_only_and_is_replaced(config: WriteConfig) -> None:
    halves = Halves()
    async with (
        serving(halves) as upstream,
        workers(config(workers=2)) as (egress, pids),
        AsyncExitStack() as stack,
    ):
        streams = await streams_of_both(stack, egress, upstream, pids)
        victim, survivor = pids
        os.kill(victim, signal.SIGKILL)
        ended = await egress.event("egress.worker.ended")
        assert (ended["pid"], ended["code"]) == (victim, -signal.SIGKILL)
        later = await begun(stack, egress, upstream)  # there is somebody to accept, whoever that is
        halves.more.set()
        for app in streams[victim]:
            assert await app.reader.read() == b""
        for app in (*streams[survivor], later):
            assert await app.reader.readexactly(4) == b"rest"
        await egress.event("egress.ready")  # the new one


async def test_a_worker_that_hangs_is_ended_and_replaced(config: WriteConfig, manager: Manager) -> None:
    watched = {**manager.environment, "WATCHDOG_USEC": "8000000"}
    async with serving(FREE) as upstream, workers(config(workers=2), **watched) as (egress, pids):
        os.kill(pids[0], signal.SIGSTOP)
        assert (await egress.event("egress.worker.silent"))["pid"] == pids[0]
        assert (await egress.event("egress.worker.ended"))["code"] == -signal.SIGKILL
        async with App(egress.address, upstream) as app:
            assert (await app.get()).status == 200
        while await manager.next(but="") != "WATCHDOG=1":
            pass  # the service as a whole lives on


SLOW_START = """
import sys, time
if any(word.startswith("--worker-of") for word in sys.orig_argv):
    time.sleep(5)
"""


async def test_a_worker_that_starts_slowly_is_not_taken_for_one_that_hangs(
    config: WriteConfig, manager: Manager, tmp_path: Path
) -> None:
    """As with systemd, whose watchdog begins to run when a service is ready (systemd.service(5), WatchdogSec=)."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_START)
    watched = {**manager.environment, "WATCHDOG_USEC": "3000000", "PYTHONPATH": str(tmp_path)}
    async with workers(config(workers=2), **watched) as (egress, _):
        assert "egress.worker.silent" not in egress.log


async def test_sigterm_lets_the_streams_of_all_workers_finish(config: WriteConfig) -> None:
    halves = Halves()
    async with (
        serving(halves) as upstream,
        workers(config(workers=2)) as (egress, pids),
        AsyncExitStack() as stack,
    ):
        streams = await streams_of_both(stack, egress, upstream, pids)
        egress.terminate()
        for pid in pids:
            os.kill(pid, signal.SIGTERM)  # as systemd does, which sends it to the whole group
        for _ in pids:
            await egress.event("egress.draining")
        halves.more.set()
        for app in itertools.chain(*streams.values()):
            assert await app.reader.readexactly(4) == b"rest"
        assert await egress.stopped() == 0


async def test_a_second_sigterm_stops_all_workers_at_once(config: WriteConfig) -> None:
    halves = Halves()
    async with (
        serving(halves) as upstream,
        workers(config(workers=2)) as (egress, pids),
        AsyncExitStack() as stack,
    ):
        streams = await streams_of_both(stack, egress, upstream, pids)
        egress.terminate()
        await egress.event("egress.draining")
        egress.terminate()
        assert await egress.stopped() == 0
        for app in itertools.chain(*streams.values()):
            assert await app.reader.read() == b""
        halves.more.set()


async def test_workers_do_not_outlive_the_process_that_started_them(config: WriteConfig) -> None:
    async with workers(config(workers=2)) as (egress, _):
        egress.process.kill()
        for _ in range(2):
            await egress.event("egress.drained")  # they end as if they had been told to
        await egress.stopped()  # their end of the log is closed


async def test_a_configuration_that_no_worker_can_use_ends_the_service(config: WriteConfig) -> None:
    async with egress_process(config(workers=2, state_dir="/proc/nothing"), until_ready=False) as egress:
        assert await egress.stopped() == 2
    assert "cannot use state_dir" in egress.log


@pytest.mark.parametrize("count", [1, 2])
async def test_among_workers_an_answer_waits_until_keyd_knows_of_it(
    run_egress: RunEgress, keyd: FakeKeyd, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Another worker may get the next identical request, and keyd would take it for a repeat of this one."""
    monkeypatch.setattr("egress.paying.payer.REPORT_PATIENCE_S", 300.0)
    keyd.outcome_gate.clear()
    async with (
        serving(SELLER) as upstream,
        run_egress(workers=count) as egress,
        App(egress.address, upstream) as app,
        App(egress.address, upstream) as other,
    ):
        answer: asyncio.Task[Any] = asyncio.create_task(app.get())
        await keyd.outcome_asked.wait()
        for _ in range(5):  # what comes later is answered: this one was before, or waits
            assert (await other.get(X_402_Pay="none")).status == 402
        assert answer.done() is (count == 1)
        keyd.outcome_gate.set()
        assert (await answer).status == 200
