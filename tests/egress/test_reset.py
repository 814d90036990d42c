"""A server that refuses an upload in the middle and resets the connection at once: its 402 must not be lost."""

from __future__ import annotations

import asyncio

import pytest

from tests.egress.conftest import World
from tests.egress.support.upstream import Connection
from tests.egress.support.wire import paid_answer, payment_required

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
