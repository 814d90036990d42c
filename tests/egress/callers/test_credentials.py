"""Proxy credentials: the token of a caller, or of a session; whatever else is shown is no caller's."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web
from pydantic import ValidationError
from structlog.testing import capture_logs

from egress.config import EgressSettings
from keyd.api import Caller, SignRequest
from tests.egress.conftest import RunEgress, World
from tests.egress.support.client import App
from tests.egress.support.keyd import FakeKeyd, refusal
from tests.egress.support.upstream import selling, serving
from tests.egress.support.wire import Message, paid_answer, payment_required, read_message

SELLER = selling(lambda _: paid_answer(), lambda _: payment_required())
TOKEN = "correct horse battery staple"
CALLERS = ({"name": "ci", "token_sha256": hashlib.sha256(TOKEN.encode()).hexdigest()},)
ME = Caller(uid=os.getuid())


def basic(name: str, token: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{token}".encode()).decode()


async def connect(app: App, authorization: str | None) -> Message:
    """A CONNECT on the application's connection, with credentials."""
    authority = f"127.0.0.1:{app.upstream.port}"
    field = "" if authorization is None else f"Proxy-Authorization: {authorization}\r\n"
    await app.write(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{field}\r\n".encode())
    head = (await app.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    answer = Message(head[0], [tuple(line.split(": ", 1)) for line in head[1:] if line])  # type: ignore[misc]
    await app.reader.readexactly(int(answer.get("Content-Length") or 0))
    return answer


class Tunnel(App):
    """An application that leaves the CONNECT to the test."""

    async def tunnel(self) -> Message:
        self.tls, tls = None, self.tls
        self.inner = tls
        return Message("", [])

    async def start_tls(self) -> None:
        assert self.inner is not None
        await self.writer.start_tls(self.inner, server_hostname="127.0.0.1")


async def test_a_right_token_counts_before_the_uid(run_egress: RunEgress, keyd: FakeKeyd) -> None:
    async with (
        run_egress(callers=CALLERS) as egress,
        serving(SELLER) as upstream,
        App(egress.address, upstream) as app,
    ):
        assert (await app.get("/a", Proxy_Authorization=basic("ci", TOKEN))).status == 200
        assert (await app.get("/b")).status == 200
    assert [request.caller for request in keyd.requests] == [Caller(name="ci"), ME]
    assert all(request.get("Proxy-Authorization") is None for request in upstream.requests)


async def test_a_token_in_connect_holds_for_the_whole_tunnel(world: World, run_egress: RunEgress) -> None:
    async with (
        run_egress(callers=CALLERS) as egress,
        world.serving(SELLER, tls=True) as upstream,
        Tunnel(egress.address, upstream, world.pki.client()) as app,
    ):
        assert (await connect(app, basic("ci", TOKEN))).status == 200
        await app.start_tls()
        assert (await app.get("/a")).status == 200
        assert (await app.get("/b", Proxy_Authorization=basic("ci", "not for egress"))).status == 200
    assert [request.caller for request in world.keyd.requests] == [Caller(name="ci")] * 2
    assert all(request.get("Proxy-Authorization") is None for request in upstream.requests)


WRONG = [
    basic("ci", "wrong"),
    basic("ci", ""),
    basic("other", TOKEN),
    basic("", TOKEN),
    "Basic " + base64.b64encode(b"ci").decode(),
    "Basic not/base64!",
    "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
    f"Bearer {TOKEN}",
    "Basic",
    "",
]


@pytest.mark.parametrize("authorization", WRONG)
async def test_a_wrong_token_is_407_and_nothing_goes_upstream(
    run_egress: RunEgress, keyd: FakeKeyd, authorization: str
) -> None:
    async with (
        run_egress(callers=CALLERS) as egress,
        serving(SELLER) as upstream,
        App(egress.address, upstream) as app,
    ):
        answer = await app.get(Proxy_Authorization=authorization)
        assert (answer.status, answer.get("Proxy-Authenticate")) == (
            407,
            'Basic realm="osmoda-egress", charset="UTF-8"',
        )
        assert (await app.get(Proxy_Authorization=basic("ci", TOKEN))).status == 200
    assert [request.caller for request in keyd.requests] == [Caller(name="ci")]
    assert len(upstream.requests) == 2  # the 402 and the paid request of the right token


async def test_a_wrong_token_ends_an_upload_of_any_size_with_407(run_egress: RunEgress) -> None:
    async with run_egress(callers=CALLERS) as egress, serving(SELLER) as upstream:
        reader, writer = await asyncio.open_connection(*egress.address)
        writer.write(
            f"PUT {upstream.url()} HTTP/1.1\r\nHost: 127.0.0.1:{upstream.port}\r\n"
            f"Proxy-Authorization: {basic('ci', 'wrong')}\r\nContent-Length: 1000000000\r\n\r\n".encode()
        )
        answer = await read_message(reader)  # before the body was sent
        writer.close()
    assert answer.status == 407
    assert upstream.connections == 0


async def test_a_wrong_token_opens_no_tunnel_and_the_right_one_then_does(
    world: World, run_egress: RunEgress
) -> None:
    async with (
        run_egress(callers=CALLERS) as egress,
        world.serving(SELLER, tls=True) as upstream,
        Tunnel(egress.address, upstream, world.pki.client()) as app,
    ):
        assert (await connect(app, basic("ci", "wrong"))).status == 407
        assert upstream.connections == 0
        assert (await connect(app, basic("ci", TOKEN))).status == 200
        await app.start_tls()
        assert (await app.get()).status == 200
    assert world.keyd.requests[0].caller == Caller(name="ci")


async def test_a_tunnel_without_a_token_is_its_users(world: World, run_egress: RunEgress) -> None:
    async with (
        run_egress(callers=CALLERS) as egress,
        world.serving(SELLER, tls=True) as upstream,
        Tunnel(egress.address, upstream, world.pki.client()) as app,
    ):
        assert (await connect(app, None)).status == 200
        await app.start_tls()
        # Inside the tunnel the header is the server's business, however right the token.
        assert (await app.get(Proxy_Authorization=basic("ci", TOKEN))).status == 200
    assert world.keyd.requests[0].caller == ME


async def test_without_callers_in_the_configuration_credentials_are_not_looked_at(world: World) -> None:
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        assert (await app.get(Proxy_Authorization=basic("ci", "whatever"))).status == 200
    assert world.keyd.requests[0].caller == ME


# -- sessions ----------------------------------------------------------------------------------------------

SESSION_TOKEN = base64.urlsafe_b64encode(bytes(range(32))).rstrip(b"=").decode()
DIGEST = hashlib.sha256(SESSION_TOKEN.encode()).hexdigest()


def refusing(code: str) -> Callable[[SignRequest], Awaitable[web.Response]]:
    async def sign(_: SignRequest) -> web.Response:
        return refusal(code)

    return sign


async def test_the_digest_of_a_sessions_token_goes_to_keyd_beside_the_uid(world: World) -> None:
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        assert (await app.get("/a", Proxy_Authorization=basic("session", SESSION_TOKEN))).status == 200
        assert (await app.get("/b")).status == 200
    asked = [(request.caller, request.session) for request in world.keyd.requests]
    assert asked == [(ME, DIGEST), (ME, None)]
    assert all(request.get("Proxy-Authorization") is None for request in upstream.requests)


async def test_a_session_in_connect_holds_for_the_whole_tunnel(world: World) -> None:
    async with (
        world.serving(SELLER, tls=True) as upstream,
        Tunnel(world.egress.address, upstream, world.pki.client()) as app,
    ):
        assert (await connect(app, basic("session", SESSION_TOKEN))).status == 200
        await app.start_tls()
        assert (await app.get("/a")).status == 200
    assert [(r.caller, r.session) for r in world.keyd.requests] == [(ME, DIGEST)]


@pytest.mark.parametrize("callers", [(), CALLERS], ids=["no callers", "callers"])
@pytest.mark.parametrize("token", ["", SESSION_TOKEN[:-1], SESSION_TOKEN + "A", SESSION_TOKEN[:-1] + "+"])
async def test_what_is_no_token_of_a_session_is_407(
    run_egress: RunEgress, token: str, callers: tuple[dict[str, str], ...]
) -> None:
    # Paid outside of its session, a task would spend what it was not given.
    async with (
        run_egress(callers=callers) as egress,
        serving(SELLER) as upstream,
        App(egress.address, upstream) as app,
    ):
        assert (await app.get(Proxy_Authorization=basic("session", token))).status == 407
    assert upstream.connections == 0


async def test_a_sessions_token_is_in_no_log(world: World) -> None:
    world.keyd.sign = refusing("session_invalid")
    with capture_logs() as logged:
        async with world.serving(SELLER) as upstream, world.app(upstream) as app:
            answer = await app.get(Proxy_Authorization=basic("session", SESSION_TOKEN))
    assert answer.get("X-402-Egress") == "rejected; reason=session_invalid"
    assert "session_invalid" in f"{logged}"
    for secret in (SESSION_TOKEN, basic("session", SESSION_TOKEN).split()[1], DIGEST):
        assert secret not in f"{logged}"


# -- configuration ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "callers",
    [
        CALLERS * 2,
        ({"name": "a:b", "token_sha256": "00" * 32},),
        ({"name": "", "token_sha256": "00" * 32},),
        ({"name": "ci", "token_sha256": "00" * 31},),
        ({"name": "ci", "token": TOKEN},),
        ({"name": "session", "token_sha256": "00" * 32},),
    ],
    ids=["twice", "a colon", "no name", "too short", "the token itself", "the name of all sessions"],
)
def test_a_caller_that_cannot_be_meant_is_refused(callers: tuple[dict[str, str], ...]) -> None:
    with pytest.raises(ValidationError):
        EgressSettings(callers=callers)  # type: ignore[arg-type]


def test_a_caller_is_a_user_or_a_name() -> None:
    assert str(Caller(uid=1000, pid=4711, unit="backup.service")) == "uid:1000"
    assert str(Caller(name="ci")) == "proxy:ci"


@pytest.mark.parametrize(
    "members", [{}, {"uid": 0, "name": "root"}, {"name": "ci", "pid": 1}, {"name": "ci", "unit": "a.service"}]
)
def test_a_caller_is_not_both_and_not_neither(members: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Caller.model_validate(members)
