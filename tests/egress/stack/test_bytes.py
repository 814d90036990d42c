"""Whatever an application and a server say to each other in HTTP/1.1 arrives as it was sent (RFC 9110, 9112)."""

from __future__ import annotations

import string
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.proxy import Exchange

TOKEN = st.text(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~", min_size=1, max_size=12)
OWN = (
    "x-402-",
    "proxy-",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "expect",
    "host",
    "te",
    "payment-",
    "x-payment",
)
"""Fields that mean something to a proxy: they have tests of their own."""
NAME = TOKEN.filter(lambda name: not name.lower().startswith(OWN))
VALUE = st.text("".join(map(chr, [*range(0x21, 0x7F), *range(0xA0, 0x100)])) + " \t", max_size=30).map(
    str.strip
)
FIELDS = st.lists(st.tuples(NAME, VALUE), max_size=8)
TARGET = st.text(string.ascii_letters + string.digits + "-._~%!$&'()*+,;=:@/?[]{}|^`\"<>\\", max_size=40)
METHOD = TOKEN.filter(lambda method: method.upper() not in ("CONNECT", "HEAD", "PRI"))
PIECES = st.lists(st.binary(min_size=1, max_size=50), max_size=5)
REASON = st.text(string.printable[:95], max_size=20).map(str.strip)
STATUS = st.integers(200, 599).filter(lambda status: status not in (204, 304, 402, 412))


def lines(fields: Sequence[tuple[str, str]]) -> bytes:
    return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in fields)


def chunked(pieces: Sequence[bytes], trailers: Sequence[tuple[str, str]]) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return body + b"0\r\n" + lines(trailers) + b"\r\n"


@given(METHOD, TARGET, FIELDS, st.none() | PIECES, FIELDS)
def test_a_request_arrives_as_it_was_sent(
    method: str,
    target: str,
    fields: list[tuple[str, str]],
    pieces: list[bytes] | None,
    trailers: list[tuple[str, str]],
) -> None:
    if pieces is None:
        rest = lines(fields) + b"\r\n"
    else:
        rest = lines(fields) + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(pieces, trailers)
    host = b"Host: api.example.com\r\n"
    start = f"{method} http://api.example.com/{target} HTTP/1.1\r\n".encode()
    exchange = Exchange(start + host + rest)
    assert exchange.upstream == f"{method} /{target} HTTP/1.1\r\n".encode() + host + rest


@given(STATUS, REASON, FIELDS, st.binary(max_size=100), PIECES, FIELDS, st.booleans())
def test_an_answer_arrives_as_it_was_sent(
    status: int,
    reason: str,
    fields: list[tuple[str, str]],
    body: bytes,
    pieces: list[bytes],
    trailers: list[tuple[str, str]],
    in_chunks: bool,
) -> None:
    head = f"HTTP/1.1 {status} {reason}\r\n".encode() + lines(fields)
    if in_chunks:
        answer = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(pieces, trailers)
    else:
        answer = head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    exchange = Exchange(GET)
    exchange.serve(answer, b"")
    assert exchange.received == answer


@given(st.sampled_from([204, 304]), REASON, FIELDS, st.none() | st.integers(0, 10**9))
def test_an_answer_without_a_body_arrives_as_it_was_sent(
    status: int, reason: str, fields: list[tuple[str, str]], length: int | None
) -> None:
    stated = b"" if length is None or status == 204 else b"Content-Length: %d\r\n" % length
    answer = f"HTTP/1.1 {status} {reason}\r\n".encode() + lines(fields) + stated + b"\r\n"
    exchange = Exchange(GET)
    exchange.serve(answer, b"")
    assert exchange.received == answer


@given(STATUS, FIELDS, st.sampled_from([b"", b"Content-Length: 99\r\n", b"Transfer-Encoding: chunked\r\n"]))
def test_an_answer_to_head_arrives_as_it_was_sent(
    status: int, fields: list[tuple[str, str]], stated: bytes
) -> None:
    answer = f"HTTP/1.1 {status} \r\n".encode() + lines(fields) + stated + b"\r\n"
    exchange = Exchange(GET.replace(b"GET", b"HEAD"))
    exchange.serve(answer, b"")
    assert exchange.received == answer


@given(st.binary(max_size=200))
def test_an_answer_that_ends_with_its_connection_arrives_whole(body: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\n" + body
    exchange = Exchange(GET)
    exchange.serve(answer, b"")
    assert exchange.received == answer


GET = b"GET http://api.example.com/a HTTP/1.1\r\nHost: api.example.com\r\n\r\n"
