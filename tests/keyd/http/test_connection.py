"""What a peer may send, how slowly, and how much: everything else is refused with a reason and hurts nobody."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyd.api import MAX_BODY, Role
from keyd.client import KeydClient, KeydRefused
from keyd.http import connection
from keyd.http.listener import TURNED_AWAY_AT_ONCE, Listener
from keyd.http.messages import Refused, Request, Response, refusal
from keyd.http.quotas import Place, Quotas, Share
from keyd.peer import Peer, Roles

GET = b"GET /health HTTP/1.1\r\nHost: keyd\r\n\r\n"
HEAD = b"POST /x402/sign HTTP/1.1\r\nHost: keyd\r\n"
SHORT_S = 0.15
"""For the one limit that a test is about: all others stay as they are, so that a machine that stalls meets none of them."""
WAIT_S = 60.0
"""For an event; only a hanging test waits that long."""
SHARE = 4


class Served:
    """A listener whose endpoint answers with the length of the body that it got."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keyd.sock"
        roles = Roles({role: frozenset({os.getuid()}) for role in Role}, dict.fromkeys(Role, frozenset()))
        shares = dict.fromkeys([*Role, None], Share(SHARE, SHARE))
        self.quotas = Quotas(roles, shares)
        self.listener = Listener(self.answer, self.quotas, lambda: 0)
        self.entered = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.answer_bytes = 0

    async def answer(self, request: Request) -> Response:
        self.entered.set()
        await self.may_answer.wait()
        if request.path == "/nobody-reads-my-body":
            return Response(b"{}", 403)
        if request.path == "/long":
            return Response(b'"' + b"x" * self.answer_bytes + b'"')
        try:
            body = await request.body()
        except Refused as refused:  # as keyd.server does
            return refusal(refused)
        return Response(
            json.dumps({"path": request.path, "query": request.query, "body": len(body)}).encode()
        )

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self.path))

    async def say(self, *pieces: bytes, eof: bool = False) -> list[tuple[int, Any]]:
        """Every answer until keyd closes the connection."""
        reader, writer = await self.connect()
        for piece in pieces:
            writer.write(piece)
        if eof:
            writer.write_eof()
        try:
            return _answers(await asyncio.wait_for(reader.read(), WAIT_S))
        finally:
            writer.close()


def _answers(received: bytes) -> list[tuple[int, Any]]:
    answers = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        length = int(fields.get("content-length", 0))
        answers.append((int(lines[0].split()[1]), json.loads(rest[:length]) if length else None))
        received = rest[length:]
    return answers


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    served = Served(tmp_path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(served.path))
    served.listener.start(bound)
    yield served
    served.may_answer.set()
    await served.listener.close()


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets limits of the connections that are made from now on."""

    def limit(**seconds: float) -> None:
        for name, value in seconds.items():
            monkeypatch.setattr(connection, name, value)

    return limit


async def test_requests_of_one_connection_are_answered_in_their_order(served: Served) -> None:
    last = b"GET /b?x=1 HTTP/1.1\r\nHost: keyd\r\nConnection: close\r\n\r\n"
    posted = HEAD + b"Content-Length: 3\r\n\r\nabc"
    assert [
        (status, body["path"], body["body"]) for status, body in await served.say(GET + posted + last)
    ] == [
        (200, "/health", 0),
        (200, "/x402/sign", 3),
        (200, "/b", 0),
    ]


async def test_who_sends_many_requests_at_once_keeps_nobody_waiting(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one connection of an agent would keep payments from being signed for as long as it goes on."""
    answer, answered = served.listener._answer, []

    async def noting(request: Request) -> Response:
        answered.append(request.path)
        return await answer(request)

    monkeypatch.setattr(served.listener, "_answer", noting)
    many, one = await served.connect(), await served.connect()
    many[1].write(GET * 1000)
    one[1].write(GET.replace(b"/health", b"/x402/sign"))
    await one[0].readuntil(b"\r\n\r\n")
    assert answered.index("/x402/sign") < 100
    for _, writer in (many, one):
        writer.close()


async def test_a_peer_that_closed_its_side_still_gets_its_answer(served: Served) -> None:
    [(status, body)] = await served.say(HEAD + b"Content-Length: 3\r\n\r\nabc", eof=True)
    assert (status, body["body"]) == (200, 3)


async def test_a_client_that_waits_to_send_its_body_is_told_to(served: Served) -> None:
    reader, writer = await served.connect()
    writer.write(HEAD + b"Content-Length: 3\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    writer.write(b"abc")
    assert _answers(await reader.read())[0][1]["body"] == 3
    writer.close()


async def test_the_answer_to_head_has_no_body(served: Served) -> None:
    reader, writer = await served.connect()
    writer.write(b"HEAD /health HTTP/1.1\r\nHost: keyd\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).endswith(b"\r\n\r\n")
    writer.close()


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "not HTTP/1.1"),
        (b"GET /health\r\n\r\n", 400, "not HTTP/1.1"),
        (b"GET /" + b"a" * connection.MAX_HEAD + b" HTTP/1.1\r\nHost: keyd\r\n\r\n", 431, "the head has"),
        (HEAD + b"A: b\r\n" * connection.MAX_HEAD + b"\r\n", 431, "not HTTP/1.1"),
        (b"GET /health HTTP/1.1\r\n\r\n", 400, "Host"),
        (HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400, "not HTTP/1.1"),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n", 501, "not HTTP/1.1"),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400, "not HTTP/1.1"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 411, "not in chunks"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * MAX_BODY, 411, "not in chunks"),
        (
            HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1) + b" " * (MAX_BODY + 1),
            413,
            "the body has more than",
        ),
        (HEAD + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1), 413, "the body has more than"),
    ],
)
async def test_what_is_malformed_or_too_large_is_refused_with_a_reason(
    served: Served, sent: bytes, status: int, words: str
) -> None:
    [(got, refusal)] = await served.say(sent, eof=True)
    assert (got, refusal["code"]) == (status, "request_malformed")
    assert words in refusal["detail"]
    assert refusal["hint"]


async def test_a_head_that_drips_is_refused_in_time(served: Served, limit: Callable[..., None]) -> None:
    reader, writer = await served.connect()
    writer.write(GET)  # what comes after it may wait for IDLE_S, and its first byte is in time on any machine
    assert _answers(await reader.readuntil(b"0}"))[0][0] == 200
    limit(HEAD_S=SHORT_S)
    answer = asyncio.create_task(reader.read())
    for byte in HEAD * 100:
        writer.write(bytes([byte]))
        if (await asyncio.wait([answer], timeout=SHORT_S / 10))[0]:
            break
    [(status, refusal)] = _answers(await answer)
    assert (status, refusal["code"]) == (408, "request_malformed")
    writer.close()


async def test_a_body_that_never_comes_is_refused_in_time(served: Served, limit: Callable[..., None]) -> None:
    limit(BODY_S=SHORT_S)
    [(status, refusal)] = await served.say(HEAD + b"Content-Length: 10\r\n\r\nabc")
    assert (status, refusal["code"]) == (408, "request_malformed")


@pytest.mark.parametrize(("before", "patience"), [(b"", "HEAD_S"), (GET, "IDLE_S")])
async def test_a_connection_that_nobody_uses_is_closed(
    served: Served, limit: Callable[..., None], before: bytes, patience: str
) -> None:
    limit(**{patience: SHORT_S})
    assert len(await served.say(before)) == bool(before)


async def test_a_peer_that_does_not_take_its_answer_loses_its_place(
    served: Served, limit: Callable[..., None]
) -> None:
    limit(SEND_S=SHORT_S, LINGER_S=SHORT_S)
    served.answer_bytes = 20_000_000
    writers = []
    for _ in range(SHARE):
        _, writer = await asyncio.open_unix_connection(str(served.path), limit=1)
        writer.transport.pause_reading()
        writer.write(b"GET /long HTTP/1.1\r\nHost: keyd\r\n\r\n")
        writers.append(writer)
    async with asyncio.timeout(WAIT_S):
        while (await served.say(GET, eof=True))[0][0] == 503:
            pass
    for writer in writers:
        writer.transport.abort()


async def test_a_refusal_reaches_a_peer_that_is_still_sending(served: Served) -> None:
    sent = b"POST /nobody-reads-my-body HTTP/1.1\r\nHost: keyd\r\nContent-Length: 500000\r\n\r\n"
    assert await served.say(sent + b" " * 500_000) == [(403, {})]


async def test_a_small_body_that_nobody_read_does_not_end_the_connection(served: Served) -> None:
    sent = b"POST /nobody-reads-my-body HTTP/1.1\r\nHost: keyd\r\nContent-Length: 2\r\n\r\n{}"
    last = b"GET /b HTTP/1.1\r\nHost: keyd\r\nConnection: close\r\n\r\n"
    assert [status for status, _ in await served.say(sent + last)] == [403, 200]


async def test_who_has_as_many_connections_as_it_may_is_told_so_until_one_is_closed(served: Served) -> None:
    held = [await served.connect() for _ in range(SHARE)]
    for reader, writer in held:
        writer.write(GET)
        assert await reader.readuntil(b"\r\n\r\n")
    [(status, refusal)] = await served.say(GET)
    assert (status, refusal["code"]) == (503, "connections_exceeded")

    held[0][1].close()
    async with asyncio.timeout(WAIT_S):  # keyd sees it a moment later
        while (await served.say(GET, eof=True))[0][0] == 503:
            pass
    for _, writer in held:
        writer.close()


async def test_our_own_client_says_why_it_was_turned_away(served: Served) -> None:
    held = [await served.connect() for _ in range(SHARE)]
    for _ in range(20):  # the answer may be there before the question is
        async with KeydClient(str(served.path)) as client:
            with pytest.raises(KeydRefused, match="connections_exceeded"):
                await client.ledger_head()
    for _, writer in held:
        writer.close()


async def test_of_very_many_that_are_turned_away_most_are_closed_without_a_word(
    served: Served, limit: Callable[..., None]
) -> None:
    limit(LINGER_S=WAIT_S)  # none of them is through before all have come
    held = [await served.connect() for _ in range(SHARE)]
    crowd = [await served.connect() for _ in range(TURNED_AWAY_AT_ONCE + 20)]
    for _, writer in crowd:
        writer.write_eof()
    said = [await reader.read() for reader, _ in crowd]
    assert sum(b"connections_exceeded" in answer for answer in said) <= TURNED_AWAY_AT_ONCE
    assert said.count(b"") >= 1
    for _, writer in held + crowd:
        writer.close()


async def test_at_the_end_idle_connections_are_closed_and_busy_ones_are_answered(served: Served) -> None:
    idle, _ = await served.connect()
    busy, writer = await served.connect()
    served.may_answer.clear()
    writer.write(GET)
    await served.entered.wait()
    closing = asyncio.create_task(served.listener.close())
    assert await idle.read() == b""
    served.may_answer.set()
    head = await busy.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in head.lower()
    writer.close()
    await closing
    with pytest.raises(OSError, match="refused"):
        await served.connect()


async def test_a_fault_about_one_connection_does_not_make_keyd_deaf(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = served.quotas.take
    faults = iter([OSError("the user database is broken")])

    def broken(peer: Peer) -> Place | None:
        for fault in faults:
            raise fault
        return take(peer)

    monkeypatch.setattr(served.quotas, "take", broken)
    assert await served.say() == []
    assert (await served.say(GET, eof=True))[0][0] == 200


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from(
                [
                    GET,
                    HEAD,
                    b"Content-Length: 5\r\n",
                    b"Transfer-Encoding: chunked\r\n",
                    b"\r\n",
                    b"5\r\nhello\r\n",
                ]
            ),
        ),
        max_size=8,
    )
)
async def test_whatever_comes_keyd_answers_in_whole_answers_and_serves_the_next(
    served: Served, pieces: list[bytes]
) -> None:
    statuses = [status for status, _ in await served.say(*pieces, eof=True)]
    assert set(statuses) <= {200, 400, 411, 431, 501}
    assert (await served.say(GET, eof=True))[0][0] == 200
