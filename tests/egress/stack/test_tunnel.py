"""A tunnel's bytes pass by the layers that read messages: none is lost, changed, or given to somebody else."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from egress.proxy import Egress
from egress.stack.tunnel import SIZE
from tests.egress.conftest import RunEgress
from tests.egress.support.client import App
from tests.egress.support.keyd import FakeKeyd
from tests.egress.support.upstream import Connection, Script, serving

MIB = 1024 * 1024
HELLO = b"anything but TLS or HTTP\n"


@pytest.fixture
async def tunnelling(run_egress: RunEgress, keyd: FakeKeyd) -> AsyncIterator[Egress]:
    keyd.allowed_domains = []
    async with run_egress() as egress:
        yield egress


@asynccontextmanager
async def tunnel(egress: Egress, script: Script) -> AsyncIterator[App]:
    """An application in a tunnel to a server that follows `script`, once each has greeted the other."""

    async def greeted(connection: Connection) -> None:
        assert await connection.reader.readexactly(len(HELLO)) == HELLO
        await connection.send(HELLO)
        await script(connection)

    async with serving(greeted) as upstream, App(egress.address, upstream) as app:
        await app.tunnel()
        await app.write(HELLO)
        assert await app.reader.readexactly(len(HELLO)) == HELLO
        yield app


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


async def dawdle(reader: asyncio.StreamReader, size: int) -> bytes:
    """Reads `size` bytes so slowly that all buffers before it are full most of the time."""
    digest = hashlib.sha256()
    while size:
        data = await reader.read(min(size, 300_000))
        assert data
        digest.update(data)
        size -= len(data)
        await asyncio.sleep(0.001)
    return digest.digest()


async def test_many_tunnels_at_once_never_mix_their_bytes(tunnelling: Egress) -> None:
    """They share one buffer; what a slow reader has not taken yet lies in it."""
    size = 24 * MIB

    async def upload_and_download(seed: int) -> None:
        there, back = noise(seed, size), noise(-seed, size)
        took: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def script(connection: Connection) -> None:
            sending = asyncio.create_task(connection.send(back))
            took.set_result(await dawdle(connection.reader, size))
            await sending

        async with tunnel(tunnelling, script) as app:
            sending = asyncio.create_task(app.write(there))
            assert await dawdle(app.reader, size) == hashlib.sha256(back).digest()
            assert await took == hashlib.sha256(there).digest()
            await sending

    await asyncio.gather(*(upload_and_download(seed) for seed in (1, 2, 3)))


async def test_a_peer_that_does_not_read_holds_one_buffer_up(tunnelling: Egress) -> None:
    go_on = asyncio.Event()

    async def script(connection: Connection) -> None:
        for _ in range(64):
            connection.writer.write(noise(7, MIB))
        await connection.writer.drain()
        await go_on.wait()

    async with tunnel(tunnelling, script) as app:
        app.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (handler,) = tunnelling._proxyserver.connections.values()
        end = handler._ends[handler.client]  # type: ignore[attr-defined]
        async with asyncio.timeout(30):
            for _ in iter(lambda: end._transport.get_write_buffer_size() > 0, True):
                await asyncio.sleep(0)
        assert end._transport.get_write_buffer_size() <= SIZE
        server = end.other._transport
        assert not server.is_reading()
        app.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await dawdle(app.reader, 64 * MIB) == hashlib.sha256(noise(7, MIB) * 64).digest()
        assert server.is_reading()
        go_on.set()


async def test_a_server_that_ends_is_heard_to_the_end_by_a_slow_application(tunnelling: Egress) -> None:
    async def script(connection: Connection) -> None:
        await connection.send(noise(5, 16 * MIB))

    async with tunnel(tunnelling, script) as app:
        assert await dawdle(app.reader, 16 * MIB) == hashlib.sha256(noise(5, 16 * MIB)).digest()
        assert await app.reader.read() == b""


async def test_what_a_server_says_before_it_resets_an_upload_is_heard(tunnelling: Egress) -> None:
    async def script(connection: Connection) -> None:
        await connection.reader.readexactly(100_000)
        await connection.send(b"enough")
        connection.reset()

    for _ in range(20):
        async with tunnel(tunnelling, script) as app:
            uploading = asyncio.create_task(app.write(bytes(8 * MIB)))
            assert await app.reader.readexactly(6) == b"enough"
            uploading.cancel()


async def test_an_application_that_goes_away_closes_the_tunnel(tunnelling: Egress) -> None:
    gone = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.send(b"hello")
        assert await connection.reader.read() == b""
        gone.set()

    async with tunnel(tunnelling, script) as app:
        assert await app.reader.readexactly(5) == b"hello"
        app.writer.close()
        async with asyncio.timeout(10):
            await gone.wait()
            for _ in iter(lambda: bool(tunnelling._proxyserver.connections), False):
                await asyncio.sleep(0)


async def test_traffic_in_a_tunnel_counts_as_activity(tunnelling: Egress) -> None:
    """Or an hour of a download would end like an hour of silence."""

    async def script(connection: Connection) -> None:
        while data := await connection.reader.read(100):
            await connection.send(data)

    async with tunnel(tunnelling, script) as app:
        for _ in range(2):  # from the second on, both ways pass by the layers
            await app.write(b"ping")
            assert await app.reader.readexactly(4) == b"ping"
        (handler,) = tunnelling._proxyserver.connections.values()
        handler.timeout_watchdog.last_activity = 0
        await app.write(b"ping")
        assert await app.reader.readexactly(4) == b"ping"
        assert handler.timeout_watchdog.last_activity > 0


async def test_a_burst_before_the_tunnel_is_open_comes_first(tunnelling: Egress) -> None:
    burst, more = noise(11, 2 * MIB), noise(12, 2 * MIB)

    async def script(connection: Connection) -> None:
        assert await connection.reader.readexactly(4 * MIB) == burst + more
        await connection.send(b"all of it")

    async with serving(script) as upstream, App(tunnelling.address, upstream) as app:
        connect = f"CONNECT 127.0.0.1:{upstream.port} HTTP/1.1\r\n\r\n".encode()
        await app.write(connect + burst)
        await app.reader.readuntil(b"\r\n\r\n")
        await app.write(more)
        assert await app.reader.readexactly(9) == b"all of it"
