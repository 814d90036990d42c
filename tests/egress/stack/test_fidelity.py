"""Traffic that is not paid passes untouched, and nothing is held that could flow."""

from __future__ import annotations

import asyncio
import socket

import pytest
from mitmproxy import tcp

from egress.stack.transparent import MAX_INFORMATIONAL
from tests.egress.conftest import World
from tests.egress.support.upstream import Connection, selling
from tests.egress.support.wire import SETTLED, encode, paid_answer, payment_required, response
from tests.loopback import RECEIVE_BUFFER, SEND_BUFFER

SSE = response(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}, length=False)
PAID_SSE = SSE.replace(b"\r\n\r\n", b"\r\nPAYMENT-RESPONSE: " + encode(SETTLED).encode() + b"\r\n\r\n")


async def test_a_paid_stream_delivers_its_first_event_before_its_last_exists(world: World) -> None:
    first_seen = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(payment_required())
        await connection.request()
        await connection.send(PAID_SSE + b"9\r\ndata: 1\n\n\r\n")
        await first_seen.wait()
        await connection.send(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")

    async with world.serving(script, tls=True) as upstream, world.app(upstream) as app:
        await app.send()
        answer = await app.answer(head_only=True)
        assert (answer.get("X-402-Egress") or "").startswith("paid; ")
        assert await app.reader.readuntil(b"\n\n\r\n") == b"9\r\ndata: 1\n\n\r\n"
        assert (await world.keyd.outcomes.get()).http_status == 200  # reported while the stream goes on
        first_seen.set()
        assert await app.reader.readuntil(b"0\r\n\r\n") == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"


async def test_the_paid_stream_is_not_delayed_by_the_report(world: World) -> None:
    world.keyd.outcome_gate.clear()
    async with world.serving(selling(lambda _: paid_answer(), lambda _: payment_required())) as upstream:
        async with world.app(upstream) as app:
            assert (await app.get()).body == b"content"
        assert world.keyd.outcomes.empty()
        world.keyd.outcome_gate.set()
        assert (await world.keyd.outcomes.get()).http_status == 200


async def test_an_answer_that_is_complete_before_its_request_ends_at_once(world: World) -> None:
    async def script(connection: Connection) -> None:
        await connection.request(head_only=True)
        assert await connection.reader.readexactly(8) == b"3\r\nabc\r\n"
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        assert await connection.reader.readexactly(5) == b"0\r\n\r\n"
        await connection.request()
        await connection.send(response(200, {}, b"next"))

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send(method="POST", body=b"3\r\nabc\r\n", Transfer_Encoding="chunked")
        assert (await app.answer()).body == b"ok"
        await app.write(b"0\r\n\r\n")
        assert (await app.get()).body == b"next"


async def test_small_writes_do_not_wait_for_acknowledgements(world: World) -> None:
    """Nagle's algorithm would hold the body of an answer back for 40 ms, until its head is acknowledged."""
    async with (
        world.serving(selling(lambda _: b"", lambda _: response(200))) as upstream,
        world.app(upstream) as app,
    ):
        await app.get()
        (handler,) = world.egress._proxyserver.connections.values()
        sockets = [io.writer.get_extra_info("socket") for io in handler.transports.values() if io.writer]
        assert [s.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for s in sockets] == [1, 1]


async def test_an_upload_flows_while_it_is_sent(world: World) -> None:
    seen = asyncio.Event()

    async def script(connection: Connection) -> None:
        request = await connection.request(head_only=True)
        assert request.get("Transfer-Encoding") == "chunked"
        assert await connection.reader.readexactly(8) == b"3\r\nabc\r\n"
        seen.set()
        assert await connection.reader.readuntil(b"0\r\n\r\n") == b"3\r\ndef\r\n0\r\n\r\n"
        await connection.send(response(200, {}, b"got it"))

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send(method="POST", body=b"3\r\nabc\r\n", Transfer_Encoding="chunked")
        await seen.wait()
        await app.write(b"3\r\ndef\r\n0\r\n\r\n")
        assert (await app.answer()).body == b"got it"


async def test_request_and_answer_keep_order_spelling_and_duplicates(world: World) -> None:
    answer = (
        b"HTTP/1.1 200 \r\nX-oDD: 1\r\nset-cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n"
        b"x-odd: \xe9\r\n\r\nok"
    )

    async def script(connection: Connection) -> None:
        head = await connection.reader.readuntil(b"\r\n\r\n")
        host = f"Host: 127.0.0.1:{upstream.port}".encode()
        assert head == b"PuRGE /a%20b?x=%C3%A9&&y HTTP/1.1\r\n" + host + b"\r\nB: 1\r\na: 2\r\nB: 3\r\n\r\n"
        await connection.send(answer)

    async with world.serving(script) as upstream, world.app(upstream) as app:
        target = upstream.url("/a%20b?x=%C3%A9&&y").encode()
        host = f"Host: 127.0.0.1:{upstream.port}".encode()
        await app.write(b"PuRGE " + target + b" HTTP/1.1\r\n" + host + b"\r\nB: 1\r\na: 2\r\nB: 3\r\n\r\n")
        assert await app.reader.readexactly(len(answer)) == answer


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://other.example/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Two: 2\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 103 Early Hints\r\nA: 1\r\n\r\nHTTP/1.1 103 Early Hints\r\nB: 2\r\n\r\nHTTP/1.1 204 OK\r\n\r\n",
    ],
    ids=["204", "304", "302", "trailers", "103", "two hints"],
)
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_answers_pass_byte_for_byte(world: World, answer: bytes, tls: bool) -> None:
    async def script(connection: Connection) -> None:
        for _ in range(2):  # the second on the same connections: the first left them usable
            await connection.request()
            for byte in answer:  # in the smallest pieces
                await connection.send(bytes([byte]))

    async with world.serving(script, tls=tls) as upstream, world.app(upstream) as app:
        for _ in range(2):
            await app.send()
            assert await app.reader.readexactly(len(answer)) == answer
    assert upstream.connections == 1


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: 2\r\nContent-Length: 2\r\n",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length : 2\r\n",
    ],
    ids=["two lengths", "length and chunks", "space before the colon"],
)
@pytest.mark.parametrize("side", ["request", "answer"])
async def test_what_two_readers_could_read_differently_is_not_passed_on(
    world: World, fields: bytes, side: str
) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\nok")

    async with world.serving(script) as upstream, world.app(upstream) as app:
        if side == "answer":
            await app.send()
        else:
            head = f"POST {upstream.url()} HTTP/1.1\r\nHost: 127.0.0.1:{upstream.port}\r\n".encode()
            await app.write(head + fields + b"\r\nok")
        answer = await app.answer()
    assert answer.status == (502 if side == "answer" else 400)
    assert len(upstream.requests) == (1 if side == "answer" else 0)


async def test_a_hint_to_http_1_0_is_left_out(world: World) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" + response(200, {}, b"ok"))

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.write(f"GET {upstream.url()} HTTP/1.0\r\nHost: 127.0.0.1:{upstream.port}\r\n\r\n".encode())
        assert await app.reader.readuntil(b"ok") == response(200, {}, b"ok")


@pytest.mark.parametrize("count", [MAX_INFORMATIONAL, MAX_INFORMATIONAL + 1])
async def test_an_answer_that_only_announces_itself_is_given_up(world: World, count: int) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * count + response(200, {}, b"ok"))

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send()
        hints = 0
        while (answer := await app.answer()).status == 103:
            hints += 1
    assert hints == MAX_INFORMATIONAL
    if count == MAX_INFORMATIONAL:
        assert (answer.status, answer.body) == (200, b"ok")
    else:
        assert answer.status == 502
        assert b"interim answers" in answer.body


async def test_a_server_that_is_lost_after_a_hint_is_a_502(world: World) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send()
        assert [(await app.answer()).status for _ in range(2)] == [103, 502]


@pytest.mark.parametrize(("sent", "arrive_at_most"), [(20, 20), (20_000, 2_000)])
async def test_tiny_chunks_are_joined_where_there_are_many(
    world: World, sent: int, arrive_at_most: int
) -> None:
    """Each costs as much as a large one. A few pass as they are."""

    async def script(connection: Connection) -> None:
        await connection.request()
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        await connection.send(head + b"1\r\nx\r\n" * sent + b"0\r\n\r\n")

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send()
        await app.answer(head_only=True)
        sizes = []
        while size := int(await app.reader.readline(), 16):
            assert await app.reader.readexactly(size + 2) == b"x" * size + b"\r\n"
            sizes.append(size)
    assert sum(sizes) == sent
    assert len(sizes) <= arrive_at_most
    assert sizes[:20] == [1] * 20


async def test_request_trailers_reach_the_server_also_with_the_payment(world: World) -> None:
    script = selling(lambda _: paid_answer(), lambda _: payment_required())
    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send(method="POST", body=b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", Transfer_Encoding="chunked")
        assert (await app.answer()).status == 200
    assert [request.trailers for request in upstream.requests] == [[("X-Sum", "1")]] * 2
    assert [request.body for request in upstream.requests] == [b"abc"] * 2


async def test_what_is_meant_for_egress_stays_in_egress(world: World) -> None:
    script = selling(lambda _: paid_answer(), lambda _: payment_required())
    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send(
            X_402_Intent="mine",
            x_402_max="1",
            Proxy_Authorization="Basic secret",
            Proxy_Connection="keep-alive",
            X_402="stays",
        )
        assert (await app.answer()).status == 200
    for request in upstream.requests:
        names = [name for name, _ in request.headers if name != "PAYMENT-SIGNATURE"]
        assert names == ["Host", "X-402"]
    assert world.keyd.requests[0].intent == "mine"


@pytest.mark.parametrize("status", [200, 402])
async def test_a_servers_x_402_egress_is_not_believed(world: World, status: int) -> None:
    forged = response(status, {"X-402-Egress": "paid; payment=1", "x-402-egress": "paid"}, b"body")
    async with (
        world.serving(selling(lambda _: b"", lambda _: forged)) as upstream,
        world.app(upstream) as app,
    ):
        answer = await app.get()
    values = [value for name, value in answer.headers if name.lower() == "x-402-egress"]
    assert values == ([] if status == 200 else ["rejected; reason=terms_missing"])


@pytest.mark.parametrize(
    "between", [b"\r", b"\r\n ", b"\0", b"\r\r\t "], ids=["lone CR", "folded", "NUL", "two"]
)
async def test_a_field_is_one_line_for_every_reader(world: World, between: bytes) -> None:
    """Of both ends, some would begin a new field at a lone CR: http.client, and so requests and urllib3, for one."""
    forged = b"A: b" + between + b"X-402-Egress: paid\r\n"
    heads: list[bytes] = []

    async def script(connection: Connection) -> None:
        heads.append(await connection.reader.readuntil(b"\r\n\r\n"))
        hint = b"HTTP/1.1 103 Early Hints\r\n" + forged + b"\r\n"
        await connection.send(hint + b"HTTP/1.1 200 OK\rA: 1\r\n" + forged + b"Content-Length: 0\r\n\r\n")

    async with world.serving(script) as upstream, world.app(upstream) as app:
        host = f"Host: 127.0.0.1:{upstream.port}\r\n".encode()
        await app.write(b"GET " + upstream.url().encode() + b" HTTP/1.1\r\n" + host + forged + b"\r\n")
        heads += [await app.reader.readuntil(b"\r\n\r\n") for _ in range(2)]
    for head in heads:
        assert b"\r\nA: b X-402-Egress: paid\r\n" in head
        assert all(line.count(b"\r") == line.count(b"\0") == 0 for line in head.split(b"\r\n"))
    assert heads[-1].startswith(b"HTTP/1.1 200 OK A: 1\r\n")


async def test_an_upgraded_connection_is_a_pipe_even_after_a_payment(world: World) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(payment_required())
        request = await connection.request()
        assert request.get("PAYMENT-SIGNATURE")
        await connection.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
        )
        assert await connection.reader.readexactly(5) == b"hello"
        await connection.send(b"\x81\x05world")

    messages: list[tcp.TCPMessage] = []

    class Watch:
        def tcp_message(self, flow: tcp.TCPFlow) -> None:
            messages.extend(flow.messages)

    world.egress._master.addons.add(Watch())
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13"}
    async with world.serving(script, tls=True) as upstream, world.app(upstream) as app:
        await app.send(**headers)
        assert (await app.answer()).status == 101
        await app.write(b"hello")
        assert await app.reader.readexactly(7) == b"\x81\x05world"
    assert messages == []  # nobody looks at what passes, so nothing is kept of it


async def test_an_endless_head_does_not_fill_the_memory(world: World) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await connection.send(b"X-Filler: " + b"x" * 65536 + b"\r\n")

    async with world.serving(script) as upstream, world.app(upstream) as app:
        assert (await app.get()).status == 502


async def test_an_endless_request_head_is_refused(world: World) -> None:
    async with world.serving(selling(lambda _: b"", lambda _: b"")) as upstream, world.app(upstream) as app:
        await app.write(b"GET / HTTP/1.1\r\nX: " + b"x" * 600_000)
        assert (await app.answer(head_only=True)).status == 431
    assert upstream.connections == 0


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("begin", [b"5;", b"0\r\nX: "], ids=["chunk extension", "trailer"])
async def test_an_endless_line_in_a_body_does_not_fill_the_memory(world: World, begin: bytes) -> None:
    cut = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(CHUNKED + begin)
        await send_without_end(connection.writer)
        cut.set()

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send()
        await cut.wait()


async def test_an_endless_line_in_an_upload_does_not_fill_the_memory(world: World) -> None:
    async def script(connection: Connection) -> None:
        await connection.request(head_only=True)
        assert await connection.reader.read() == b""

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send(method="POST", body=b"5;", Transfer_Encoding="chunked")
        await send_without_end(app.writer)


async def test_what_a_server_says_behind_its_answer_to_an_upload_does_not_fill_the_memory(
    world: World,
) -> None:
    cut = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request(head_only=True)
        await connection.send(response(200, {}, b"early"))
        await send_without_end(connection.writer)
        cut.set()

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send(method="POST", Content_Length="1000000")
        assert (await app.answer()).body == b"early"
        await cut.wait()


async def send_without_end(writer: asyncio.StreamWriter) -> None:
    """Return when the other side has cut the connection; it must not have taken much."""
    try:
        for _ in range(2 * (SEND_BUFFER + RECEIVE_BUFFER) // 65536):  # more than all buffers on the way
            writer.write(b"x" * 65536)
            await writer.drain()
    except ConnectionError:
        return
    raise AssertionError("all of it was taken")
