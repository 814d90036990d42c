"""What thousands of requests leave behind: nothing."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest

from egress.paystream import PayStream
from tests.egress.conftest import World
from tests.egress.support.client import App
from tests.egress.support.http2 import Http2App, Stream, serving_http2
from tests.egress.support.process import egress_process, toml
from tests.egress.support.upstream import Connection, selling
from tests.egress.support.wire import TERMS, encode, paid_answer, payment_required

pytestmark = pytest.mark.slow

SELLER = selling(lambda _: paid_answer(), lambda _: payment_required())
MIB = 1024 * 1024


def streams_alive() -> int:
    gc.collect()
    return sum(isinstance(thing, PayStream) for thing in gc.get_objects())


def tasks_of_egress() -> int:
    """All tasks but those in which the fake keyd waits on the connections of egress's pool."""
    return sum("RequestHandler" not in repr(task.get_coro()) for task in asyncio.all_tasks())


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_paid_requests_leave_no_stream_connection_or_task(world: World, tls: bool) -> None:
    async with world.serving(SELLER, tls=tls) as upstream:

        async def buy(count: int) -> None:
            async with world.app(upstream) as app:
                for number in range(count):
                    await app.send(f"/{number}", method="POST", body=b"x" * 100)
                    assert (await app.answer()).status == 200

        await buy(5)
        await world.all_gone()
        await upstream.idle.wait()
        tasks = tasks_of_egress()
        await asyncio.gather(*(buy(125) for _ in range(20)))
        await world.all_gone()
        await world.egress._payer.drain(10)
        assert streams_alive() == 0
        assert world.egress._x402.live == set()
        assert world.egress._payer._reports == {}
        await upstream.idle.wait()  # no connection to the server is left open
        assert tasks_of_egress() == tasks


async def test_cancelled_http2_streams_leave_nothing_on_a_living_connection(world: World) -> None:
    async def seller(stream: Stream) -> None:
        await stream.complete.wait()
        if not stream.paid:
            await stream.head(402, {"payment-required": encode(TERMS)}, end=True)
        elif stream.message.target == "/reset":
            await stream.reset()
        elif stream.message.target == "/paid":
            await stream.head(200, end=True)

    async with (
        serving_http2(seller, world.pki.server_for("h2")) as upstream,
        Http2App(App(world.egress.address, upstream, world.pki.client("h2"))) as app,
    ):
        for _ in range(100):
            paid = await app.request("/paid")
            await app.request("/reset")
            hanging = await app.request("/hangs")
            await app.until(paid, "end")
            await app.reset(hanging)
        last = await app.request("/paid")
        await app.until(last, "end")
        await world.egress._payer.drain(10)
        assert streams_alive() <= 2
        assert upstream.connections == 1


async def test_a_large_download_and_upload_take_no_memory(world: World, tmp_path: Path) -> None:
    size = 300 * MIB

    async def script(connection: Connection) -> None:
        await connection.request(head_only=True)
        for _ in range(size // MIB):
            await connection.reader.readexactly(MIB)
        await connection.send(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        for _ in range(size // MIB):
            await connection.send(bytes(MIB))

    config = tmp_path / "egress.toml"
    config.write_text(
        toml(
            {
                "listen": "127.0.0.1:0",
                "keyd_socket": world.keyd.socket,
                "state_dir": str(tmp_path / "state"),
                "allow_private": ["127.0.0.1"],
            }
        )
    )
    async with (
        world.serving(script) as upstream,
        egress_process(config) as egress,
        App(egress.address, upstream) as app,
    ):
        await app.send(method="POST", Content_Length=str(size))
        for _ in range(size // MIB):
            await app.write(bytes(MIB))
        await app.answer(head_only=True)
        for _ in range(size // MIB):
            await app.reader.readexactly(MIB)
        resident = memory_peak(egress.process.pid)
    assert resident < 130 * MIB


def memory_peak(pid: int) -> int:
    """Bytes of VmHWM."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
