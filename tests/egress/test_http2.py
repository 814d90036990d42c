"""HTTP/2 on both sides: the paid request is a new stream on the same upstream connection."""

from __future__ import annotations

import asyncio

import httpx

from tests.egress.conftest import World
from tests.egress.support.http2 import Stream, serving_http2
from tests.egress.support.wire import OFFER, SETTLED, TERMS, decode, encode


async def seller(stream: Stream) -> None:
    await stream.complete.wait()
    if not stream.paid:
        await stream.head(402, {"payment-required": encode(TERMS)})
        await stream.data(b"pay first", end=True)
        return
    await stream.head(200, {"payment-response": encode(SETTLED)})
    await stream.data(b"content of " + stream.message.target.encode(), end=True)


def client(world: World) -> httpx.AsyncClient:
    host, port = world.egress.address
    return httpx.AsyncClient(
        http2=True, http1=False, verify=world.pki.client("h2"), proxy=f"http://{host}:{port}", trust_env=False
    )


async def test_a_402_over_http2_is_paid_on_the_same_connection(world: World) -> None:
    async with serving_http2(seller, world.pki.server_for("h2")) as upstream, client(world) as app:
        answer = await app.post(upstream.url(), content=b"question")
    assert (answer.status_code, answer.http_version) == (200, "HTTP/2")
    assert answer.content == b"content of /a"
    assert answer.headers["x-402-egress"].startswith("paid; ")
    first, second = upstream.requests
    assert upstream.connections == 1
    assert first.body == second.body == b"question"
    assert decode(second.get("payment-signature"))["accepted"] == OFFER


async def test_parallel_streams_are_paid_without_crosstalk(world: World) -> None:
    async with serving_http2(seller, world.pki.server_for("h2")) as upstream, client(world) as app:
        await app.get(upstream.url("/first"))  # only an open connection is shared by all that follow
        paths = [f"/{number}" for number in range(40)]
        answers = await asyncio.gather(*(app.get(upstream.url(path)) for path in paths))
    assert [answer.content.decode() for answer in answers] == [f"content of {path}" for path in paths]
    assert upstream.connections == 1
    assert len({answer.headers["x-402-egress"] for answer in answers}) == 40
