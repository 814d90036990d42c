"""Requests that are paid before the server asks: when, and what becomes of a wrong guess."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mitmproxy import http

from egress.paying.prepay import FRESH_S, MAX_REMEMBERED, MAX_TERMS, Prepayments
from egress.wire.x402 import PaymentRequired
from keyd import api
from tests.egress.conftest import Pki, RunEgress, World
from tests.egress.stack.test_http2 import client as http2_client
from tests.egress.stack.test_http2 import http2_app
from tests.egress.stack.test_http2 import seller as http2_seller
from tests.egress.support.client import App
from tests.egress.support.http2 import serving_http2
from tests.egress.support.keyd import FakeKeyd, refusal
from tests.egress.support.upstream import Connection, Script, Upstream, selling, serving
from tests.egress.support.wire import (
    OFFER,
    TERMS,
    Message,
    encode,
    paid_answer,
    payment_required,
    response,
)

AFTER = 2
SELLER = selling(lambda _: paid_answer(), lambda _: payment_required())


@asynccontextmanager
async def prepaying(
    run_egress: RunEgress, keyd: FakeKeyd, script: Script, *methods: str, pki: Pki | None = None
) -> AsyncIterator[tuple[App, Upstream]]:
    """An application in front of a seller with a rule, which keyd tells egress of."""
    async with serving(script, pki.server if pki else None) as upstream:
        domain = f"{'' if pki else 'http://'}127.0.0.1:{upstream.port}"
        keyd.prepay = [api.PrepayView(domain=domain, methods=list(methods or ("GET", "HEAD")), after=AFTER)]
        async with (
            run_egress() as egress,
            App(egress.address, upstream, pki.client() if pki else None) as app,
        ):
            yield app, upstream


async def learn(app: App, path: str = "/a", **options: Any) -> None:
    """As many ordinary purchases as the rule wants."""
    for _ in range(AFTER):
        assert (await app.get(path, **options)).status == 200


def paid_at_once(upstream: Upstream) -> list[bool]:
    return [request.get("PAYMENT-SIGNATURE") is not None for request in upstream.requests[2 * AFTER :]]


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_after_equal_402s_in_a_row_the_payment_comes_with_the_request(
    run_egress: RunEgress, keyd: FakeKeyd, pki: Pki, tls: bool
) -> None:
    async with prepaying(run_egress, keyd, SELLER, pki=pki if tls else None) as (app, upstream):
        await learn(app)
        for _ in range(2):
            answer = await app.get()
            assert (answer.status, answer.body) == (200, b"content")
            assert (answer.get("X-402-Egress") or "").startswith("paid; amount=0.001; ")
    assert paid_at_once(upstream) == [True, True]
    assert [request.prepaid for request in keyd.requests] == [False] * AFTER + [True] * 2
    assert keyd.requests[-1].offers == [OFFER]  # verbatim, as the seller wrote it last
    assert keyd.requests[-1].fingerprint == keyd.requests[0].fingerprint
    outcomes = [await keyd.outcomes.get() for _ in range(AFTER + 2)]
    assert {outcome.http_status for outcome in outcomes} == {200}


async def test_without_a_rule_the_server_has_to_ask_each_time(run_egress: RunEgress, keyd: FakeKeyd) -> None:
    async with serving(SELLER) as upstream, run_egress() as egress, App(egress.address, upstream) as app:
        await learn(app)
        await learn(app)
    assert paid_at_once(upstream) == [False, True] * AFTER


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer x"},
        {"Cookie": "session=x"},
        {"If_None_Match": '"x"'},
        {"Range": "bytes=0-1"},
        {"X_402_Pay": "none"},
        {"PAYMENT_SIGNATURE": "e30="},
        {"Host": "other.example"},
    ],
)
async def test_a_request_that_may_be_free_or_declines_or_is_for_another_is_not_prepaid(
    run_egress: RunEgress, keyd: FakeKeyd, headers: dict[str, str]
) -> None:
    async with prepaying(run_egress, keyd, SELLER) as (app, upstream):
        await learn(app)
        await app.get(**headers)
    own = "PAYMENT_SIGNATURE" in headers
    assert paid_at_once(upstream)[0] is own
    assert not any(request.prepaid for request in keyd.requests)


@pytest.mark.parametrize(("path", "method"), [("/a?q=2", "GET"), ("/b", "GET"), ("/a", "POST")])
async def test_another_url_or_method_is_not_prepaid(
    run_egress: RunEgress, keyd: FakeKeyd, path: str, method: str
) -> None:
    async with prepaying(run_egress, keyd, SELLER) as (app, upstream):
        await learn(app)
        await app.get(path, method=method)
    assert paid_at_once(upstream) == [False, True]


async def test_a_method_that_changes_something_is_prepaid_only_if_the_rule_names_it(
    run_egress: RunEgress, keyd: FakeKeyd
) -> None:
    async with prepaying(run_egress, keyd, SELLER, "POST") as (app, upstream):
        await learn(app, method="POST", body=b"one")
        assert (await app.get(method="POST", body=b"other")).status == 200
    assert paid_at_once(upstream) == [True]
    assert upstream.requests[-1].body == b"other"


async def test_terms_that_change_in_a_byte_have_to_be_asked_for_again(
    run_egress: RunEgress, keyd: FakeKeyd
) -> None:
    count = 0

    def terms(_: Message) -> bytes:
        nonlocal count
        count += 1
        changing = {**TERMS, "accepts": [{**OFFER, "extra": {**OFFER["extra"], "n": count}}]}
        return response(402, {"PAYMENT-REQUIRED": encode(changing)})

    async with prepaying(run_egress, keyd, selling(lambda _: paid_answer(), terms)) as (app, upstream):
        await learn(app)
        await learn(app)
    assert paid_at_once(upstream) == [False, True] * AFTER


async def test_a_wrong_guess_is_passed_on_and_never_paid_twice(run_egress: RunEgress, keyd: FakeKeyd) -> None:
    dearer = {**TERMS, "accepts": [{**OFFER, "amount": "2000"}]}
    changed = asyncio.Event()

    def answer(_: Message) -> bytes:
        return response(402, {"PAYMENT-REQUIRED": encode(dearer)}) if changed.is_set() else paid_answer()

    async with prepaying(run_egress, keyd, selling(answer, lambda _: payment_required())) as (app, upstream):
        await learn(app)
        changed.set()
        surprised = await app.get()
        assert surprised.status == 402
        payment = f"{AFTER + 1:032x}"
        assert surprised.get("X-402-Egress") == f"rejected; reason=already_paid; payment={payment}"
        assert len(keyd.requests) == AFTER + 1  # no second signature for this request
        await app.get()
    assert paid_at_once(upstream) == [True, False, True]  # afterwards the server has to ask again
    outcomes = [await keyd.outcomes.get() for _ in range(AFTER + 1)]
    assert (outcomes[-1].payment_id, outcomes[-1].http_status) == (payment, 402)


@pytest.mark.parametrize(
    "surprise", [response(200, {}, b"free today"), response(500), response(404)], ids=["free", "500", "404"]
)
async def test_an_answer_without_a_receipt_ends_the_guessing(
    run_egress: RunEgress, keyd: FakeKeyd, surprise: bytes
) -> None:
    answers = [*[paid_answer()] * AFTER, surprise, paid_answer()]
    script = selling(lambda _: answers.pop(0), lambda _: payment_required())
    async with prepaying(run_egress, keyd, script) as (app, upstream):
        await learn(app)
        await app.get()
        assert (await app.get()).status == 200
    assert paid_at_once(upstream) == [True, False, True]


async def test_a_server_that_hangs_up_on_a_prepaid_request_ends_the_guessing(
    run_egress: RunEgress, keyd: FakeKeyd
) -> None:
    async def script(connection: Connection) -> None:
        while True:
            request = await connection.request()
            prepaid = request.get("PAYMENT-SIGNATURE") and connection.log[-2].get("PAYMENT-SIGNATURE")
            if prepaid:
                return
            await connection.send(paid_answer() if request.get("PAYMENT-SIGNATURE") else payment_required())

    async with prepaying(run_egress, keyd, script) as (app, upstream):
        await learn(app)
        assert (await app.get()).status == 502
        outcomes = [await keyd.outcomes.get() for _ in range(AFTER + 1)]
        assert outcomes[-1].failure == "connection"
        async with App(app.egress, upstream) as again:
            assert (await again.get()).status == 200
    assert paid_at_once(upstream) == [True, False, True]


@pytest.mark.parametrize("code", ["prepay_not_allowed", "budget_daily"])
async def test_if_keyd_says_no_the_request_goes_out_unpaid(
    run_egress: RunEgress, keyd: FakeKeyd, code: str
) -> None:
    async with prepaying(run_egress, keyd, SELLER) as (app, upstream):
        await learn(app)
        sign = keyd.sign

        async def unless_prepaid(request: api.SignRequest) -> Any:
            return refusal(code) if request.prepaid else await sign(request)

        keyd.sign = unless_prepaid
        for _ in range(2):
            assert (await app.get()).status == 200
    assert paid_at_once(upstream) == [False, True] * 2
    assert [request.prepaid for request in keyd.requests[AFTER:]] == [
        True,
        False,
        False,
    ]  # and is not asked again


async def test_over_http2_each_stream_brings_its_own_payment(
    run_egress: RunEgress, keyd: FakeKeyd, pki: Pki
) -> None:
    async with serving_http2(http2_seller, pki.server_for("h2")) as upstream:
        keyd.prepay = [
            api.PrepayView(domain=f"127.0.0.1:{upstream.port}", methods=["GET"], after=AFTER),
        ]
        async with run_egress() as egress, http2_client(World(egress, keyd, pki)) as app:
            for _ in range(AFTER):
                assert (await app.get(upstream.url("/a"))).status_code == 200
            answers = await asyncio.gather(
                *(app.get(upstream.url("/a"), headers={"X-402-Intent": str(n)}) for n in range(10))
            )
    assert {answer.content for answer in answers} == {b"content of /a"}
    assert len({answer.headers["x-402-egress"] for answer in answers}) == 10
    assert len(upstream.requests) == 2 * AFTER + 10
    assert upstream.connections == 1


async def test_a_connection_that_closes_while_keyd_decides_is_replaced(
    run_egress: RunEgress, keyd: FakeKeyd, pki: Pki
) -> None:
    closing = asyncio.Event()

    async def script(connection: Connection) -> None:
        while True:
            request = asyncio.create_task(connection.request())
            told = asyncio.create_task(closing.wait())
            await asyncio.wait([request, told], return_when=asyncio.FIRST_COMPLETED)
            if connection.number == 1 and closing.is_set():
                request.cancel()
                return
            paid = (await request).get("PAYMENT-SIGNATURE")
            await connection.send(paid_answer() if paid else payment_required())

    async with serving(script) as upstream:
        domain = f"http://127.0.0.1:{upstream.port}"
        keyd.prepay = [api.PrepayView(domain=domain, methods=["GET"], after=AFTER)]
        async with run_egress() as egress, App(egress.address, upstream) as app:
            await learn(app)
            sign, gone = keyd.sign, World(egress, keyd, pki).server_gone()

            async def after_closing(request: api.SignRequest) -> Any:
                closing.set()
                await gone.wait()
                return await sign(request)

            keyd.sign = after_closing
            assert (await app.get()).status == 200
    assert paid_at_once(upstream) == [True]
    assert upstream.connections == 2


async def test_an_application_that_hangs_up_meanwhile_sends_nothing(
    run_egress: RunEgress, keyd: FakeKeyd, pki: Pki
) -> None:
    async with serving(SELLER) as upstream:
        domain = f"http://127.0.0.1:{upstream.port}"
        keyd.prepay = [api.PrepayView(domain=domain, methods=["GET"], after=AFTER)]
        async with run_egress() as egress, App(egress.address, upstream) as app:
            await learn(app)
            sign, gate = keyd.sign, asyncio.Event()

            async def slowly(request: api.SignRequest) -> Any:
                await gate.wait()
                return await sign(request)

            keyd.sign = slowly
            keyd.asked.clear()
            gone = World(egress, keyd, pki).client_gone()
            await app.send()
            await keyd.asked.wait()
            app.writer.close()
            await gone.wait()
            gate.set()
            outcomes = [await keyd.outcomes.get() for _ in range(AFTER + 1)]
    assert outcomes[-1].failure == "not_sent"
    assert len(upstream.requests) == 2 * AFTER


async def test_over_http2_a_stream_that_is_cancelled_meanwhile_sends_nothing(
    run_egress: RunEgress, keyd: FakeKeyd, pki: Pki
) -> None:
    """The connections live on: nothing but egress keeps the payment back."""
    async with serving_http2(http2_seller, pki.server_for("h2")) as upstream:
        keyd.prepay = [api.PrepayView(domain=f"127.0.0.1:{upstream.port}", methods=["GET"], after=AFTER)]
        async with run_egress() as egress, http2_app(World(egress, keyd, pki), upstream) as app:
            for _ in range(AFTER):
                await app.until(await app.request("/a"), "end")
            sign, gate = keyd.sign, asyncio.Event()

            async def slowly(request: api.SignRequest) -> Any:
                await gate.wait()
                return await sign(request)

            keyd.sign = slowly
            keyd.asked.clear()
            cancelled = await app.request("/a")
            await keyd.asked.wait()
            await app.reset(cancelled)
            await app.heard()
            gate.set()
            outcomes = [await keyd.outcomes.get() for _ in range(AFTER + 1)]
            await app.until(await app.request("/own", {"payment-signature": "own"}), "end")
    assert outcomes[-1].failure == "not_sent"
    assert [request.target for request in upstream.requests] == ["/a"] * 2 * AFTER + ["/own"]


# -- the memory -------------------------------------------------------------------------------------------

ORIGIN = api.Origin(scheme="https", host="api.example.com", port=443)


def request(path: str = "/") -> http.Request:
    return http.Request.make("GET", f"https://api.example.com{path}")


def test_a_price_is_forgotten_unless_receipts_confirm_it() -> None:
    now = 0.0
    prepayments = Prepayments(lambda *_: 1, clock=lambda: now)
    required = PaymentRequired(2, (OFFER,))
    prepayments.asked(request(), ORIGIN, required)
    now = FRESH_S - 1
    assert prepayments.expected(request()) == required
    prepayments.confirm(request())
    now = 2 * FRESH_S - 2
    assert prepayments.expected(request()) == required
    now = 2 * FRESH_S
    assert prepayments.expected(request()) is None


def test_a_rule_that_is_taken_back_ends_prepayments() -> None:
    after: int | None = 1
    prepayments = Prepayments(lambda *_: after)
    prepayments.asked(request(), ORIGIN, PaymentRequired(2, (OFFER,)))
    assert prepayments.expected(request()) is not None
    after = None
    assert prepayments.expected(request()) is None


def test_the_memory_is_bounded_in_number_and_size() -> None:
    prepayments = Prepayments(lambda *_: 1)
    for number in range(MAX_REMEMBERED + 1):
        prepayments.asked(request(f"/{number}"), ORIGIN, PaymentRequired(2, (OFFER,)))
    assert prepayments.expected(request("/0")) is None
    assert prepayments.expected(request("/1")) is not None
    padding = {"padding": "x" * MAX_TERMS}
    for large in (
        PaymentRequired(2, ({**OFFER, "extra": padding},)),
        PaymentRequired(2, (OFFER,), extensions={"bazaar": padding}),
        PaymentRequired(2, (OFFER,), resource=padding),
        PaymentRequired(2, (OFFER,), error="x" * MAX_TERMS),
    ):
        prepayments.asked(request("/large"), ORIGIN, large)
        assert prepayments.expected(request("/large")) is None
    prepayments.asked(request("/" + "x" * MAX_TERMS), ORIGIN, PaymentRequired(2, (OFFER,)))
    assert prepayments.expected(request("/" + "x" * MAX_TERMS)) is None
