"""Who asks: the kernel's word for local programs, a token for all others, and nobody if neither is there."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import shutil
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from structlog.testing import capture_logs

from egress import identity, netlink, processes
from egress.config import EgressSettings
from egress.netlink import NetlinkUnavailable, Owner, decode_answer, encode_question, socket_owner
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
NOBODY_UID = 65534

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can run a program as another user")


def basic(name: str, token: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{token}".encode()).decode()


# -- the kernel ---------------------------------------------------------------------------------------------


@pytest.fixture(
    params=[
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("::", "::1"),
        ("::", "127.0.0.1"),
        ("127.0.0.1", "::ffff:127.0.0.1"),
    ],
    ids=["IPv4", "IPv6", "dual stack, IPv6", "dual stack, IPv4", "IPv4 by an IPv6 socket, as Java's are"],
)
def connection(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The program's end of a connection, and ours."""
    bound, called = request.param
    family = socket.AF_INET6 if ":" in bound else socket.AF_INET
    with socket.create_server((bound, 0), family=family, dualstack_ipv6=bound == "::") as listener:
        theirs = socket.socket(socket.AF_INET6 if ":" in called else socket.AF_INET)
        theirs.connect((called, listener.getsockname()[1]))
        with closing(listener.accept()[0]) as ours, closing(theirs):
            yield theirs, ours


def owner_of_peer(ours: socket.socket) -> Owner | None:
    return socket_owner(ours.getpeername()[:2], ours.getsockname()[:2])


def test_the_kernel_names_the_owner_of_the_other_end(connection: tuple[socket.socket, socket.socket]) -> None:
    theirs, ours = connection
    assert owner_of_peer(ours) == Owner(os.getuid(), os.fstat(theirs.fileno()).st_ino)


def test_a_program_that_only_stopped_sending_is_still_its_owner(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    theirs, ours = connection
    theirs.shutdown(socket.SHUT_WR)
    assert owner_of_peer(ours) is not None


def test_a_closed_end_belongs_to_nobody(connection: tuple[socket.socket, socket.socket]) -> None:
    theirs, ours = connection
    theirs.close()
    assert owner_of_peer(ours) is None


def test_a_listener_on_the_callers_port_is_not_the_caller() -> None:
    # The kernel's lookup falls back to listeners: its answer must be held against the question.
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert socket_owner(other.getsockname()[:2], ("127.0.0.1", 1)) is None


def kernels_answer(state: int = 1, inode: int = 7, port: int = 40000, kind: int = 20) -> bytes:
    end = struct.pack("!HH4s12x4s12x", port, 19999, b"\x7f\0\0\1", b"\x7f\0\0\1") + bytes(12)
    message = struct.pack("=BBBB48s5I", socket.AF_INET, state, 0, 0, end, 0, 0, 0, 1000, inode)
    return struct.pack("=IHHII", 16 + len(message), kind, 0, 0, 0) + message


THEIRS, OURS = ("127.0.0.1", 40000), ("127.0.0.1", 19999)


def test_an_answer_about_this_connection_names_its_owner() -> None:
    assert decode_answer(kernels_answer(), THEIRS, OURS) == Owner(1000, 7)


@pytest.mark.parametrize(
    "answer",
    [
        kernels_answer(inode=0),
        kernels_answer(state=2),
        kernels_answer(state=6, inode=0),
        kernels_answer(state=10),
        kernels_answer(port=40001),
        kernels_answer(kind=2),
        kernels_answer()[:-1],
        b"",
    ],
    ids=["no inode", "connecting", "time-wait", "listening", "another port", "error", "cut short", "nothing"],
)
def test_any_other_answer_names_nobody(answer: bytes) -> None:
    assert decode_answer(answer, THEIRS, OURS) is None


@given(st.binary(max_size=200))
def test_no_answer_makes_it_fail(answer: bytes) -> None:
    assert decode_answer(answer, THEIRS, OURS) is None or len(answer) >= 88


def test_the_question_names_one_connection_as_inet_diag_wants_it() -> None:
    question = encode_question(THEIRS, OURS)
    assert struct.unpack_from("=IHH", question) == (len(question), 20, 1)  # a request, not a dump of all
    assert struct.unpack_from("=BB", question, 16) == (socket.AF_INET, socket.IPPROTO_TCP)
    assert struct.unpack_from("!HH4s", question, 24) == (40000, 19999, b"\x7f\0\0\1")
    assert question[-8:] == b"\xff" * 8


@pytest.mark.parametrize(
    ("uid_map", "expected"),
    [("0 0 4294967295", None), ("1000 1000 1", 65534), ("", 65534)],
    ids=["first namespace", "a namespace of its own", "unreadable"],
)
def test_the_uid_that_stands_for_all_unknown_users_is_nobody(
    tmp_path: Path, uid_map: str, expected: int | None
) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "sys/kernel").mkdir(parents=True)
    if uid_map:
        (tmp_path / "self/uid_map").write_text(f"{uid_map}\n")
    (tmp_path / "sys/kernel/overflowuid").write_text("65534\n")
    assert identity.overflow_uid(tmp_path) == expected


# -- the process --------------------------------------------------------------------------------------------


def test_the_process_that_holds_the_socket_is_found() -> None:
    with socket.socket() as held:
        found = processes.find_process(os.getuid(), os.fstat(held.fileno()).st_ino)
    assert found is not None
    assert found.pid == os.getpid()


def test_a_socket_that_nobody_holds_has_no_process() -> None:
    assert processes.find_process(os.getuid(), 1) is None


def test_the_search_ends_at_its_limit() -> None:
    with socket.socket() as held:
        assert processes.find_process(os.getuid(), os.fstat(held.fileno()).st_ino, limit_s=0) is None


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/backup.service\n", "backup.service"),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-u5.scope\n",
            "run-u5.scope",
        ),
        ("0::/system.slice/agent.service/workers\n", "agent.service"),
        ("3:cpu:/other.service\n1:name=systemd:/system.slice/a.service\n", "a.service"),
        ("0::/\n", None),
        ("0::/user.slice\n", None),
        ("", None),
        ("nonsense", None),
    ],
)
def test_the_unit_is_the_innermost_service_or_scope(cgroup: str, unit: str | None) -> None:
    assert processes.unit_of(cgroup) == unit


# -- what keyd is told --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
async def test_keyd_is_told_the_uid_of_the_program(world: World, tls: bool) -> None:
    async with world.serving(SELLER, tls=tls) as upstream, world.app(upstream) as app:
        assert (await app.get()).status == 200
    assert world.keyd.requests[0].caller == ME


@needs_root
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
async def test_a_program_of_another_user_is_told_apart(world: World) -> None:
    host, port = world.egress.address
    async with world.serving(SELLER) as upstream:
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "--proxy", f"http://{host}:{port}", upstream.url()),
            stdout=asyncio.subprocess.PIPE,
            user=NOBODY_UID,
            group=NOBODY_UID,
            cwd="/",
        )
        output, _ = await curl.communicate()
    assert output == b"content"
    assert world.keyd.requests[0].caller == Caller(uid=NOBODY_UID)


async def test_the_process_is_told_if_it_is_wanted(run_egress: RunEgress, keyd: FakeKeyd) -> None:
    async with (
        run_egress(identify="process") as egress,
        serving(SELLER) as upstream,
        App(egress.address, upstream) as app,
    ):
        await app.get("/a")
        await app.get("/b")
    for request in keyd.requests:
        assert request.caller is not None
        assert (request.caller.uid, request.caller.pid) == (os.getuid(), os.getpid())
    assert len(keyd.requests) == 2


def _forbidden(*_: object) -> Owner:
    raise NetlinkUnavailable("operation not permitted")


def _unknown(*_: object) -> None:
    return None


@pytest.mark.parametrize(
    "answer", [_forbidden, _unknown], ids=["netlink is forbidden", "not of this machine"]
)
async def test_a_caller_whom_nobody_knows_is_sent_as_none(
    world: World, monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Owner | None]
) -> None:
    monkeypatch.setattr(netlink, "socket_owner", answer)
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        assert (await app.get()).status == 200  # this keyd signs everything; the real one does not
    assert world.keyd.requests[0].caller is None


async def test_a_user_outside_our_namespace_is_nobody_we_know(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.egress._identity, "_overflow_uid", os.getuid())
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        await app.get()
    assert world.keyd.requests[0].caller is None


async def test_nothing_is_remembered_of_connections_that_ended(world: World) -> None:
    async with world.serving(SELLER) as upstream, world.app(upstream) as app:
        await app.get()
        assert world.egress._identity._owners
        gone = world.client_gone()
    await gone.wait()
    await world.all_gone()
    known = world.egress._identity
    assert (known._owners, known._users, known._tunnels) == ({}, {}, {})


# -- tokens -------------------------------------------------------------------------------------------------


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
