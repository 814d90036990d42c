"""egress under a service manager, whose part the test plays: readiness, watchdog, sockets passed on."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from egress.status import Status
from keyd.service_manager import Notifier
from tests.egress.conftest import WriteConfig
from tests.egress.support.client import App
from tests.egress.support.keyd import fake_keyd
from tests.egress.support.manager import Manager
from tests.egress.support.process import egress_process
from tests.egress.support.upstream import selling, serving
from tests.egress.support.wire import response

FREE = selling(lambda _: b"", lambda _: response(200, {}, b"free"))
WATCHDOG_USEC = 300_000


async def test_ready_is_said_when_egress_listens_and_keyd_answers(
    config: WriteConfig,
    manager: Manager,
) -> None:
    async with egress_process(config(), environment=manager.environment) as egress:
        host, port = egress.address
        assert await manager.next() == f"READY=1\nSTATUS=listens on {host}:{port}; keyd answers"
        _, writer = await asyncio.open_connection(*egress.address)
        writer.close()
        egress.terminate()
        assert await manager.next() == "STOPPING=1\nSTATUS=stopping"
        assert await egress.stopped() == 0


async def test_a_keyd_that_is_down_does_not_hold_up_traffic_and_is_named(
    config: WriteConfig,
    manager: Manager,
    tmp_path: Path,
) -> None:
    down = config(keyd_socket=str(tmp_path / "nobody.sock"))
    async with (
        serving(FREE) as upstream,
        egress_process(down, environment=manager.environment) as egress,
    ):
        assert (await manager.next()).endswith("; keyd does not answer, so nothing is paid")
        async with App(egress.address, upstream) as app:
            assert (await app.get()).status == 200
        async with fake_keyd(tmp_path / "nobody.sock"):
            assert (await manager.next()).endswith("; keyd answers")
        assert (await manager.next()).endswith("; keyd does not answer, so nothing is paid")


async def test_the_watchdog_is_fed_while_egress_serves(
    config: WriteConfig,
    manager: Manager,
) -> None:
    watched = {**manager.environment, "WATCHDOG_USEC": str(WATCHDOG_USEC)}
    async with egress_process(config(), environment=watched):
        heard = [await manager.next(but="") for _ in range(4)]
    assert heard.count("WATCHDOG=1") >= 2


@pytest.mark.parametrize("answers", [True, False])
async def test_a_proxy_that_accepts_but_does_not_answer_is_not_alive(manager: Manager, answers: bool) -> None:
    asked = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        if answers:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    status = Status(Notifier({**manager.environment, "WATCHDOG_USEC": str(WATCHDOG_USEC)}))
    status.ready(server.sockets[0].getsockname())
    assert (await manager.next()).startswith("READY=1")
    alive = asyncio.create_task(status.keep_alive())
    await asked.wait()
    heard = asyncio.create_task(manager.next(but=""))
    if answers:
        assert await heard == "WATCHDOG=1"
    else:
        await asyncio.wait([heard], timeout=WATCHDOG_USEC / 1e6)
        assert not heard.done()
    for task in (alive, heard):
        task.cancel()
    server.close()


async def test_a_socket_that_was_passed_is_used_instead_of_listen(
    config: WriteConfig,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as passed, socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        async with (
            serving(FREE) as upstream,
            egress_process(config(listen=listen), passed=passed) as egress,
            App(egress.address, upstream) as app,
        ):
            assert egress.address == passed.getsockname()
            assert (await app.get()).status == 200


async def test_a_passed_socket_that_is_not_tcp_is_refused(
    config: WriteConfig,
    tmp_path: Path,
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as passed:
        passed.bind(str(tmp_path / "s"))
        passed.listen()
        async with egress_process(config(), until_ready=False, passed=passed) as egress:
            assert await egress.stopped() == 2
    assert "which is no TCP socket" in egress.log
