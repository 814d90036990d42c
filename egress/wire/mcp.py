"""Paid MCP calls: the call, the terms in its answer, the paid call, and its answer under the first call's id.

Over streamable HTTP an MCP server asks for payment inside an ordinary answer with status 200. Pure: no I/O, and
the new id is an argument. Sources: x402 specs/transports-v2/mcp.md; MCP specification, basic/transports (streamable
HTTP), basic (requests and ids).

What is paid is the protocol's own shape alone: a JSON-RPC error 402, or a result that is an error and nothing but
terms. Terms inside the content of a tool that did its work are content.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final

from egress.wire import strictjson, x402
from egress.wire.sse import EventStream

PAYMENT: Final = "x402/payment"
"""Member of `params._meta` that pays (PaymentPayload as an object)."""
PAYMENT_RESPONSE: Final = "x402/payment-response"
"""Member of `result._meta` with the SettlementResponse."""

MAX_MESSAGE: Final = 256 * 1024
"""Bytes of an answer that is looked at. Terms take a few KB; a larger answer is a result, and streams."""
MAX_CALL: Final = 1024 * 1024
"""Bytes of a request that is looked at, an image in it included. While one is read, no other traffic goes on."""

_PAYABLE: Final = {"tools/call": "name", "resources/read": "uri", "prompts/get": "name"}
"""Methods that a server can charge for, and the parameter that says what is called."""
_JSONRPC_PAYMENT_REQUIRED: Final = 402

type Id = str | int


class Kind(Enum):
    """How an answer carries its message: alone, or as server-sent events among others."""

    JSON = auto()
    EVENTS = auto()


@dataclass(frozen=True, slots=True)
class Call:
    """A JSON-RPC request that may have to be paid for."""

    id: Id
    method: str
    name: str
    message: Mapping[str, Any] = field(repr=False)
    """The request as the client sent it."""

    @property
    def what(self) -> str:
        """Names what is bought at an endpoint that sells many things at one path: "tools/call/weather"."""
        return f"{self.method}/{self.name}"

    @property
    def identity(self) -> bytes:
        """The same for the same purchase: a client that calls again takes a new id and a new progress token."""
        params = {name: value for name, value in self.message["params"].items() if name != "_meta"}
        return json.dumps([self.method, params], sort_keys=True, separators=(",", ":")).encode()

    def paid_with(self, payment: Mapping[str, Any], new_id: str) -> bytes:
        """The call to be sent instead: with its payment, and an id that this session has not seen."""
        params = self.message["params"]
        meta = {**params.get("_meta", {}), PAYMENT: payment}
        message = {**self.message, "id": new_id, "params": {**params, "_meta": meta}}
        return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()


@dataclass(frozen=True, slots=True)
class PaidCall:
    """A call with its payment: a bearer instrument, so it stays out of repr()."""

    call: Call
    new_id: str
    body: bytes = field(repr=False)

    @classmethod
    def of(cls, call: Call, payment: Mapping[str, Any], new_id: str) -> PaidCall:
        return cls(call, new_id, call.paid_with(payment, new_id))


def read_call(body: bytes) -> Call | None:
    """The payable call in the body of a POST; None for everything else, and for one that brings its own payment."""
    message = _object(body) if len(body) <= MAX_CALL and b'"jsonrpc"' in body else None
    if message is None or message.get("jsonrpc") != "2.0" or not _is_id(message.get("id")):
        return None
    method, params = message.get("method"), message.get("params")
    if not isinstance(method, str) or method not in _PAYABLE or not isinstance(params, dict):
        return None
    name, meta = params.get(_PAYABLE[method]), params.get("_meta", {})
    if not isinstance(name, str) or not isinstance(meta, dict) or PAYMENT in meta:
        return None
    return Call(message["id"], method, name, message)


def read_cancelled(body: bytes) -> tuple[Id, Mapping[str, Any]] | None:
    """The id that a `notifications/cancelled` names, and the notification; None for any other body."""
    message = _object(body) if b"notifications/cancelled" in body else None
    if message is None or message.get("method") != "notifications/cancelled":
        return None
    params = message.get("params")
    if not isinstance(params, dict) or not _is_id(params.get("requestId")):
        return None
    return params["requestId"], message


def cancelling(message: Mapping[str, Any], new_id: str) -> bytes:
    """The same notification about the paid call."""
    renamed = {**message, "params": {**message["params"], "requestId": new_id}}
    return json.dumps(renamed, separators=(",", ":"), ensure_ascii=False).encode()


def is_answer(message: bytes, call_id: Id) -> bool:
    """Whether `message` is the answer to `call_id`, whatever it says."""
    return _answer(message, call_id) is not None


def terms_in(answer: bytes, call_id: Id) -> x402.PaymentRequired | None:
    """The terms of the answer to `call_id`, if it is an answer that asks for payment and nothing else."""
    message = _answer(answer, call_id)
    stated = None if message is None else _stated_terms(message)
    if not isinstance(stated, dict):
        return None
    if "x402_version" in stated:
        stated = {"x402Version": stated["x402_version"], **stated}
    try:
        terms = x402.payment_required(stated, default_version=None)
    except x402.X402Error:
        return None
    return terms if terms.accepts else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a paid call's answer says, in the terms of HTTP, so that keyd judges both alike."""

    http_status: int
    """200: the tool did its work. 402: it asks again. 500: it failed, and settled nothing that it tells of."""
    settlement: dict[str, Any] | None = None


def outcome_in(answer: bytes, call_id: Id) -> Outcome | None:
    """What the answer to `call_id` says of its payment; None if `answer` is another message."""
    message = _answer(answer, call_id)
    if message is None:
        return None
    result = message.get("result")
    meta = result.get("_meta") if isinstance(result, dict) else None
    settlement = meta.get(PAYMENT_RESPONSE) if isinstance(meta, dict) else None
    settlement = settlement if isinstance(settlement, dict) else None
    if terms_in(answer, call_id) is not None:
        return Outcome(402, settlement)
    settled = settlement is not None and settlement.get("success") is True
    worked = isinstance(result, dict) and result.get("isError") is not True
    return Outcome(200 if worked or settled else 500, settlement)


class PaidAnswer:
    """The answer to a paid call on its way to the client: every byte at once, the first call's id put back.

    The new id is random and quoted, so its bytes stand for nothing else, in JSON and in events alike. Called by
    mitmproxy with each chunk, and with b"" at the end (`flow.response.stream`).
    """

    def __init__(self, kind: Kind, new_id: str, old_id: Id) -> None:
        self.outcome: Outcome | None = None
        """What the answer said, once it has."""
        self.kind = kind
        self._new_id = new_id
        self._needle = json.dumps(new_id).encode()
        self._old = json.dumps(old_id, ensure_ascii=False).encode()
        self._events = EventStream(MAX_MESSAGE)
        self._body = bytearray()
        self._tail = b""

    def __call__(self, data: bytes) -> bytes:
        if self.outcome is None:
            self._look_at(data)
        *before, last = (self._tail + data).split(self._needle)
        keep = _overlap(last, self._needle) if data else 0
        self._tail = last[len(last) - keep :]
        return self._old.join([*before, last[: len(last) - keep]])

    def _look_at(self, data: bytes) -> None:
        if self.kind is Kind.EVENTS:
            for event in self._events.feed(data):
                if (message := event.message) is not None and self.outcome is None:
                    self.outcome = outcome_in(message, self._new_id)
        elif not data:
            self.outcome = outcome_in(bytes(self._body), self._new_id)
        elif len(self._body) <= MAX_MESSAGE:
            self._body += data


class AsEvent:
    """A JSON answer as one server-sent event, for a client whose first answer began as a stream of events."""

    def __init__(self, answer: PaidAnswer) -> None:
        self._answer = answer
        self._begun = False

    def __call__(self, data: bytes) -> bytes:
        start = b"" if self._begun else b"event: message\ndata: "
        end = b"" if data else b"\n\n"
        self._begun = True
        # Between the tokens of JSON a line end is white space; inside a string it cannot stand.
        return start + self._answer(data).replace(b"\r", b" ").replace(b"\n", b" ") + end


def _answer(data: bytes, call_id: Id) -> dict[str, Any] | None:
    if len(data) > MAX_MESSAGE:
        return None
    message = _object(data)
    if message is None or "method" in message or message.get("jsonrpc") != "2.0":
        return None
    answered = message.get("id")
    return message if type(answered) is type(call_id) and answered == call_id else None


def _stated_terms(message: Mapping[str, Any]) -> Any:
    error, result = message.get("error"), message.get("result")
    if isinstance(error, dict) and error.get("code") == _JSONRPC_PAYMENT_REQUIRED:
        return error.get("data")
    if not isinstance(result, dict) or result.get("isError") is not True:
        return None
    if (structured := result.get("structuredContent")) is not None:
        return structured
    content = result.get("content")
    if not isinstance(content, list) or len(content) != 1 or not isinstance(content[0], dict):
        return None
    text = content[0].get("text")
    if content[0].get("type") != "text" or not isinstance(text, str):
        return None
    return _object(text.encode("utf-8", "replace"))


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        value = strictjson.loads(data)
    except strictjson.JsonError:
        return None
    return value if isinstance(value, dict) else None


def _is_id(value: Any) -> bool:
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def _overlap(text: bytes, needle: bytes) -> int:
    """Length of the longest end of `text` that begins `needle`."""
    longest = min(len(text), len(needle) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(needle[:size])), 0)
