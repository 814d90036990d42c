"""MCP calls through the proxy: an unmodified client gets the tool's answer, and all else passes as it came."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from egress.wire import mcp
from egress.wire.sse import EventStream
from keyd import api
from tests.egress.conftest import RunEgress, World
from tests.egress.support.client import App
from tests.egress.support.keyd import SIGNATURE, FakeKeyd, refusal, reply_to
from tests.egress.support.upstream import Connection, Script, serving
from tests.egress.support.wire import Message, response

OFFER = {"scheme": "exact", "network": "eip155:84532", "amount": "1000", "asset": "0x0", "payTo": "0x1"}
TERMS = {"x402Version": 2, "accepts": [OFFER], "resource": {"url": "mcp://tool/weather"}}
PAYWALL = {
    "isError": True,
    "structuredContent": TERMS,
    "content": [{"type": "text", "text": json.dumps(TERMS)}],
}
SETTLEMENT = {"success": True, "transaction": "0x" + "a" * 64, "network": "eip155:84532", "payer": "0x"}
WEATHER = {"content": [{"type": "text", "text": "sunny"}], "_meta": {"x402/payment-response": SETTLEMENT}}
PROGRESS = b'event: message\ndata: {"jsonrpc":"2.0","method":"notifications/progress","params":{}}\n\n'

type Answer = Callable[[Any, Any], bytes]


def call(call_id: Any = 7, **params: Any) -> bytes:
    params = {"name": "weather", "arguments": {"city": "Bern"}, "_meta": {"progressToken": 3}} | params
    return json.dumps({"jsonrpc": "2.0", "id": call_id, "method": "tools/call", "params": params}).encode()


def message(call_id: Any, result: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": call_id, "result": result}).encode()


def as_json(call_id: Any, result: Any, status: int = 200) -> bytes:
    return response(status, {"Content-Type": "application/json"}, message(call_id, result))


def event(call_id: Any, result: Any) -> bytes:
    return b"event: message\ndata: " + message(call_id, result) + b"\n\n"


EVENTS_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def next_chunk(app: App) -> bytes:
    size = int(await app.reader.readline(), 16)
    return (await app.reader.readexactly(size + 2))[:-2]


def as_events(call_id: Any, result: Any) -> bytes:
    return EVENTS_HEAD + chunk(event(call_id, result)) + chunk(b"")


def tool(unpaid: Answer = as_json, paid: Answer = as_json, result: Any = WEATHER) -> Script:
    """A server whose tool has to be paid."""

    async def script(connection: Connection) -> None:
        while True:
            request = json.loads((await connection.request()).body)
            if mcp.PAYMENT in request["params"].get("_meta", {}):
                await connection.send(paid(request["id"], result))
            else:
                await connection.send(unpaid(request["id"], PAYWALL))

    return script


async def ask(world: World, script: Script, body: bytes | None = None) -> tuple[Message, list[Any]]:
    """The application's answer, and the JSON-RPC requests that the server got."""
    async with world.serving(script) as upstream, world.app(upstream) as app:
        headers = {"Content_Type": "application/json", "Mcp_Session_Id": "s1", "Accept_Encoding": "gzip"}
        await app.send("/mcp", method="POST", body=body or call(), **headers)
        answer = await app.answer()
    return answer, [json.loads(request.body) for request in upstream.requests]


def messages(answer: Message) -> list[Any]:
    if (answer.get("Content-Type") or "").startswith("application/json"):
        return [json.loads(answer.body)]
    found = [piece.message for piece in EventStream(10**6).feed(answer.body)]
    return [json.loads(data) for data in found if data is not None]


@pytest.mark.parametrize("unpaid", [as_json, as_events])
@pytest.mark.parametrize("paid", [as_json, as_events])
@pytest.mark.parametrize("call_id", [7, "sieben", ""])
async def test_a_paid_tool_answers_as_if_it_were_free(
    world: World, unpaid: Answer, paid: Answer, call_id: Any
) -> None:
    answer, (first, second) = await ask(world, tool(unpaid, paid), call(call_id))
    assert answer.status == 200
    assert messages(answer) == [{"jsonrpc": "2.0", "id": call_id, "result": WEATHER}]
    payment = second["params"]["_meta"].pop(mcp.PAYMENT)
    assert payment["payload"]["signature"] == SIGNATURE
    assert (payment["accepted"], payment["resource"]) == (OFFER, TERMS["resource"])
    assert second.pop("id") != first.pop("id")
    assert first == second
    report = await world.keyd.outcomes.get()
    assert (report.http_status, report.settlement) == (200, SETTLEMENT)


async def test_session_and_other_headers_go_with_the_paid_call(world: World) -> None:
    async with world.serving(tool()) as upstream, world.app(upstream) as app:
        await app.send("/mcp", method="POST", body=call(), Mcp_Session_Id="s1", Authorization="Bearer x")
        await app.answer()
    for request in upstream.requests:
        assert (request.get("Mcp-Session-Id"), request.get("Authorization")) == ("s1", "Bearer x")


async def test_keyd_is_asked_about_the_tool(world: World) -> None:
    await ask(world, tool())
    (asked,) = world.keyd.requests
    assert (asked.method, asked.path) == ("POST", "/mcp#tools/call/weather")
    assert (asked.offers, asked.resource_url) == ([OFFER], "mcp://tool/weather")


async def test_the_same_call_again_is_the_same_purchase(world: World) -> None:
    async with world.serving(tool()) as upstream, world.app(upstream) as app:
        for number in (1, 2):
            await app.send("/mcp", method="POST", body=call(number, _meta={"progressToken": number}))
            await app.answer()
        await app.send("/mcp", method="POST", body=call(3, arguments={"city": "Genf"}))
        await app.answer()
    first, again, other = (request.fingerprint for request in world.keyd.requests)
    assert first == again != other


@pytest.mark.parametrize("paid", [as_json, as_events])
async def test_events_before_the_terms_pass_at_once_and_the_tool_answers_in_the_same_stream(
    world: World, paid: Answer
) -> None:
    progress_passed = asyncio.Event()

    async def script(connection: Connection) -> None:
        request = json.loads((await connection.request()).body)
        await connection.send(EVENTS_HEAD + chunk(PROGRESS))
        await progress_passed.wait()
        await connection.send(chunk(event(request["id"], PAYWALL)) + chunk(b""))
        again = json.loads((await connection.request()).body)
        await connection.send(paid(again["id"], WEATHER))

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send("/mcp", method="POST", body=call())
        answer = await app.answer(head_only=True)
        assert await next_chunk(app) == PROGRESS
        progress_passed.set()
        while data := await next_chunk(app):
            answer.body += data
    assert messages(answer) == [{"jsonrpc": "2.0", "id": 7, "result": WEATHER}]
    assert (await world.keyd.outcomes.get()).settlement == SETTLEMENT


@pytest.mark.parametrize("unpaid", [as_json, as_events])
async def test_a_refused_payment_leaves_the_tools_own_words(world: World, unpaid: Answer) -> None:
    async def refuse(_: object) -> Any:
        return refusal("budget_exceeded")

    world.keyd.sign = refuse
    answer, sent = await ask(world, tool(unpaid))
    assert messages(answer) == [{"jsonrpc": "2.0", "id": 7, "result": PAYWALL}]
    assert len(sent) == 1


async def test_a_refusal_says_why_where_the_answer_has_not_begun(world: World) -> None:
    async def refuse(_: object) -> Any:
        return refusal("budget_exceeded")

    world.keyd.sign = refuse
    answer, _ = await ask(world, tool(as_json))
    assert answer.get("X-402-Egress") == "rejected; reason=budget_exceeded"


@pytest.mark.parametrize("unpaid", [as_json, as_events])
async def test_a_tool_that_asks_again_is_not_paid_twice(world: World, unpaid: Answer) -> None:
    answer, sent = await ask(world, tool(unpaid, unpaid, PAYWALL))
    assert messages(answer) == [{"jsonrpc": "2.0", "id": 7, "result": PAYWALL}]
    assert len(sent) == 2
    assert len(world.keyd.requests) == 1
    assert (await world.keyd.outcomes.get()).http_status == 402


@pytest.mark.parametrize("unpaid", [as_json, as_events])
async def test_a_tool_that_fails_after_paying_is_reported_as_failed(world: World, unpaid: Answer) -> None:
    answer, _ = await ask(world, tool(unpaid, result={"isError": True, "content": []}))
    assert messages(answer)[0]["result"] == {"isError": True, "content": []}
    assert (await world.keyd.outcomes.get()).http_status == 500


def broken(_: Any, __: Any) -> bytes:
    return response(503, {"Content-Type": "text/plain"}, b"overloaded")


async def test_an_error_of_http_after_paying_is_passed_on(world: World) -> None:
    answer, _ = await ask(world, tool(as_json, broken))
    assert (answer.status, answer.body) == (503, b"overloaded")
    assert (await world.keyd.outcomes.get()).http_status == 503


async def test_in_a_stream_that_has_begun_it_leaves_the_terms(world: World) -> None:
    answer, _ = await ask(world, tool(as_events, broken))
    assert messages(answer) == [{"jsonrpc": "2.0", "id": 7, "result": PAYWALL}]
    assert (await world.keyd.outcomes.get()).http_status == 503


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nanything",
        b"HTTP/1.1 503 Overloaded\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
    ],
    ids=["101", "an error without end"],
)
async def test_what_is_no_answer_to_the_paid_call_is_not_waited_for(world: World, answer: bytes) -> None:
    async def script(connection: Connection) -> None:
        request = json.loads((await connection.request()).body)
        await connection.send(as_events(request["id"], PAYWALL))
        if connection.number == 1:
            await connection.request()
            await connection.send(answer)
            assert await connection.reader.read() == b""

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send("/mcp", method="POST", body=call())
        assert messages(await app.answer()) == [{"jsonrpc": "2.0", "id": 7, "result": PAYWALL}]
        assert (await world.keyd.outcomes.get()).http_status == int(answer.split()[1])
        await app.send("/mcp", method="POST", body=call(8, _meta={mcp.PAYMENT: {}}))  # on the same connection
        assert messages(await app.answer()) == [{"jsonrpc": "2.0", "id": 8, "result": PAYWALL}]


@pytest.mark.parametrize(
    "imitation",
    [
        {"content": [{"type": "text", "text": json.dumps(TERMS)}]},
        {"structuredContent": TERMS, "content": []},
        {
            "isError": True,
            "content": [{"type": "text", "text": "x"}, {"type": "text", "text": json.dumps(TERMS)}],
        },
    ],
)
@pytest.mark.parametrize("carried", [as_json, as_events])
async def test_content_that_imitates_terms_is_not_paid(world: World, imitation: Any, carried: Answer) -> None:
    async def script(connection: Connection) -> None:
        request = json.loads((await connection.request()).body)
        await connection.send(carried(request["id"], imitation))

    answer, sent = await ask(world, script)
    assert messages(answer) == [{"jsonrpc": "2.0", "id": 7, "result": imitation}]
    assert len(sent) == 1
    assert world.keyd.requests == []


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {}}).encode(),
        call(_meta={mcp.PAYMENT: {"mine": True}}),
    ],
    ids=["not a call that can be charged for", "pays by itself"],
)
async def test_other_requests_are_not_paid_whatever_comes(world: World, body: bytes) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(as_json(7, PAYWALL))

    answer, sent = await ask(world, script, body)
    assert answer.body == message(7, PAYWALL)
    assert sent == [json.loads(body)]
    assert world.keyd.requests == []


async def test_a_long_answer_streams_and_is_not_kept(world: World) -> None:
    large = message(7, {"content": [{"type": "text", "text": "x" * 3 * mcp.MAX_MESSAGE}]})

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(response(200, {"Content-Type": "application/json"}, large))

    answer, _ = await ask(world, script)
    assert answer.body == large


async def test_a_large_paid_result_streams_under_the_first_id(world: World) -> None:
    large = {"content": [{"type": "text", "text": "x" * 3 * mcp.MAX_MESSAGE}]}
    answer, _ = await ask(world, tool(result=large))
    assert json.loads(answer.body) == {"jsonrpc": "2.0", "id": 7, "result": large}
    report = await world.keyd.outcomes.get()
    assert (report.http_status, report.settlement) == (200, None)


def cancellation(call_id: Any) -> bytes:
    message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": call_id}}
    return json.dumps(message).encode()


async def test_a_cancellation_names_the_call_as_the_server_knows_it(world: World) -> None:
    paid_id: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    cancelled = asyncio.Event()

    async def script(connection: Connection) -> None:
        request = json.loads((await connection.request()).body)
        if "params" in request and "requestId" in request["params"]:
            await connection.send(response(202))
            return
        await connection.send(as_json(request["id"], PAYWALL))
        paid_id.set_result(json.loads((await connection.request()).body)["id"])
        await cancelled.wait()
        await connection.send(as_json(await paid_id, WEATHER))

    async def cancel(call_id: Any, session: str) -> Any:
        async with world.app(upstream) as app:
            await app.send("/mcp", method="POST", body=cancellation(call_id), Mcp_Session_Id=session)
            assert (await app.answer()).status == 202
        return json.loads(upstream.requests[-1].body)["params"]["requestId"]

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send("/mcp", method="POST", body=call(7), Mcp_Session_Id="s1")
        new_id = await paid_id
        assert await cancel(7, "s1") == new_id
        assert await cancel(7, "s2") == 7
        assert await cancel("7", "s1") == "7"
        cancelled.set()
        await app.answer()
        assert await cancel(7, "s1") == 7


async def paid_tool(connection: Connection) -> None:
    """It also takes cancellations."""
    while True:
        request = json.loads((await connection.request()).body)
        params = request["params"]
        if "requestId" in params:
            await connection.send(response(202))
        else:
            await connection.send(
                as_json(request["id"], WEATHER if mcp.PAYMENT in params["_meta"] else PAYWALL)
            )


@pytest.mark.parametrize(("cancels", "pays"), [(7, False), (8, True)], ids=["this call", "another"])
async def test_a_call_that_is_cancelled_while_keyd_decides_is_not_paid(
    world: World, cancels: int, pays: bool
) -> None:
    """Nobody waits for its result. The server has answered it already, under the id that the program gave it."""
    decides = asyncio.Event()

    async def sign(request: api.SignRequest) -> api.SignReply:
        await decides.wait()
        return reply_to(request, 1)

    world.keyd.sign = sign
    async with world.serving(paid_tool) as upstream, world.app(upstream) as app, world.app(upstream) as other:
        await app.send("/mcp", method="POST", body=call(7))
        await world.keyd.asked.wait()
        assert (await other.get("/mcp", method="POST", body=cancellation(cancels))).status == 202
        decides.set()
        answer = await app.answer()
    report = await world.keyd.outcomes.get()
    assert json.loads(upstream.requests[1].body)["params"] == {"requestId": cancels}
    assert len(upstream.requests) == (3 if pays else 2)
    if pays:
        assert answer.body == message(7, WEATHER)
    else:
        assert answer.body == message(7, PAYWALL)
        assert answer.get("X-402-Egress") == "rejected; reason=client_gone"
        assert report.failure == "not_sent"


async def test_a_cancellation_is_about_a_call_that_was_made_before_it(world: World) -> None:
    """Clients count from 1 whenever they start."""
    async with world.serving(paid_tool) as upstream, world.app(upstream) as app:
        assert (await app.get("/mcp", method="POST", body=cancellation(7))).status == 202
        assert (await app.get("/mcp", method="POST", body=call(7))).body == message(7, WEATHER)


async def test_nobody_cancels_a_call_that_another_has_paid(run_egress: RunEgress, keyd: FakeKeyd) -> None:
    """Both call without a session, and both count from 1. One is known by its token, the other by its user."""
    token = {"name": "ci", "token_sha256": hashlib.sha256(b"t").hexdigest()}
    paid = asyncio.Event()

    async def script(connection: Connection) -> None:
        request = json.loads((await connection.request()).body)
        if "requestId" in request["params"]:
            await connection.send(response(202))
            return
        await connection.send(as_json(request["id"], PAYWALL))
        await connection.request()
        paid.set()
        await connection.reader.read()

    async with (
        run_egress(callers=[token]) as egress,
        serving(script) as upstream,
        App(egress.address, upstream) as app,
        App(egress.address, upstream) as other,
    ):
        await app.send("/mcp", method="POST", body=call(1))
        await paid.wait()
        basic = base64.b64encode(b"ci:t").decode()
        await other.send("/mcp", method="POST", body=cancellation(1), Proxy_Authorization=f"Basic {basic}")
        assert (await other.answer()).status == 202
    assert upstream.requests[-1].body == cancellation(1)


@pytest.mark.parametrize("order", [(WEATHER, PAYWALL), (PAYWALL, WEATHER)], ids=["before", "after"])
async def test_a_call_that_was_answered_in_the_same_stream_is_not_paid(world: World, order: Any) -> None:
    async def script(connection: Connection) -> None:
        request = json.loads((await connection.request()).body)
        events = b"".join(chunk(event(request["id"], result)) for result in order)
        await connection.send(EVENTS_HEAD + events + chunk(b""))

    answer, sent = await ask(world, script)
    assert sorted(map(str, (said["result"] for said in messages(answer)))) == sorted(map(str, order))
    assert len(sent) == 1
    assert world.keyd.requests == []


async def test_a_server_that_keeps_the_stream_open_after_its_terms_is_not_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egress.stack.mcpstream.HOLD_LIMIT_S", 0.05)
    got_terms = asyncio.Event()

    async def script(connection: Connection) -> None:
        request = json.loads((await connection.request()).body)
        await connection.send(EVENTS_HEAD + chunk(event(request["id"], PAYWALL) + PROGRESS[:20]))
        await got_terms.wait()
        await connection.send(chunk(PROGRESS[20:]) + chunk(b""))

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send("/mcp", method="POST", body=call())
        await app.answer(head_only=True)
        assert await next_chunk(app) == event(7, PAYWALL) + PROGRESS[:20]
        got_terms.set()
        assert await next_chunk(app) == PROGRESS[20:]
        assert await next_chunk(app) == b""
    assert world.keyd.requests == []


async def test_an_answer_that_breaks_off_reaches_the_application_as_far_as_it_came(world: World) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        )

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send("/mcp", method="POST", body=call())
        head = await app.answer(head_only=True)
        assert (head.status, await app.reader.read()) == (200, b"{")
    assert world.keyd.requests == []


@pytest.mark.parametrize("unpaid", [as_json, as_events])
async def test_a_server_that_is_gone_after_its_terms_is_not_paid(world: World, unpaid: Answer) -> None:
    async def script(connection: Connection) -> None:
        request = json.loads((await connection.request()).body)
        upstream.close()
        await connection.send(unpaid(request["id"], PAYWALL))

    gone = world.server_gone()

    async def sign(request: api.SignRequest) -> api.SignReply:
        await gone.wait()
        return reply_to(request)

    world.keyd.sign = sign
    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send("/mcp", method="POST", body=call())
        answer = await app.answer()
    assert messages(answer) == [{"jsonrpc": "2.0", "id": 7, "result": PAYWALL}]
    assert (await world.keyd.outcomes.get()).failure == "not_sent"


async def test_a_paid_stream_that_breaks_off_is_reported(world: World) -> None:
    async def script(connection: Connection) -> None:
        request = json.loads((await connection.request()).body)
        await connection.send(as_events(request["id"], PAYWALL))
        await connection.request()
        await connection.send(EVENTS_HEAD + chunk(PROGRESS))

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await app.send("/mcp", method="POST", body=call())
        await app.answer(head_only=True)
        assert await next_chunk(app) == PROGRESS
        assert await app.reader.read() == b""
    assert (await world.keyd.outcomes.get()).failure == "connection"
