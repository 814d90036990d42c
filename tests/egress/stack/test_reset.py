"""A server that refuses an upload in the middle and resets the connection at once: its 402 must not be lost."""

from __future__ import annotations

import asyncio

import pytest

from egress.stack.last_words import SEND_FAILED, LastWordsReader
from tests.egress.conftest import World
from tests.egress.support.upstream import Connection
from tests.egress.support.wire import paid_answer, payment_required, response

BODY = bytes(range(256)) * 4096  # 1 MiB: streamed, and small enough to be kept


async def refuse_and_reset(connection: Connection) -> None:
    """402 after the first part of the upload, and a reset in the same moment, with most of it unread."""
    request = await connection.request(head_only=True)
    if request.get("PAYMENT-SIGNATURE"):
        assert await connection.reader.readexactly(len(BODY)) == BODY
        await connection.send(paid_answer())
        return
    await connection.reader.readexactly(1000)
    await connection.send(payment_required())
    connection.reset()


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_402_before_a_reset_is_paid(world: World, tls: bool) -> None:
    lost = 0
    async with world.serving(refuse_and_reset, tls=tls) as upstream:
        for _ in range(20):
            async with world.app(upstream) as app:
                await app.send(method="POST", Content_Length=str(len(BODY)))
                sending = asyncio.create_task(app.write(BODY))
                answer = await app.answer()
                sending.cancel()
                lost += answer.status != 200
    assert lost == 0


async def test_any_answer_before_a_reset_reaches_the_application(world: World) -> None:
    async def script(connection: Connection) -> None:
        await connection.request(head_only=True)
        await connection.reader.readexactly(1000)
        await connection.send(response(413, {}, b"too much"))
        connection.reset()

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send(method="POST", Content_Length=str(len(BODY)))
        sending = asyncio.create_task(app.write(BODY))
        answer = await app.answer()
        sending.cancel()
    assert (answer.status, answer.body) == (413, b"too much")


async def test_a_reset_without_an_answer_is_still_an_error(world: World) -> None:
    async def script(connection: Connection) -> None:
        await connection.request(head_only=True)
        await connection.reader.readexactly(1000)
        connection.reset()

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send(method="POST", Content_Length=str(len(BODY)))
        sending = asyncio.create_task(app.write(BODY))
        assert (await app.answer()).status == 502
        sending.cancel()
    assert world.keyd.requests == []


# -- the reader by itself ------------------------------------------------------------------------------------


def _reader(data: bytes) -> tuple[asyncio.StreamReader, LastWordsReader]:
    inner = asyncio.StreamReader()
    inner.feed_data(data)
    return inner, LastWordsReader(inner)


async def test_data_comes_before_the_error_that_was_set_behind_it() -> None:
    inner, reader = _reader(b"last words")
    inner.set_exception(ConnectionResetError())
    assert await reader.read(100) == b"last words"
    with pytest.raises(ConnectionResetError):
        await reader.read(100)


@pytest.mark.parametrize(
    ("message", "heard"), [(f"{SEND_FAILED}: reset", True), ("client disconnected", False), (None, False)]
)
async def test_only_a_failed_write_is_no_reason_not_to_listen(message: str | None, heard: bool) -> None:
    inner, reader = _reader(b"")
    reading = asyncio.create_task(reader.read(100))
    await asyncio.sleep(0)
    reading.cancel(message)
    inner._buffer += b"last words"  # type: ignore[attr-defined]
    if heard:
        assert await reading == b"last words"
    else:
        with pytest.raises(asyncio.CancelledError):
            await reading


async def test_a_cancellation_without_data_stays_one() -> None:
    _, reader = _reader(b"")
    reading = asyncio.create_task(reader.read(100))
    await asyncio.sleep(0)
    reading.cancel(f"{SEND_FAILED}: reset")
    with pytest.raises(asyncio.CancelledError):
        await reading
