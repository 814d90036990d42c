"""When nothing is paid: the application gets the server's own 402, and the reason."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from keyd import api
from tests.egress.conftest import RunEgress, World
from tests.egress.support.client import App
from tests.egress.support.keyd import FakeKeyd, SignScript, refusal, reply_to
from tests.egress.support.upstream import Connection, selling, serving
from tests.egress.support.wire import TERMS, encode, paid_answer, payment_required, response

ORIGINAL = payment_required(b"original body", X_Server="kept")
SELLER = selling(lambda _: paid_answer(), lambda _: ORIGINAL)


async def assert_original_402(app: App, reason: str) -> None:
    head, _, body = ORIGINAL.partition(b"\r\n\r\n")
    assert await app.reader.readuntil(b"\r\n\r\n") == (
        head + f"\r\nX-402-Egress: rejected; reason={reason}\r\n\r\n".encode()
    )
    assert await app.reader.readexactly(len(body)) == body


def answering(answer: api.SignReply | web.Response) -> SignScript:
    async def sign(_: api.SignRequest) -> api.SignReply | web.Response:
        return answer

    return sign


def signed_for_offer(index: int) -> SignScript:
    async def sign(request: api.SignRequest) -> api.SignReply:
        return reply_to(request, accepted=index)

    return sign


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (answering(refusal("budget_daily")), "budget_daily"),
        (answering(refusal("ledger_unavailable", 503)), "ledger_unavailable"),
        (answering(refusal("evil; reason=\r\nX: 1")), "keyd_error"),
        (answering(web.Response(status=500, text="no json")), "keyd_error"),
        (answering(web.Response(text="{}")), "keyd_error"),
        (signed_for_offer(7), "keyd_error"),
    ],
    ids=["refused", "cannot record", "strange code", "fault", "not a reply", "offer that is not there"],
)
async def test_what_keyd_does_not_sign_is_not_paid(world: World, script: SignScript, reason: str) -> None:
    world.keyd.sign = script
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        await app.send()
        await assert_original_402(app, reason)
    assert len(upstream.requests) == 1


async def test_a_signature_that_cannot_be_used_is_reported_as_not_sent(world: World) -> None:
    world.keyd.sign = signed_for_offer(7)
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        await app.get()
    assert (await world.keyd.outcomes.get()).failure == "not_sent"
    assert len(upstream.requests) == 1


async def test_without_keyd_the_402_passes_and_other_traffic_goes_on(run_egress: RunEgress) -> None:
    async def script(connection: Connection) -> None:
        while True:
            request = await connection.request()
            await connection.send(ORIGINAL if request.target == "/paid" else response(200, {}, b"free"))

    async with (
        run_egress(keyd_socket="/nonexistent/keyd.sock") as egress,
        serving(script) as upstream,
        App(egress.address, upstream) as app,
    ):
        await app.send("/paid")
        await assert_original_402(app, "keyd_unreachable")
        assert (await app.get("/free")).body == b"free"


@pytest.mark.parametrize("x402", [{"enable": False}, {"max_retries": 0}])
async def test_payments_can_be_switched_off(
    run_egress: RunEgress, keyd: FakeKeyd, x402: dict[str, object]
) -> None:
    async with (
        run_egress(x402=x402) as egress,
        serving(SELLER) as upstream,
        App(egress.address, upstream) as app,
    ):
        await app.send()
        await assert_original_402(app, "egress_disabled")
    assert keyd.requests == []


async def test_a_second_402_after_paying_is_passed_on_and_never_paid(world: World) -> None:
    again = response(402, {"PAYMENT-REQUIRED": encode({**TERMS, "error": "not enough"})}, b"again")
    async with (
        world.serving(selling(lambda _: again, lambda _: ORIGINAL)) as upstream,
        world.app(upstream) as app,
    ):
        answer = await app.get()
    assert (answer.status, answer.body) == (402, b"again")
    assert answer.get("X-402-Egress") == f"rejected; reason=already_paid; payment={1:032x}"
    assert len(upstream.requests) == 2
    assert len(world.keyd.requests) == 1
    assert (await world.keyd.outcomes.get()).http_status == 402


@pytest.mark.parametrize("header", ["PAYMENT_SIGNATURE", "X_PAYMENT", "payment_signature", "X_402_Payment"])
async def test_a_program_that_pays_itself_is_left_alone(world: World, header: str) -> None:
    script = selling(lambda _: ORIGINAL, lambda _: ORIGINAL)
    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send(**{header: "my own payment"})
        await assert_original_402(app, "own_payment")
    assert [request.get(header.replace("_", "-")) for request in upstream.requests] == ["my own payment"]
    assert world.keyd.requests == []


async def test_a_host_header_that_names_another_seller_is_not_paid(world: World) -> None:
    # A CDN answers for many sellers behind one certificate: the policy's yes is for the host connected to.
    async with world.serving(SELLER, tls=True) as upstream, world.app(upstream) as app:
        await app.send(Host="other.example")
        await assert_original_402(app, "host_unverified")
    assert world.keyd.requests == []


async def test_a_certificate_for_another_name_than_the_address_is_not_paid(world: World) -> None:
    async with (
        world.serving(SELLER, tls=True) as upstream,
        App(world.egress.address, upstream, world.pki.client(), sni="localhost") as app,
    ):
        await app.send()
        await assert_original_402(app, "host_unverified")
    assert world.keyd.requests == []


async def test_the_application_hangs_up_while_the_payment_is_signed(world: World) -> None:
    gate = asyncio.Event()

    async def sign(request: api.SignRequest) -> api.SignReply:
        await gate.wait()
        return reply_to(request)

    world.keyd.sign = sign
    async with world.serving(SELLER) as upstream:
        async with world.app(upstream) as app:
            await app.send()
            await world.keyd.asked.wait()
            gone = world.client_gone()
        await gone.wait()
        gate.set()
        report = await world.keyd.outcomes.get()
    assert report.failure == "not_sent"
    assert len(upstream.requests) == 1
