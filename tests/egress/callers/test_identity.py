"""Who asks: the kernel's word for local programs, a token for all others, and nobody if neither is there."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable

import pytest

from egress.callers import netlink
from egress.callers.netlink import NetlinkUnavailable, Owner
from keyd.api import Caller
from tests.egress.conftest import RunEgress, World
from tests.egress.support.client import App
from tests.egress.support.keyd import FakeKeyd
from tests.egress.support.upstream import selling, serving
from tests.egress.support.wire import paid_answer, payment_required

SELLER = selling(lambda _: paid_answer(), lambda _: payment_required())
TOKEN = "correct horse battery staple"
CALLERS = ({"name": "ci", "token_sha256": hashlib.sha256(TOKEN.encode()).hexdigest()},)
ME = Caller(uid=os.getuid())
NOBODY_UID = 65534

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can run a program as another user")


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
