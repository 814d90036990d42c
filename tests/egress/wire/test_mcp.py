"""What egress understands of MCP: calls, terms in answers, the paid call, ids that come back as they were."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.wire import mcp
from egress.wire.sse import EventStream

OFFER = {"scheme": "exact", "network": "eip155:84532", "amount": "1000", "asset": "0x0", "payTo": "0x1"}
TERMS = {"x402Version": 2, "accepts": [OFFER], "resource": {"url": "mcp://tool/weather"}, "error": "pay"}
NEW_ID = "osmoda-" + "5" * 32
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
IDS = st.integers() | st.text()


def call(**changes: Any) -> bytes:
    message = {
        "jsonrpc": "2.0",
        "id": 7,
        "method": "tools/call",
        "params": {"name": "weather", "arguments": {"city": "Bern"}, "_meta": {"progressToken": 3}},
    }
    return json.dumps(message | changes).encode()


def answer(result: Any = None, *, call_id: Any = 7, **members: Any) -> bytes:
    body = {"jsonrpc": "2.0", "id": call_id} | ({} if result is None else {"result": result}) | members
    return json.dumps(body).encode()


def text(value: Any) -> dict[str, str]:
    return {"type": "text", "text": value if isinstance(value, str) else json.dumps(value)}


def test_a_tool_call_is_read_with_what_it_buys() -> None:
    found = mcp.read_call(call())
    assert found is not None
    assert (found.id, found.what) == (7, "tools/call/weather")


@pytest.mark.parametrize(
    "body",
    [
        call(method="tools/list"),
        call(jsonrpc="1.0"),
        call(id=None),
        call(id=True),
        call(id=1.5),
        call(params=[]),
        call(params={"arguments": {}}),
        call(params={"name": "weather", "_meta": {"x402/payment": {}}}),
        call(params={"name": "weather", "_meta": []}),
        b"[" + call() + b"]",
        call()[:-1],
        b"",
    ],
)
def test_nothing_else_is_a_payable_call(body: bytes) -> None:
    assert mcp.read_call(body) is None


@pytest.mark.parametrize(
    "paywall",
    [
        answer({"isError": True, "structuredContent": TERMS, "content": [text(TERMS)]}),
        answer({"isError": True, "structuredContent": TERMS}),
        answer({"isError": True, "content": [text(TERMS)]}),
        answer({"isError": True, "content": [text({"x402_version": 2, "accepts": [OFFER]})]}),
        answer(error={"code": 402, "message": "Payment required", "data": TERMS}),
    ],
    ids=["both", "structured", "text", "snake case", "error 402"],
)
def test_terms_are_found_in_each_shape_of_the_protocol(paywall: bytes) -> None:
    terms = mcp.terms_in(paywall, 7)
    assert terms is not None
    assert list(terms.accepts) == [OFFER]


@pytest.mark.parametrize(
    "imitation",
    [
        answer({"content": [text(TERMS)]}),
        answer({"isError": False, "structuredContent": TERMS}),
        answer({"isError": True, "content": [text("please pay: " + json.dumps(TERMS))]}),
        answer({"isError": True, "content": [text("done"), text(TERMS)]}),
        answer({"isError": True, "content": [text(TERMS)], "structuredContent": {"weather": "rain"}}),
        answer({"isError": True, "content": [{"type": "resource", "text": json.dumps(TERMS)}]}),
        answer({"isError": True, "structuredContent": TERMS}, call_id=8),
        answer({"isError": True, "structuredContent": TERMS}, call_id="7"),
        answer({"isError": True, "structuredContent": TERMS}, method="tools/call"),
        answer(error={"code": -32000, "message": "no", "data": TERMS}),
        answer({"isError": True, "structuredContent": TERMS | {"accepts": []}}),
        answer({"isError": True, "structuredContent": {"accepts": [OFFER]}}),
    ],
)
def test_what_only_looks_like_terms_is_not_paid(imitation: bytes) -> None:
    assert mcp.terms_in(imitation, 7) is None


@given(st.binary())
def test_no_answer_makes_the_parser_fail(data: bytes) -> None:
    assert mcp.terms_in(data, 7) is None
    assert mcp.outcome_in(data, 7) is None
    assert mcp.read_call(data) is None
    assert mcp.read_cancelled(data) is None


@given(JSON)
def test_no_json_makes_the_parser_fail(value: Any) -> None:
    for body in (answer(value), answer({"isError": True, "structuredContent": value})):
        assert mcp.terms_in(body, 7) is None


def test_the_paid_call_differs_in_its_id_and_its_payment_alone() -> None:
    found = mcp.read_call(call())
    assert found is not None
    paid = json.loads(found.paid_with({"x402Version": 2}, NEW_ID))
    assert paid["params"]["_meta"].pop("x402/payment") == {"x402Version": 2}
    assert paid | {"id": 7} == json.loads(call())
    assert paid["id"] == NEW_ID


def test_calls_that_buy_the_same_have_the_same_identity() -> None:
    def identity(**changes: Any) -> bytes:
        found = mcp.read_call(call(**changes))
        assert found is not None
        return found.identity

    other_city = {"name": "weather", "arguments": {"city": "Genf"}}
    assert identity() == identity(id="x", params={"arguments": {"city": "Bern"}, "name": "weather"})
    assert identity() != identity(params=other_city)
    assert identity() != identity(method="prompts/get")


def test_the_repr_of_a_call_shows_no_arguments() -> None:
    assert "Bern" not in repr(mcp.read_call(call()))


@pytest.mark.parametrize(
    ("paid", "status"),
    [
        ({"content": []}, 200),
        ({"content": [], "isError": True}, 500),
        ({"isError": True, "_meta": {"x402/payment-response": {"success": True}}}, 200),
        ({"isError": True, "_meta": {"x402/payment-response": {"success": False}}}, 500),
        ({"isError": True, "structuredContent": TERMS}, 402),
        (None, 500),
    ],
)
def test_the_outcome_of_a_paid_call_is_told_in_the_terms_of_http(paid: Any, status: int) -> None:
    outcome = mcp.outcome_in(answer(paid), 7)
    assert outcome is not None
    assert outcome.http_status == status


def test_the_settlement_is_the_one_in_the_result() -> None:
    settlement = {"success": True, "transaction": "0x" + "a" * 64}
    outcome = mcp.outcome_in(answer({"content": [], "_meta": {"x402/payment-response": settlement}}), 7)
    assert outcome == mcp.Outcome(200, settlement)


def run(transform: mcp.PaidAnswer, data: bytes, size: int) -> bytes:
    chunks = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(transform(chunk) for chunk in [*chunks, b""])


@given(JSON, IDS, st.integers(1, 60))
def test_the_first_id_comes_back_whatever_the_chunks(result: Any, old_id: Any, size: int) -> None:
    transform = mcp.PaidAnswer(mcp.Kind.JSON, NEW_ID, old_id)
    restored = json.loads(run(transform, answer({"value": result}, call_id=NEW_ID), size))
    assert restored == {"jsonrpc": "2.0", "id": old_id, "result": {"value": result}}
    assert transform.outcome == mcp.Outcome(200)


@given(st.integers(1, 60))
def test_in_events_too_and_those_of_others_pass_as_they_are(size: int) -> None:
    progress = b'event: message\ndata: {"jsonrpc":"2.0","method":"notifications/progress"}\n\n'
    theirs = b"event: message\ndata: " + answer({"isError": True}, call_id=NEW_ID) + b"\n\n"
    transform = mcp.PaidAnswer(mcp.Kind.EVENTS, NEW_ID, 7)
    assert run(transform, progress + theirs, size) == progress + theirs.replace(
        json.dumps(NEW_ID).encode(), b"7"
    )
    assert transform.outcome == mcp.Outcome(500)


def test_a_result_that_is_too_large_to_look_at_still_streams_under_the_first_id() -> None:
    large = answer({"content": [text("x" * mcp.MAX_MESSAGE)]}, call_id=NEW_ID)
    transform = mcp.PaidAnswer(mcp.Kind.JSON, NEW_ID, 7)
    assert json.loads(run(transform, large, 1000))["id"] == 7
    assert transform.outcome is None


def test_a_byte_is_held_back_only_while_it_may_belong_to_the_id() -> None:
    transform = mcp.PaidAnswer(mcp.Kind.EVENTS, NEW_ID, 7)
    assert transform(b"data: {}\n\n") == b"data: {}\n\n"
    assert transform(b'x"osm') == b"x"
    assert transform(b"xx") == b'"osmxx'


@given(JSON, st.integers(1, 60))
def test_a_json_answer_becomes_one_event(value: Any, size: int) -> None:
    data = json.dumps(value, indent=1).replace("\n", "\r\n").encode()
    as_event = mcp.AsEvent(mcp.PaidAnswer(mcp.Kind.JSON, NEW_ID, 7))
    stream = b"".join(as_event(data[i : i + size]) for i in range(0, len(data), size)) + as_event(b"")
    (event,) = EventStream(len(stream)).feed(stream)
    assert event.message is not None
    assert json.loads(event.message) == value


def test_a_cancellation_follows_the_call_to_its_new_id() -> None:
    body = json.dumps(
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7, "reason": "bored"}}
    ).encode()
    found = mcp.read_cancelled(body)
    assert found is not None
    assert found[0] == 7
    assert json.loads(mcp.cancelling(found[1], NEW_ID))["params"] == {"requestId": NEW_ID, "reason": "bored"}


def test_a_call_that_would_hold_up_all_other_traffic_is_not_read() -> None:
    def call(size: int) -> bytes:
        params = {"name": "see", "arguments": {"image": "x" * size}}
        return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()

    around = len(call(0))
    assert mcp.read_call(call(mcp.MAX_CALL - around)) is not None
    assert mcp.read_call(call(mcp.MAX_CALL - around + 1)) is None
