"""What a 402 or an answer is made of: floods, broken encodings, uploads, streams. Bounded, and otherwise untouched."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.abuse.support.seller import Seller, offer, payment_of
from tests.abuse.support.stage import PATIENCE_S, Stage
from tests.egress.support.http2 import Http2App, Stream
from tests.egress.support.upstream import Connection
from tests.egress.support.wire import Message, encode, response

TERMS = {"x402Version": 2, "accepts": [offer()]}


def nested(depth: int) -> str:
    return '{"x402Version": 2, "accepts": ' + "[" * depth + "]" * depth + "}"


def header_of(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return response(402, {"PAYMENT-REQUIRED": base64.b64encode(raw).decode()}, b"pay first")


SOUND = json.dumps(TERMS)
UNREADABLE = {
    "deep": header_of(nested(5000)),
    "too deep for a person": header_of(nested(70)),
    "no base64": response(402, {"PAYMENT-REQUIRED": "%%%not base64%%%"}, b"pay first"),
    "cut off": response(402, {"PAYMENT-REQUIRED": encode(TERMS)[:-9]}, b"pay first"),
    "bad UTF-8": header_of(SOUND.encode().replace(b"USDC", b"US\xff\xfe")),
    "lone surrogate": header_of(SOUND.replace("USDC", "\\ud800")),
    "duplicate keys": header_of(SOUND.replace('"amount"', '"amount": "1", "amount"')),
    "NaN": header_of(SOUND.replace("60", "NaN")),
    "an integer of 5000 digits": header_of(SOUND.replace("60", "9" * 5000)),
    "three headers": response(402, {"PAYMENT-REQUIRED": "e30=", "payment-required": "e30=", "Payment-Required": "e30="}),
    "no accepts": header_of('{"x402Version": 2, "accepts": []}'),
    "not an object": header_of("[]"),
    "version 3": header_of(SOUND.replace("2,", "3,", 1)),
    "nothing": response(402),
}  # fmt: skip


@pytest.mark.attack(27)
@pytest.mark.parametrize("kind", UNREADABLE)
async def test_terms_that_cannot_be_read_safely_are_not_paid(stage: Stage, seller: Seller, kind: str) -> None:
    async with stage.serving(seller) as upstream:
        seller.refuse = lambda _: UNREADABLE[kind]
        stage.check_not_asked(await stage.get(upstream), upstream, "terms_missing")
        assert seller.payments == []
        seller.refuse = seller.honest_refusal
        await stage.check_sells(seller, upstream)


@pytest.mark.attack(27)
async def test_terms_above_the_bound_are_not_read(stage: Stage, seller: Seller) -> None:
    seen = b""
    async with stage.serving(seller) as upstream, asyncio.timeout(PATIENCE_S), stage.app(upstream) as app:
        seller.members = {"padding": "x" * 150_000}
        await app.send()
        while not seen.endswith(b"pay first"):
            seen += await app.reader.read(65536)
        assert seen.startswith(b"HTTP/1.1 402 ")
        assert b"\r\nX-402-Egress: rejected; reason=terms_missing\r\n" in seen
        assert stage.entries(upstream, "x402.payment.attempt") == []
        seller.members = {}
        await stage.check_sells(seller, upstream)


@pytest.mark.attack(27)
async def test_an_endless_head_is_cut_off(stage: Stage, seller: Seller) -> None:
    async with stage.serving(seller) as upstream:
        seller.refuse = lambda _: response(402, {"PAYMENT-REQUIRED": "x" * 600_000})
        assert (await stage.get(upstream)).status == 502
        assert stage.entries(upstream, "x402.payment.attempt") == []
        seller.refuse = seller.honest_refusal
        await stage.check_sells(seller, upstream)


@pytest.mark.attack(27)
async def test_large_terms_below_the_bound_are_read(stage: Stage, seller: Seller) -> None:
    seller.members = {"padding": "x" * 70_000}
    async with stage.serving(seller) as upstream:
        await stage.check_sells(seller, upstream)


@pytest.mark.attack(27)
async def test_an_endless_402_flows_through_and_fills_no_memory(stage: Stage, seller: Seller) -> None:
    """A body announced as 1 GB: what is not held streams to the program, which may hang up."""
    read, chunk = 0, b"x" * 65536
    async with stage.serving(endless(seller, chunk)) as upstream:
        before = resident_kib(stage.payer.egress.program.pid)
        async with asyncio.timeout(PATIENCE_S), stage.app(upstream) as app:
            await app.send("/endless")
            answer = await app.answer(head_only=True)
            assert (answer.status, answer.get("X-402-Egress")) == (402, "rejected; reason=terms_too_large")
            while read < 64 << 20:
                read += len(await app.reader.read(1 << 20))
        assert resident_kib(stage.payer.egress.program.pid) - before < 32 << 10
        assert stage.entries(upstream, "x402.payment.attempt") == []
        await stage.check_sells(seller, upstream)


def endless(seller: Seller, chunk: bytes) -> Callable[[Connection], Any]:
    async def script(connection: Connection) -> None:
        while True:
            request = await connection.request()
            if request.target == "/endless":
                await connection.send(
                    response(402, {**TERMS_HEADER, "Content-Length": str(1 << 30)}, length=False)
                )
                while True:
                    await connection.send(chunk)
                    # Over TLS, drain need not wait on a connection that is lost, and this would never hear of it.
                    await asyncio.sleep(0)
            await seller.reply(connection, request)

    return script


TERMS_HEADER = {"PAYMENT-REQUIRED": encode(TERMS)}


def resident_kib(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


@pytest.mark.attack(27)
async def test_a_402_that_drips_is_not_waited_for(stage: Stage, seller: Seller) -> None:
    """Ten seconds are the bound, so this test takes as long."""
    released, answered = asyncio.Event(), list[str]()

    async def script(connection: Connection) -> None:
        while True:
            request = await connection.request()
            if request.target == "/drip":
                await connection.send(response(402, {**TERMS_HEADER, "Content-Length": "2"}, length=False))
                await connection.send(b"x")
                await released.wait()
                await connection.send(b"y")
                continue
            await seller.reply(connection, request)

    async with stage.serving(script) as upstream, asyncio.timeout(PATIENCE_S), stage.app(upstream) as app:
        await app.send("/drip")

        async def drip() -> Message:
            answer = await app.answer(head_only=True)
            answered.append("drip")
            return answer

        dripping = asyncio.create_task(drip())
        await stage.check_sells(seller, upstream)
        answered.append("sale")
        answer = await dripping
        assert (answer.status, answer.get("X-402-Egress")) == (402, "rejected; reason=terms_timeout")
        assert answered == ["sale", "drip"]  # nobody else waits
        released.set()
        assert await app.reader.readexactly(2) == b"xy"


MULTIPART = b"--b\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\n" + bytes(range(256)) * 1200
MULTIPART += b"\r\n--b--\r\n"
FORM = {"Content_Type": "multipart/form-data; boundary=b"}


def chunked(body: bytes) -> bytes:
    return f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"


@pytest.mark.attack(28)
@pytest.mark.parametrize("streamed", [False, True], ids=["multipart", "chunked"])
async def test_an_upload_is_repeated_byte_for_byte(stage: Stage, seller: Seller, streamed: bool) -> None:
    options = {"Transfer_Encoding": "chunked"} if streamed else {}
    body = chunked(MULTIPART) if streamed else MULTIPART
    async with stage.serving(seller) as upstream:
        answer = await stage.get(upstream, method="POST", body=body, **FORM, **options)
        assert answer.status == 200
        assert [request.body for request in seller.requests] == [MULTIPART] * 2
        assert len(stage.signed(upstream)) == 1


@pytest.mark.attack(28)
async def test_an_upload_that_cannot_be_kept_is_not_paid_for(stage: Stage, seller: Seller) -> None:
    body = b"x" * (4 * 1024 * 1024 + 1)  # one more than `max_request_body`
    async with stage.serving(seller) as upstream:
        answer = await stage.get(upstream, method="POST", body=chunked(body), Transfer_Encoding="chunked")
        stage.check_not_asked(answer, upstream, "body_too_large")
        assert [request.body for request in seller.requests] == [body]
        await stage.check_sells(seller, upstream)


SSE_HEAD = response(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}, length=False)


@pytest.mark.attack(29)
async def test_a_paid_event_stream_is_not_held_back(stage: Stage, seller: Seller) -> None:
    first_seen = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(seller.honest_refusal(Message("", [])))
        await connection.request()
        await connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
        await connection.send(SSE_HEAD + b"9\r\ndata: 1\n\n\r\n")
        await first_seen.wait()
        await connection.send(b"9\r\ndata: 2\n\n\r\n0\r\nX-Sum: 3\r\n\r\n")

    async with stage.serving(script) as upstream, asyncio.timeout(PATIENCE_S), stage.app(upstream) as app:
        await app.send()
        assert (await app.answer(head_only=True)).status == 103
        answer = await app.answer(head_only=True)
        assert (answer.get("X-402-Egress") or "").startswith("paid; ")
        assert await app.reader.readuntil(b"\n\n\r\n") == b"9\r\ndata: 1\n\n\r\n"
        first_seen.set()
        rest = b"9\r\ndata: 2\n\n\r\n0\r\nX-Sum: 3\r\n\r\n"
        assert await app.reader.readexactly(len(rest)) == rest
        assert len(stage.signed(upstream)) == 1


@pytest.mark.attack(29)
async def test_a_websocket_is_a_pipe(stage: Stage, seller: Seller) -> None:
    async def script(connection: Connection) -> None:
        while True:
            request = await connection.request()
            if request.get("Upgrade"):
                await connection.send(
                    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"
                )
                assert await connection.reader.readexactly(6) == b"\x81\x04ping"
                await connection.send(b"\x81\x04pong")
                return
            await seller.reply(connection, request)

    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13"}
    async with stage.serving(script) as upstream:
        async with asyncio.timeout(PATIENCE_S), stage.app(upstream) as app:
            await app.send(Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==", **headers)
            assert (await app.answer(head_only=True)).status == 101
            await app.write(b"\x81\x04ping")
            assert await app.reader.readexactly(6) == b"\x81\x04pong"
        await stage.check_sells(seller, upstream)


@pytest.mark.attack(29)
async def test_http2_is_paid_stream_by_stream(stage: Stage, seller: Seller) -> None:
    async def script(stream: Stream) -> None:
        await stream.complete.wait()
        if not stream.paid:
            await stream.head(402, {"payment-required": encode(TERMS)}, end=True)
            return
        receipt = seller.settle(stream.message)
        await stream.head(200, {"payment-response": encode(receipt)})
        await stream.data(b"content", end=True)

    client = stage.pki.client(stage.payer.egress.ca_certificate, "h2")
    async with stage.serving_http2(script) as upstream, asyncio.timeout(PATIENCE_S):
        app = stage.app(upstream)
        app.tls = client
        async with Http2App(app) as program:
            streams = [await program.request(f"/{number}") for number in range(3)]
            for stream_id in streams:
                assert (await program.until(stream_id, "end"))[:2] == ["200", "content"]
        assert len(stage.signed(upstream)) == 3


@pytest.mark.attack(30)
async def test_a_paid_answer_is_kept_for_nobody_else(stage: Stage, seller: Seller) -> None:
    def cacheable(request: Message) -> bytes:
        fields = {"Cache-Control": "public, max-age=31536000", "ETag": '"1"'}
        body = f"for purchase {len(seller.payments)}".encode()
        return response(200, {"PAYMENT-RESPONSE": encode(seller.settle(request)), **fields}, body)

    seller.answer = cacheable
    async with stage.serving(seller) as upstream:
        bodies = [(await stage.get(upstream)).body for _ in range(2)]
        assert bodies == [b"for purchase 1", b"for purchase 2"]
        assert len(stage.signed(upstream)) == 2
        assert [payment_of(request) is None for request in seller.requests] == [True, False] * 2
