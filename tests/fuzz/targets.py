"""What strangers can send, one function for each parser: bytes in, nothing out, an exception if a promise is broken.

The promises: no exception but the declared one, in bounded time, and never a payment without terms. CI runs every
target with hypothesis and on the cases found so far (test_targets.py); `make fuzz` runs them guided by coverage.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final
from unittest import mock

from mitmproxy import http
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from bridge import views
from bridge.market import Market
from bridge.terms import read_terms
from bridge.untrusted import untrusted
from bridge.web import NotAnswered, Page
from egress.callers.identity import session_digest, verified_name
from egress.paying import steering
from egress.reach.destinations import is_private, normal_host
from egress.wire import strictjson, x402
from keyd import api
from keyd.core import intent
from keyd.core.applimits import AppLimits
from keyd.core.policy import Allow, Standing, decide
from keyd.domains import DomainPattern
from keyd.http.connection import Connection
from keyd.http.messages import Request, Response
from keyd.peer import Peer
from tests.fuzz.proxy import Exchange
from tests.keyd.conftest import PAYER, POLICY

_PAYLOAD: Final = {"signature": "0x" + "5e" * 65, "authorization": {"value": "1"}}
NOW_S: Final = 1_700_000_000
_TOKEN: Final = b"right"
_TOKENS: Final = {"ci": hashlib.sha256(_TOKEN).digest()}


def terms(data: bytes) -> None:
    """A 402: the lines of its header, then its body. What it offers is echoed as it came, or not at all."""
    *lines, body = data.split(b"\0")
    headers = [line.decode("latin-1") for line in lines]
    try:
        required = x402.read_payment_required(headers, body, flat_dialect=True)
    except x402.X402Error:
        return
    sendable = x402.sendable(required)
    for i, entry in enumerate(required.accepts):
        try:
            header = x402.encode_payment(required, i, _PAYLOAD, "0" * 32)
        except x402.X402Error:
            continue
        assert len(header.value) <= x402.MAX_PAYMENT_HEADER
        assert "\n" not in header.value
        sent = json.loads(base64.b64decode(header.value, validate=True))
        echoed = sent["accepted"] if required.version == 2 else {k: sent[k] for k in ("scheme", "network")}
        assert required.version == 1 or echoed == entry
    if sendable is not None:
        offers = list(sendable.accepts[: api.MAX_OFFERS])
        judge({"x402_version": required.version, "dialect": required.dialect, "offers": offers})


def judge(terms: Mapping[str, Any]) -> None:
    """keyd's decision about these offers: what it allows is written in the offer, and within policy."""
    request = {
        "origin": {"scheme": "https", "host": "api.example.com", "port": 443},
        "method": "GET",
        "path": "/a",
        "fingerprint": "0" * 64,
        "caller": {"uid": 1000},
        "started_at": 0,
        **terms,
    }
    asked = intent.from_request(api.SignRequest.model_validate(request), POLICY.assets, NOW_S)
    decision = decide(asked, POLICY, payer=PAYER, standing=Standing())
    if isinstance(decision, Allow):
        chosen = terms["offers"][decision.offer.index]
        offer = decision.offer
        assert offer.pay_to.lower() == chosen["payTo"].lower()
        if request["dialect"] == "flat":
            assert Decimal(offer.amount) == Decimal(str(chosen["amount"])).scaleb(offer.asset.decimals)
        else:
            stated = chosen.get("amount", chosen.get("maxAmountRequired"))
            assert str(offer.amount) == stated.lstrip("0")
            assert offer.asset.address.lower() == chosen["asset"].lower()
        assert 0 < decision.offer.usd_micros <= POLICY.max_payment


def settlement(data: bytes) -> None:
    """PAYMENT-RESPONSE of a paid answer: a well-formed hash or none."""
    read = x402.read_settlement([line.decode("latin-1") for line in data.split(b"\0")])
    shown = x402.transaction_hash(read)
    assert shown is None or len(shown) == 66


def application(data: bytes) -> None:
    """Headers of the application's request. Whatever is said for egress goes no further."""
    lines = [line.partition(b":")[::2] for line in data.split(b"\n")]
    headers = http.Headers([(name, value.strip()) for name, value in lines if name])
    wishes = steering.Wishes.of(headers)
    with contextlib.suppress(ValueError):
        AppLimits.parse(wishes.max_spend, wishes.prefer)
    steering.refusal_by_trailers(headers)
    steering.strip(headers)
    left = {name.lower() for name in headers if name.lower().startswith("x-402-")}
    assert left <= {"x-402-payment"}


def credentials(data: bytes) -> None:
    """Proxy-Authorization: nobody gets a name without its token."""
    header = data.decode("utf-8", "surrogateescape")
    session_digest(header)
    name = verified_name(header, _TOKENS)
    if name is not None:
        assert name == "ci"
        proof = base64.b64decode(data.split(None, 1)[1].strip())
        assert proof == b"ci:" + _TOKEN


def host(data: bytes) -> None:
    """Names and addresses in URLs: the normal form is normal, and the way a policy reads it too."""
    text = data.decode("utf-8", "surrogateescape")
    normal = normal_host(text)
    if normal is not None:
        assert normal_host(normal) == normal
    for parse in (is_private, DomainPattern.parse):
        with contextlib.suppress(ValueError):
            parse(text)


def body(data: bytes) -> None:
    """JSON of a 402's body and of a header."""
    with contextlib.suppress(strictjson.JsonError):
        value = strictjson.loads(data)
        assert strictjson.loads(json.dumps(value)) == value


def sign(data: bytes) -> None:
    """The body of POST /x402/sign: what keyd decides about it is an answer, never a fault."""
    try:
        document = from_json(data, allow_inf_nan=False)
        if isinstance(document, dict) and "offers" not in document and "domain" in document:
            flat = api.FlatSignRequest.model_validate(document)
            asked = intent.from_flat(flat, POLICY.assets, NOW_S, caller="uid:1000")
        else:
            asked = intent.from_request(api.SignRequest.model_validate(document), POLICY.assets, NOW_S)
    except ValueError:
        return
    decision = decide(asked, POLICY, payer=PAYER, standing=Standing())
    if isinstance(decision, Allow):
        assert asked.origin.host == "api.example.com"
        assert 0 < decision.offer.usd_micros <= POLICY.max_payment


MESSAGES: Final[tuple[type[BaseModel], ...]] = (
    api.OutcomeReport,
    api.ChainEvidence,
    api.PolicyPatch,
    api.QuoteRequest,
    api.SessionOpen,
    api.SignReply,
    api.PolicyView,
    api.Refusal,
)
"""The other bodies on keyd's socket, in both directions."""


def message(data: bytes) -> None:
    for model in MESSAGES:
        with contextlib.suppress(ValidationError):
            read = model.model_validate_json(data)
            assert model.model_validate_json(read.model_dump_json(by_alias=True)) == read


def keyd_connection(data: bytes) -> None:
    """A peer's bytes on keyd's socket: every request is answered or refused, and the connection ends."""
    _LOOP.run_until_complete(_serve_keyd(data))


async def _serve_keyd(data: bytes) -> None:
    async def echo(request: Request) -> Response:
        return Response(json.dumps({"size": len(await request.body())}).encode())

    reader, writer = asyncio.StreamReader(), mock.MagicMock()
    writer.drain = mock.AsyncMock()
    reader.feed_data(data)
    reader.feed_eof()
    await Connection(reader, writer, Peer(1, 1000, 1000), echo).serve()
    writer.transport.abort.assert_called_once()


_LOOP: Final = asyncio.new_event_loop()


def answer(data: bytes) -> None:
    """A server's bytes through egress's HTTP/1: the first connection's, then what follows the payment."""
    first, _, second = data.partition(b"\0\0")
    exchange = Exchange(REQUEST)
    exchange.serve(first, second)
    assert exchange.paid <= min(1, len(exchange.signed))
    assert len(exchange.payments) <= len(exchange.servers)  # the same one again only on another connection
    if exchange.signed:
        assert exchange.signed[0].offers  # keyd was asked for nothing that was not offered


def request(data: bytes) -> None:
    """An application's bytes through egress's HTTP/1: nothing that is meant for egress leaves it."""
    exchange = Exchange(data)
    exchange.serve(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"")
    assert exchange.signed == []
    head = exchange.upstream.partition(b"\r\n\r\n")[0].lower()
    for name in (b"x-402-(?!payment:)", b"proxy-authorization:", b"proxy-connection:"):
        assert re.search(b"\r\n" + name, head) is None


def answer_http2(data: bytes) -> None:
    """A server's frames."""
    exchange = Exchange(REQUEST, server=b"h2")
    exchange.serve(data, b"")
    assert len(exchange.signed) <= 1


def request_http2(data: bytes) -> None:
    """An application's frames."""
    exchange = Exchange(PREFACE + data, client=b"h2")
    exchange.serve(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"")
    assert exchange.signed == []


PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
REQUEST: Final = b"GET http://api.example.com/a HTTP/1.1\r\nHost: api.example.com\r\n\r\n"


def quoted(data: bytes) -> None:
    """A 402 that the bridge asks for a price: read as egress reads it, and shown on one line that opens nothing."""
    *lines, body = data.split(b"\0")
    headers = [line.decode("latin-1") for line in lines]
    found = read_terms(headers, body)
    try:
        by_egress = x402.read_payment_required(headers, body)
    except x402.X402Error:
        assert found is None
        return
    assert found is not None
    assert (found.version, found.accepts) == (by_egress.version, by_egress.accepts)
    check_harmless(untrusted(found.description))


def marketplace(data: bytes) -> None:
    """What a facilitator lists: entries that can be shown, or a fault in words."""
    page = Page(200, payment_required=(), location=None, egress=None, body=data)
    keyd = mock.AsyncMock()
    keyd.quote.return_value = api.Quote(verdict="pay")
    web = mock.AsyncMock()
    web.get.return_value = page
    try:
        found = asyncio.run(Market(web, keyd).discover("https://facilitator.example", None, 20))
    except NotAnswered:
        return
    for entry in views.discover_answer(found).found:
        for text in (entry.resource, entry.name, entry.description):
            check_harmless(text)


def check_harmless(text: str) -> None:
    assert len(text) <= 500
    assert text.isprintable()
    assert not set('"`*[]{}<#|~!$') & set(text)


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    target.__name__: target
    for target in (
        terms,
        settlement,
        application,
        credentials,
        host,
        body,
        sign,
        message,
        answer,
        request,
        answer_http2,
        request_http2,
        keyd_connection,
        quoted,
        marketplace,
    )
}
