"""HTTP/2 on both sides: the paid request is a new stream on the same upstream connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import h2.errors
import httpx
import pytest

from egress.stack import resend
from keyd import api
from tests.egress.conftest import Pki, RunEgress, World
from tests.egress.support.client import App
from tests.egress.support.http2 import Http2App, Http2Connection, Stream, serving_http2
from tests.egress.support.upstream import Upstream, selling, serving
from tests.egress.support.wire import (
    OFFER,
    SETTLED,
    TERMS,
    Message,
    decode,
    encode,
    paid_answer,
    payment_required,
    read_message,
)


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
        http2=True,
        http1=False,
        verify=world.pki.client("h2"),
        proxy=f"http://{host}:{port}",
        trust_env=False,
        timeout=None,
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


@pytest.mark.parametrize("app_speaks", [("h2", "http/1.1"), ("http/1.1",)], ids=["both", "1"])
@pytest.mark.parametrize("server_speaks", [("http/1.1",), ()], ids=["1", "none said"])
async def test_an_application_speaks_to_an_http_1_server_as_it_would_without_egress(
    world: World, app_speaks: tuple[str, ...], server_speaks: tuple[str, ...]
) -> None:
    """egress offers the server what the application has offered, and the application what the server has chosen."""
    script = selling(lambda _: paid_answer(), lambda _: payment_required())
    host, port = world.egress.address
    async with (
        serving(script, world.pki.server_for(*server_speaks)) as upstream,
        httpx.AsyncClient(
            http2="h2" in app_speaks,
            verify=world.pki.client(*app_speaks),
            proxy=f"http://{host}:{port}",
            trust_env=False,
            timeout=None,
        ) as app,
    ):
        answer = await app.post(upstream.url(), content=b"question")
    assert (answer.status_code, answer.http_version, answer.content) == (200, "HTTP/1.1", b"content")
    assert [request.body for request in upstream.requests] == [b"question"] * 2


async def test_parallel_streams_are_paid_without_crosstalk(world: World) -> None:
    async with serving_http2(seller, world.pki.server_for("h2")) as upstream, client(world) as app:
        await app.get(upstream.url("/first"))  # only an open connection is shared by all that follow
        paths = [f"/{number}" for number in range(40)]
        answers = await asyncio.gather(*(app.get(upstream.url(path)) for path in paths))
    assert [answer.content.decode() for answer in answers] == [f"content of {path}" for path in paths]
    assert upstream.connections == 1
    assert len({answer.headers["x-402-egress"] for answer in answers}) == 40


async def test_a_paid_stream_delivers_its_first_event_before_its_last_exists(world: World) -> None:
    first_seen = asyncio.Event()

    async def script(stream: Stream) -> None:
        if not stream.paid:
            await seller(stream)
            return
        await stream.head(200)
        await stream.data(b"data: 1\n\n")
        await first_seen.wait()
        await stream.data(b"data: 2\n\n", end=True)

    async with (
        serving_http2(script, world.pki.server_for("h2")) as upstream,
        http2_app(world, upstream) as app,
    ):
        stream = await app.request("/a")
        assert await app.until(stream, "data: 1\n\n") == ["200", "data: 1\n\n"]
        first_seen.set()
        assert await app.until(stream, "end") == ["200", "data: 1\n\n", "data: 2\n\n", "end"]


async def test_an_early_402_cancels_the_upload_and_the_whole_body_is_paid_for(world: World) -> None:
    body = bytes(range(256)) * 4096

    async def script(stream: Stream) -> None:
        if stream.paid:
            await stream.complete.wait()
            await stream.head(200, end=True)
            return
        await stream.head(402, {"payment-required": encode(TERMS)}, end=True)

    async with serving_http2(script, world.pki.server_for("h2")) as upstream, client(world) as app:
        answer = await app.post(upstream.url(), content=body)
    assert answer.status_code == 200
    assert upstream.requests[1].body == body
    assert upstream.connections == 1


async def test_trailers_and_hints_pass(world: World) -> None:
    async def script(stream: Stream) -> None:
        await stream.complete.wait()
        if not stream.paid:
            await seller(stream)
            return
        await stream.head(103, {"link": "</a.css>"})
        await stream.head(200)
        await stream.data(b"content")
        await stream.trailers({"grpc-status": "0"})

    async with (
        serving_http2(script, world.pki.server_for("h2")) as upstream,
        http2_app(world, upstream) as app,
    ):
        seen = await app.until(await app.request("/a"), "end")
    assert seen == ["103 link=</a.css>", "200", "content", "trailers grpc-status=0", "end"]


async def test_a_paid_stream_that_is_reset_ends_for_the_application_and_is_not_repeated(world: World) -> None:
    async def script(stream: Stream) -> None:
        await (stream.reset() if stream.paid else seller(stream))

    async with serving_http2(script, world.pki.server_for("h2")) as upstream, client(world) as app:
        with pytest.raises(httpx.HTTPError):
            (await app.get(upstream.url())).raise_for_status()
        assert len(upstream.requests) == 2
        assert (await world.keyd.outcomes.get()).failure == "connection"
        # The other streams of both connections are not touched by it.
        assert (await app.get(upstream.url(), headers={"payment-signature": "own"})).status_code != 402


async def test_a_connection_that_dies_under_the_paid_stream_gets_the_same_payment_once_more(
    world: World,
) -> None:
    async def script(stream: Stream) -> None:
        if stream.paid and upstream.connections == 1:
            stream.connection.close()
        else:
            await seller(stream)

    async with serving_http2(script, world.pki.server_for("h2")) as upstream, client(world) as app:
        answer = await app.get(upstream.url())
    assert answer.content == b"content of /a"
    assert upstream.connections == 2
    payments = [request.get("payment-signature") for request in upstream.requests]
    assert payments[0] is None
    assert payments[1] == payments[2] is not None
    assert len(world.keyd.requests) == 1


@pytest.mark.parametrize("announced", [False, True], ids=["at once", "announced"])
async def test_a_server_that_goes_away_is_awaited_and_asked_nothing_more(
    world: World, announced: bool
) -> None:
    """As nginx does after so many requests. The payment is good only once: a repeat elsewhere would be refused."""
    left = asyncio.Event()

    async def script(stream: Stream) -> None:
        if not stream.paid or upstream.connections > 1:
            await seller(stream)
            return
        if announced:
            await stream.go_away(2**31 - 1)
        await stream.go_away(stream.id)
        await stream.head(200)
        await stream.data(b"one, ")
        other = await app.get(upstream.url("/other"))
        await stream.data(other.content, end=True)
        await stream.connection.ended.wait()
        left.set()

    async with serving_http2(script, world.pki.server_for("h2")) as upstream, client(world) as app:
        answer = await app.get(upstream.url())
        await left.wait()  # egress closes the connection once it has its last answer
    assert (answer.status_code, answer.content) == (200, b"one, content of /other")
    assert upstream.connections == 2
    assert len(world.keyd.requests) == 2


async def test_a_payment_that_a_server_going_away_has_not_taken_goes_to_its_successor(world: World) -> None:
    async def script(stream: Stream) -> None:
        if stream.paid and upstream.connections == 1:
            await stream.go_away(stream.id - 2)
        else:
            await seller(stream)

    async with serving_http2(script, world.pki.server_for("h2")) as upstream, client(world) as app:
        assert (await app.get(upstream.url())).content == b"content of /a"
    _, first, second = (request.get("payment-signature") for request in upstream.requests)
    assert first == second is not None
    assert len(world.keyd.requests) == 1


LARGE = bytes(range(256)) * 512
"""A body that streams to the server, and of which a copy is kept."""


@pytest.mark.parametrize("body", [b"", b"question", LARGE], ids=["none", "small", "streamed"])
@pytest.mark.parametrize("refuses", ["goaway", "refused stream"])
async def test_a_request_that_a_server_has_not_taken_is_sent_again(
    world: World, body: bytes, refuses: str
) -> None:
    """RFC 9113 sections 6.8 and 8.7: nothing of it was processed, so not even a POST can happen twice."""

    async def script(stream: Stream) -> None:
        await stream.complete.wait()
        if len(upstream.requests) > 1:
            await seller(stream)
        elif refuses == "goaway":
            await stream.go_away(0)
        else:
            await stream.reset(h2.errors.ErrorCodes.REFUSED_STREAM)

    async with serving_http2(script, world.pki.server_for("h2")) as upstream, client(world) as app:
        answer = await app.post(upstream.url(), content=body)
    assert (answer.status_code, answer.content) == (200, b"content of /a")
    assert [request.body for request in upstream.requests] == [body] * 3
    assert [request.get("payment-signature") is not None for request in upstream.requests] == [
        False,
        False,
        True,
    ]
    assert upstream.connections == (2 if refuses == "goaway" else 1)
    assert len(world.keyd.requests) == 1


async def test_a_request_that_no_server_takes_is_given_up(world: World) -> None:
    async def script(stream: Stream) -> None:
        await stream.complete.wait()
        await stream.go_away(0)

    async with serving_http2(script, world.pki.server_for("h2")) as upstream, client(world) as app:
        assert (await app.get(upstream.url())).status_code == 502
    assert len(upstream.requests) == 1 + resend.TRIES_ELSEWHERE


async def test_a_body_that_was_not_kept_goes_to_no_second_server(run_egress: RunEgress, pki: Pki) -> None:
    async def script(stream: Stream) -> None:
        await stream.complete.wait()
        await stream.go_away(0)

    async with (
        run_egress(max_request_body=len(LARGE) - 1, intercept="all") as egress,
        serving_http2(script, pki.server_for("h2")) as upstream,
        httpx.AsyncClient(
            http2=True,
            http1=False,
            verify=pki.client("h2"),
            proxy="http://{}:{}".format(*egress.address),
            trust_env=False,
        ) as app,
    ):
        assert (await app.post(upstream.url(), content=LARGE)).status_code == 502
    assert len(upstream.requests) == 1


async def test_a_request_of_which_an_answer_had_begun_is_not_sent_again(world: World) -> None:
    """The server says that it has not taken it, and has answered: that cannot both be true."""

    async def script(stream: Stream) -> None:
        await stream.head(200)
        await stream.data(b"begun")
        await stream.go_away(0)

    async with serving_http2(script, world.pki.server_for("h2")) as upstream, client(world) as app:
        with pytest.raises(httpx.RemoteProtocolError):
            await app.get(upstream.url())
    assert len(upstream.requests) == 1


async def test_a_request_that_was_cancelled_in_the_queue_is_never_sent(world: World) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def script(stream: Stream) -> None:
        arrived.set()
        await go_on.wait()
        await stream.head(200, end=True)

    async with (
        serving_http2(script, world.pki.server_for("h2"), max_concurrent_streams=1) as upstream,
        http2_app(world, upstream) as app,
    ):
        first = await app.request("/first")
        await arrived.wait()
        cancelled = await app.request("/cancelled", {":method": "POST"}, end=False)
        last = await app.request("/last")
        await app.send(cancelled, b"x")
        await app.heard()
        await app.reset(cancelled)
        await app.heard()
        go_on.set()
        await app.until(first, "end")
        await app.until(last, "end")
    assert [request.target for request in upstream.requests] == ["/first", "/last"]


async def test_a_server_that_has_gone_back_to_http_1_gets_the_paid_body_with_its_end(world: World) -> None:
    """An HTTP/2 request need not state its length. Without one, this body would be a request of its own."""
    body = b"GET /admin HTTP/1.1\r\nHost: x\r\n\r\n"
    tls = world.pki.server_for("h2", "http/1.1")
    log: list[Message] = []
    upstream = Upstream(0, "https")

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream.writers.append(writer)
        if writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2":
            await Http2Connection(reader, writer, refuse, upstream).run()
        else:
            log.append(await read_message(reader))
            writer.write(paid_answer())
        writer.close()

    async def refuse(stream: Stream) -> None:
        await stream.complete.wait()
        tls.set_alpn_protocols(["http/1.1"])
        await stream.go_away(stream.id)
        await stream.head(402, {"payment-required": encode(TERMS)}, end=True)

    async def upload() -> AsyncIterator[bytes]:
        yield body

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls) as server, client(world) as app:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/a"
        assert (await app.post(url, content=upload())).content == b"content"
        upstream.close_clients()
    (request,) = log
    assert (request.target, request.body) == ("/a", body)
    assert request.get("payment-signature") is not None


async def test_the_first_streams_end_is_not_taken_for_the_paid_ones(world: World) -> None:
    body = bytes(range(256)) * 4096

    async def script(stream: Stream) -> None:
        if not stream.paid:  # the upload is cancelled, which leaves the first stream half open here
            await stream.head(402, {"payment-required": encode(TERMS)}, end=True)
            return
        await stream.complete.wait()
        if upstream.connections == 1:
            stream.connection.close()  # ends both streams, the first one's end is told first
        else:
            await stream.head(200, end=True)

    async with serving_http2(script, world.pki.server_for("h2")) as upstream, client(world) as app:
        assert (await app.post(upstream.url(), content=body)).status_code == 200
    assert [request.get("payment-signature") is not None for request in upstream.requests] == [
        False,
        True,
        True,
    ]
    assert upstream.connections == 2


async def test_the_application_cancels_its_stream_while_the_payment_is_signed(world: World) -> None:
    gate, signing = asyncio.Event(), world.keyd.sign

    async def sign(request: api.SignRequest) -> object:
        await gate.wait()
        return await signing(request)

    world.keyd.sign = sign  # type: ignore[assignment]
    async with (
        serving_http2(seller, world.pki.server_for("h2")) as upstream,
        http2_app(world, upstream) as app,
    ):
        cancelled = await app.request("/cancelled")
        await world.keyd.asked.wait()
        await app.reset(cancelled)
        own = await app.request("/own", {"payment-signature": "own"})
        await app.until(own, "end")  # what came before it, the reset, has been read by egress
        gate.set()
        assert (await world.keyd.outcomes.get()).failure == "not_sent"
    assert [request.target for request in upstream.requests] == ["/cancelled", "/own"]


async def test_the_application_cancels_its_paid_stream(world: World) -> None:
    paid, cancelled = asyncio.Event(), asyncio.Event()

    async def script(stream: Stream) -> None:
        if not stream.paid:
            await seller(stream)
            return
        paid.set()
        assert await stream.connection.resets.get() == stream.id
        cancelled.set()

    async with (
        serving_http2(script, world.pki.server_for("h2")) as upstream,
        http2_app(world, upstream) as app,
    ):
        request = await app.request("/a")
        await paid.wait()
        await app.reset(request)
        await cancelled.wait()  # the server learns of it
        assert (await world.keyd.outcomes.get()).failure == "hung_up"


def http2_app(world: World, upstream: Upstream) -> Http2App:
    return Http2App(App(world.egress.address, upstream, world.pki.client("h2")))
