"""Once the payment has left: what the server does is passed on, reported truthfully, and never paid again."""

from __future__ import annotations

import asyncio

import pytest
from mitmproxy import http

from keyd import api
from tests.egress.conftest import World
from tests.egress.support.upstream import Connection, selling
from tests.egress.support.wire import encode, paid_answer, payment_required, response

SELLER = selling(lambda _: paid_answer(), lambda _: payment_required())


async def test_a_redirect_after_paying_is_passed_on_and_not_followed(world: World) -> None:
    target = response(302, {"Location": "https://evil.example/"})
    script = selling(lambda _: target, lambda _: payment_required())
    async with world.serving(script) as upstream, world.app(upstream) as app:
        answer = await app.get()
    assert (answer.status, answer.get("Location")) == (302, "https://evil.example/")
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("status", [400, 412, 500, 503])
async def test_an_error_after_paying_is_passed_on_as_unknown(world: World, status: int) -> None:
    broken = response(status, {}, b"sorry")
    script = selling(lambda _: broken, lambda _: payment_required())
    async with world.serving(script) as upstream, world.app(upstream) as app:
        answer = await app.get()
    assert (answer.status, answer.body) == (status, b"sorry")
    assert (answer.get("X-402-Egress") or "").startswith("unknown; amount=0.001; ")
    report = await world.keyd.outcomes.get()
    assert (report.http_status, report.settlement, report.failure) == (status, None, None)


@pytest.mark.parametrize("status", [42, 1000])
async def test_a_status_that_is_none_is_reported_as_no_answer(world: World, status: int) -> None:
    odd = response(status, {}, b"odd")
    script = selling(lambda _: odd, lambda _: payment_required())
    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.get()
    report = await world.keyd.outcomes.get()
    assert (report.http_status, report.failure) == (None, "connection")


@pytest.mark.parametrize("settlement", ["%%%", encode([1]), encode({"transaction": "0x\r\nX: 1"})])
async def test_a_strange_settlement_does_not_reach_our_header(world: World, settlement: str) -> None:
    odd = response(200, {"PAYMENT-RESPONSE": settlement}, b"content")
    script = selling(lambda _: odd, lambda _: payment_required())
    async with world.serving(script) as upstream, world.app(upstream) as app:
        answer = await app.get()
    assert answer.get("PAYMENT-RESPONSE") == settlement
    assert "tx=" not in (answer.get("X-402-Egress") or "")


@pytest.mark.parametrize("hint", [b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"], ids=["", "after a hint"])
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_a_stale_connection_gets_the_same_payment_once_more(
    world: World, tls: bool, hint: bytes
) -> None:
    async def script(connection: Connection) -> None:
        if connection.number == 1:
            await connection.request()
            await connection.send(hint + payment_required())
            await connection.request(head_only=True)  # the paid request arrives, and the connection dies
            return
        await connection.request()
        await connection.send(paid_answer())

    async with world.serving(script, tls=tls) as upstream, world.app(upstream) as app:
        await app.send()
        if hint:
            assert (await app.answer()).status == 103
        assert (await app.answer()).body == b"content"
    assert upstream.connections == 2
    signatures = [request.get("PAYMENT-SIGNATURE") for request in upstream.requests]
    assert signatures[0] is None
    assert signatures[1] == signatures[2] is not None
    assert len(world.keyd.requests) == 1
    assert (await world.keyd.outcomes.get()).http_status == 200
    await world.check_no_more_reports()


async def test_a_stale_connection_to_a_server_that_is_gone_is_given_up(world: World) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(payment_required())
        await connection.request(head_only=True)
        upstream.close()

    async with world.serving(script) as upstream, world.app(upstream) as app:
        assert (await app.get()).status == 502
    assert (await world.keyd.outcomes.get()).failure == "connection"
    assert len(world.keyd.requests) == 1


async def test_a_new_connection_that_proves_another_origin_is_not_paid(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = api.Origin(scheme="http", host="other.example", port=80)
    monkeypatch.setattr("egress.stack.resend.connected_origin", lambda _: other)
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        answer = await app.get()
    assert (answer.status, answer.get("X-402-Egress")) == (402, "rejected; reason=upstream_lost")
    assert len(upstream.requests) == 1
    assert (await world.keyd.outcomes.get()).failure == "not_sent"


async def test_the_payment_does_not_stay_in_mitmproxys_record_of_the_request(world: World) -> None:
    seen: list[http.HTTPFlow] = []

    class Watch:
        def response(self, flow: http.HTTPFlow) -> None:
            seen.append(flow)

    world.egress._master.addons.add(Watch())
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        await app.get()
    assert upstream.requests[1].get("PAYMENT-SIGNATURE")
    assert "PAYMENT-SIGNATURE" not in seen[0].request.headers
    assert upstream.requests[1].get("PAYMENT-SIGNATURE") not in repr(seen[0].metadata)


async def test_a_server_that_dies_on_every_paid_request_is_given_up(world: World) -> None:
    async def script(connection: Connection) -> None:
        request = await connection.request()
        if request.get("PAYMENT-SIGNATURE"):
            return
        await connection.send(payment_required())
        await connection.request()

    async with world.serving(script) as upstream, world.app(upstream) as app:
        assert (await app.get()).status == 502
    assert len(upstream.requests) == 3
    report = await world.keyd.outcomes.get()
    assert (report.http_status, report.failure) == (None, "connection")


@pytest.mark.parametrize("part", [b"HTTP/1.1 200", b"HTTP/1.1 103 Early Hints\r\n\r\n"], ids=["head", "hint"])
async def test_a_connection_that_dies_within_the_answer_is_not_tried_again(world: World, part: bytes) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(payment_required())
        await connection.request()
        await connection.send(part)

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send()
        await app.reader.read()
    assert upstream.connections == 1
    assert (await world.keyd.outcomes.get()).failure == "connection"


async def test_a_reset_within_the_paid_body_reaches_the_application(world: World) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(payment_required())
        await connection.request()
        await connection.send(response(200, {"Content-Length": "100"}, length=False) + b"half")

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send()
        answer = await app.answer(head_only=True)
        assert (answer.get("X-402-Egress") or "").startswith("paid; ")
        assert await app.reader.read() == b"half"
    assert (await world.keyd.outcomes.get()).http_status == 200
    await world.check_no_more_reports()


@pytest.mark.parametrize(("fair_wait_s", "failure"), [(10.0, "hung_up"), (0.0, "timeout")])
async def test_the_application_hangs_up_before_the_paid_answer(
    world: World, monkeypatch: pytest.MonkeyPatch, fair_wait_s: float, failure: str
) -> None:
    """Only if the server had its time can it be to blame."""
    monkeypatch.setattr("egress.paying.addon.FAIR_WAIT_S", fair_wait_s)
    paid = asyncio.Event()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(payment_required())
        await connection.request()
        paid.set()
        assert await connection.reader.read() == b""  # egress closes the connection, too

    async with world.serving(script) as upstream:
        async with world.app(upstream) as app:
            await app.send()
            await paid.wait()
        assert (await world.keyd.outcomes.get()).failure == failure
    assert len(upstream.requests) == 2


async def test_a_server_that_is_gone_before_the_payment_left_gives_the_original_402(world: World) -> None:
    gone = world.server_gone()

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(payment_required(b"original"))

    async with world.serving(script) as upstream, world.app(upstream) as app:
        signing = world.keyd.sign

        async def sign(request: api.SignRequest) -> object:
            upstream.close()  # the server's port is closed from here on
            await gone.wait()
            return await signing(request)

        world.keyd.sign = sign  # type: ignore[assignment]
        answer = await app.get()
    assert gone.is_set()
    assert (answer.status, answer.body) == (402, b"original")
    assert answer.get("X-402-Egress") == "rejected; reason=upstream_lost"
    assert (await world.keyd.outcomes.get()).failure == "not_sent"


async def test_the_next_identical_request_waits_for_the_outcome_of_the_first(world: World) -> None:
    world.keyd.outcome_gate.clear()
    async with world.serving(SELLER) as upstream, world.app(upstream) as app, world.app(upstream) as other:
        assert (await app.get("/same")).status == 200
        await app.send("/same")
        assert (await other.get("/different")).status == 200  # other purchases do not wait
        assert [request.path for request in world.keyd.requests] == ["/same", "/different"]
        world.keyd.outcome_gate.set()
        assert (await app.answer()).status == 200
    assert [request.path for request in world.keyd.requests] == ["/same", "/different", "/same"]
    first, _, third = world.keyd.requests
    assert first.fingerprint == third.fingerprint


async def test_a_report_that_is_lost_on_the_way_is_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egress.paying.payer.REPORT_RETRY_DELAYS_S", (0.0, 0.0))
    world.keyd.outcome_failures = 2
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        assert (await app.get()).status == 200
    assert (await world.keyd.outcomes.get()).http_status == 200


async def test_a_repeat_that_keyd_answers_with_the_same_payment_carries_the_same_bytes(world: World) -> None:
    signed = world.keyd.sign
    replies: list[object] = []

    async def sign(request: api.SignRequest) -> object:
        if not replies:
            replies.append(await signed(request))
        return replies[0]

    world.keyd.sign = sign  # type: ignore[assignment]
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        await app.get()
        await app.get()
    headers = [request.get("PAYMENT-SIGNATURE") for request in upstream.requests]
    assert headers[1] == headers[3] is not None


async def test_a_request_made_because_of_an_answer_began_after_it_by_what_keyd_is_told(world: World) -> None:
    world.keyd.outcome_gate.clear()  # the report is late
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        await app.get()
        await app.send()
        world.keyd.outcome_gate.set()
        assert (await app.answer()).status == 200
    first, second = [await world.keyd.outcomes.get() for _ in range(2)]
    before, after = (request.started_at for request in world.keyd.requests)
    assert before is not None
    assert first.answered_at is not None
    assert after is not None
    assert second.answered_at is not None
    assert before < first.answered_at < after < second.answered_at
