"""What happens after the 402: hanging, refusing again, forging receipts, redirecting, flooding."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from keyd import api
from tests.abuse.support.seller import NETWORK, OTHER_PAY_TO, PRICE, Seller, offer, payment_of, required
from tests.abuse.support.stage import PATIENCE_S, WALLET, Stage, domain
from tests.egress.support.http2 import Http2App, Stream, serving_http2
from tests.egress.support.upstream import Connection, Upstream
from tests.egress.support.wire import Message, encode, response

TERMS = {"x402Version": 2, "accepts": [offer()]}
TX = "0x" + "ab" * 32


def failing(status: int) -> Callable[[Message], bytes]:
    return lambda _: response(status, {}, b"sorry")


async def check_held_and_repeated(stage: Stage, seller: Seller, upstream: Upstream) -> None:
    """The payment of a request without an answer stays spent, and its repeat carries the same bytes."""
    [signed] = stage.signed(upstream)
    state, _ = await stage.outcome(signed["payment_id"])
    assert state == "unknown"
    assert await stage.spent_at(upstream) == PRICE
    seller.answer = seller.honest_answer
    assert (await stage.get(upstream)).status == 200
    assert seller.payments == [seller.payments[0]] * 2
    assert stage.signed(upstream) == [signed]
    assert await stage.spent_at(upstream) == PRICE
    state, _ = await stage.outcome(signed["payment_id"], after=1)
    assert state == "settled"
    await stage.check_sells(seller, upstream)


@pytest.mark.attack(16)
async def test_a_seller_that_takes_the_payment_and_hangs_is_given_the_same_one_again(
    stage: Stage, seller: Seller
) -> None:
    seller.answer = lambda _: None
    async with stage.serving(seller) as upstream:
        async with stage.app(upstream) as app:
            await app.send()
            await seller.hangs.wait()
        await check_held_and_repeated(stage, seller, upstream)


@pytest.mark.attack(17)
@pytest.mark.parametrize("status", [502, 504])
async def test_a_gateway_error_after_the_payment_leaves_it_open(
    stage: Stage, seller: Seller, status: int
) -> None:
    seller.answer = failing(status)
    async with stage.serving(seller) as upstream:
        answer = await stage.get(upstream)
        assert (answer.status, answer.body) == (status, b"sorry")
        assert (answer.get("X-402-Egress") or "").startswith("unknown; ")
        await check_held_and_repeated(stage, seller, upstream)


@pytest.mark.attack(18)
async def test_a_402_after_the_payment_ends_it(stage: Stage, seller: Seller) -> None:
    seller.answer = seller.honest_refusal
    async with stage.serving(seller) as upstream:
        answer = await stage.get(upstream)
        [signed] = stage.signed(upstream)
        why = f"rejected; reason=already_paid; payment={signed['payment_id']}"
        assert (answer.status, answer.get("X-402-Egress")) == (402, why)
        state, _ = await stage.outcome(signed["payment_id"])
        assert state == "refused"
        stage.check_refused(await stage.get(upstream), upstream, "cool_down", payments=1)
        assert len(seller.payments) == 1
        assert await stage.spent_at(upstream) == PRICE
        seller.answer = seller.honest_answer
        await stage.check_sells(seller, upstream, "/b")


@pytest.mark.attack(19)
async def test_prices_that_change_with_every_402_are_paid_once(stage: Stage, seller: Seller) -> None:
    prices = iter(range(PRICE, PRICE + 100))
    seller.refuse = seller.answer = lambda _: required(offer(amount=str(next(prices))))
    async with stage.serving(seller) as upstream:
        first = await stage.get(upstream)
        assert "reason=already_paid" in (first.get("X-402-Egress") or "")
        [signed] = stage.signed(upstream)
        await stage.outcome(signed["payment_id"])
        for _ in range(5):  # a program with a retry loop of its own
            stage.check_refused(await stage.get(upstream), upstream, "cool_down", payments=1)
        assert len(seller.payments) == 1
        seller.forget()
        await stage.check_sells(seller, upstream, "/b")


class Rally:
    """A seller that answers nobody before `size` requests of the same kind are there."""

    def __init__(self, seller: Seller, size: int) -> None:
        self.seller = seller
        self.unpaid, self.paid = asyncio.Barrier(size), asyncio.Barrier(size)

    async def __call__(self, connection: Connection) -> None:
        while True:
            request = await connection.request()
            await (self.paid if payment_of(request) else self.unpaid).wait()
            await self.seller.reply(connection, request)


async def post_ten(stage: Stage, upstream: Upstream, intents: list[str | None]) -> list[Message]:
    headers = [{} if intent is None else {"X_402_Intent": intent} for intent in intents]
    posts = (stage.get(upstream, method="POST", body=b"order", **fields) for fields in headers)
    return await asyncio.gather(*posts)


@pytest.mark.attack(20)
async def test_ten_identical_posts_at_once_share_one_payment(stage: Stage, seller: Seller) -> None:
    async with stage.serving(Rally(seller, 10)) as upstream:
        answers = await post_ten(stage, upstream, [None] * 10)
        assert [answer.status for answer in answers] == [200] * 10
        assert seller.payments == [seller.payments[0]] * 10
        assert len(stage.signed(upstream)) == 1
        assert await stage.spent_at(upstream) == PRICE


@pytest.mark.attack(20)
async def test_ten_posts_that_the_program_tells_apart_are_ten_purchases(stage: Stage, seller: Seller) -> None:
    async with stage.serving(Rally(seller, 10)) as upstream:
        answers = await post_ten(stage, upstream, [f"order-{number}" for number in range(10)])
        assert [answer.status for answer in answers] == [200] * 10
        assert len(set(seller.payments)) == len(stage.signed(upstream)) == 10
        assert all(request.get("X-402-Intent") is None for request in seller.requests)


@pytest.mark.attack(21)
async def test_a_host_that_never_delivers_proof_is_quarantined(stage: Stage, seller: Seller) -> None:
    answers = [response(200), response(200, {}, b"<html>login</html>"), response(204, length=False)]
    seller.answer = lambda _: answers[len(seller.payments) % 3]
    async with stage.serving(seller) as upstream:
        for number in range(10):
            assert (await stage.get(upstream)).status in (200, 204)  # passed on as it is
            signed = stage.signed(upstream)
            assert len(signed) == number + 1
            state, data = await stage.outcome(signed[-1]["payment_id"])
            assert (state, data["delivered"]) == ("unknown", True)
        stage.check_refused(await stage.get(upstream), upstream, "host_quarantined", payments=10)
        assert await stage.spent_at(upstream) == 10 * PRICE
        async with stage.serving(Seller()) as other:
            assert (await stage.get(other)).status == 200  # another host is none the worse
        seller.answer = seller.honest_answer
        await stage.keyd.policy_reset(api.PolicyReset(domain=domain(upstream)))
        await stage.check_sells(seller, upstream)


@pytest.mark.attack(22)
@pytest.mark.parametrize(
    "lie",
    [
        {"payer": OTHER_PAY_TO},
        {"network": "eip155:8453"},
        {"amount": "1"},
        {"transaction": "0x" + "ab" * 31},
        {"transaction": None},
        {"transaction": "0x\r\nX-Evil: 1"},
        {"success": "true"},
        {"success": False, "errorReason": "insufficient_funds"},
        {"success": 1},
    ],
)
async def test_a_receipt_that_contradicts_what_was_signed_proves_nothing(
    stage: Stage, seller: Seller, lie: dict[str, Any]
) -> None:
    receipt = {"success": True, "transaction": TX, "network": NETWORK, "payer": WALLET, **lie}
    seller.answer = lambda _: response(200, {"PAYMENT-RESPONSE": encode(receipt)}, b"content")
    async with stage.serving(seller) as upstream:
        answer = await stage.get(upstream)
        assert answer.body == b"content"
        assert answer.get("X-Evil") is None
        [signed] = stage.signed(upstream)
        state, data = await stage.outcome(signed["payment_id"])
        assert (state, data["transaction"]) == ("unknown", None)
        assert data["notes"]
        assert await stage.spent_at(upstream) == PRICE
        seller.answer = seller.honest_answer
        await stage.check_sells(seller, upstream)
        assert await stage.spent_at(upstream) == 2 * PRICE


@pytest.mark.attack(23)
async def test_a_settlement_called_failed_stays_spent_until_the_chain_tells(
    stage: Stage, seller: Seller
) -> None:
    """Proof from the chain is what the reconciler brings; its own tests ask real servers for it."""
    failed = {
        "success": False,
        "errorReason": "unexpected_settle_error",
        "transaction": "",
        "network": NETWORK,
    }
    seller.answer = lambda _: response(
        402, {"PAYMENT-REQUIRED": encode(TERMS), "PAYMENT-RESPONSE": encode(failed)}
    )
    async with stage.serving(seller) as upstream:
        await stage.get(upstream)
        [signed] = stage.signed(upstream)
        payment_id = signed["payment_id"]
        assert (await stage.outcome(payment_id))[0] == "refused"
        assert await stage.spent_at(upstream) == PRICE

        unused = evidence(payment_id, used=False, at=signed["valid_before"] + 3600)
        assert (await stage.keyd.evidence(unused)).state == "refused"  # our clock: it can still be settled
        assert await stage.spent_at(upstream) == PRICE
        used = evidence(payment_id, used=True, at=signed["signed_at"] + 5)
        assert (await stage.keyd.evidence(used)).state == "settled"
        assert await stage.spent_at(upstream) == PRICE
        seller.answer = seller.honest_answer
        await stage.check_sells(seller, upstream, "/b")


def evidence(payment_id: str, *, used: bool, at: int) -> api.ChainEvidence:
    return api.ChainEvidence(
        payment_id=payment_id,
        used=used,
        block_number=7,
        block_hash="0x" + "cd" * 32,
        block_timestamp=at,
        transaction=TX if used else None,
        sources=1,
    )


def browser(stage: Stage) -> httpx.AsyncClient:
    """An unmodified program that follows redirects."""
    return httpx.AsyncClient(
        proxy=stage.payer.egress.url,
        verify=stage.pki.client(stage.payer.egress.ca_certificate),
        follow_redirects=True,
        timeout=PATIENCE_S,
    )


@pytest.mark.attack(24)
async def test_a_redirect_of_the_paid_request_takes_no_payment_along(stage: Stage, seller: Seller) -> None:
    thief = Seller()
    async with (
        stage.serving(seller) as upstream,
        stage.serving(thief) as elsewhere,
        browser(stage) as program,
    ):
        seller.answer = lambda _: response(302, {"Location": elsewhere.url("/steal")})
        async with stage.policy(deny=[domain(elsewhere)]):
            answer = await program.get(upstream.url())
            assert answer.headers["X-402-Egress"] == "rejected; reason=domain_denied"
            assert stage.rejected(elsewhere) == ["domain_denied"]
        assert len(seller.payments) == 1
        assert [payment_of(request) for request in thief.requests] == [None]
        assert stage.signed(elsewhere) == []
        seller.answer = seller.honest_answer
        await stage.check_sells(seller, upstream, "/b")


@pytest.mark.attack(25)
async def test_a_redirect_to_a_look_alike_is_judged_as_the_host_it_is(stage: Stage, seller: Seller) -> None:
    """The look-alike names the known seller in its terms; what counts is where the connection went."""
    look_alike = Seller()
    async with (
        stage.serving(seller) as upstream,
        stage.serving(look_alike, tls=False) as elsewhere,
        browser(stage) as program,
    ):
        await stage.check_sells(seller, upstream)
        target = f"http://localhost:{elsewhere.port}/a"
        look_alike.members = {"resource": {"url": upstream.url()}}
        seller.refuse = lambda _: response(302, {"Location": target})
        answer = await program.get(upstream.url())
        assert (str(answer.url), answer.status_code) == (target, 402)
        assert answer.headers["X-402-Egress"] == "rejected; reason=domain_not_allowed"
        refused = stage.payer.entries("x402.payment.rejected")[-1]["data"]
        assert (refused["code"], refused["domain"]) == (
            "domain_not_allowed",
            f"http://localhost:{elsewhere.port}",
        )
        assert look_alike.payments == []
        seller.refuse = seller.honest_refusal
        await stage.check_sells(seller, upstream)


@pytest.mark.attack(26)
async def test_terms_for_another_origin_are_judged_and_recorded_as_ours(stage: Stage, seller: Seller) -> None:
    async with stage.serving(seller) as upstream:
        seller.members = {"resource": {"url": "https://bank.example/account?token=hunter2"}}
        await stage.check_sells(seller, upstream)
        attempt = stage.entries(upstream, "x402.payment.attempt")[-1]
        # Both are on record: who was connected to, and whom the seller named.
        assert (attempt["domain"], attempt["resource_url"]) == (
            domain(upstream),
            "https://bank.example/account",
        )
        async with stage.policy(deny=[domain(upstream)], allow=["bank.example"]):
            stage.check_refused(await stage.get(upstream), upstream, "domain_denied", payments=1)
        seller.members = {"resource": {"url": upstream.url("/another/path")}}
        await stage.check_sells(seller, upstream)


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
            await seller.reply(connection, request)

    return script


TERMS_HEADER = {"PAYMENT-REQUIRED": encode(TERMS)}


def resident_kib(pid: int) -> int:
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


@pytest.mark.attack(27)
async def test_a_402_that_drips_is_not_waited_for(stage: Stage, seller: Seller) -> None:
    """Ten seconds are the bound, so this test takes as long."""
    released = asyncio.Event()

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
        await stage.check_sells(seller, upstream)  # nobody else waits
        answer = await app.answer(head_only=True)
        assert (answer.status, answer.get("X-402-Egress")) == (402, "rejected; reason=terms_timeout")
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
    async with serving_http2(script, stage.pki.server("h2")) as upstream, asyncio.timeout(PATIENCE_S):
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
