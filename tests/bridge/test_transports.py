"""osmoda-bridge as a program: over stdin and stdout, and over HTTP to its own user alone."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession, StdioServerParameters, stdio_client

from bridge.local_http import owner_of
from demo.programs import BIN
from tests.bridge.conftest import AGENT_UID, ROOT, World, words
from tests.bridge.support.seller import offer
from tests.loopback import needs_ipv6
from tests.programs.support.machine import installed

pytestmark = pytest.mark.real

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
OTHER_UID = 65533


# -- stdin and stdout -------------------------------------------------------------------------------------


async def test_an_agents_user_sees_narrows_and_asks_over_stdio(world: World) -> None:
    seller = world.seller()
    url = seller.sells("/report")
    async with seller.serving(), world.stdio_client() as session:
        quoted = await session.call_tool("x402_quote", {"url": url})
        narrowed = await session.call_tool("x402_configure", {"max_payment_usd": "0.01"})
        filed = await session.call_tool("x402_configure", {"max_payment_usd": "1000"})
        shown = await session.call_tool("x402_policy", {})
    assert quoted.structuredContent is not None
    assert quoted.structuredContent["verdict"] == "pay"
    assert narrowed.structuredContent is not None
    assert narrowed.structuredContent["in_force"] is True
    assert "Only a person can approve it" in words(filed)
    assert shown.structuredContent is not None
    assert shown.structuredContent["max_payment"] == "0.01"
    assert len(shown.structuredContent["waiting"]) == 1


def test_it_ends_when_its_client_does_and_says_nothing_on_stdout_by_itself(world: World) -> None:
    done = subprocess.run(
        world.command(uid=os.geteuid()),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--proxy", "http://ci:secret@127.0.0.1"], "write it as http://HOST:PORT"),
        (["--facilitator", "ftp://x"], "give a whole URL"),
        (["--http", "0.0.0.0:0"], "not a loopback address"),
        (["--http", "8080"], "127.0.0.1:PORT"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_words(options: list[str], said: str) -> None:
    done = subprocess.run([BIN / "osmoda-bridge", *options], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_sdk_it_says_what_to_install(tmp_path: Path) -> None:
    script = "import sys; sys.modules['mcp'] = None\nfrom bridge.__main__ import main; main([])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode == 2
    assert "pip install 'osmoda-x402[bridge]'" in done.stderr


async def test_a_bridge_inside_of_a_session_quotes_within_its_budget(world: World) -> None:
    seller = world.seller()
    dear, cheap = seller.sells("/dear", offer(2_000)), seller.sells("/cheap", offer(1_000))
    egress = world.payer.egress
    run = ["x402", "run", "--label", "task", "--budget", "0.001"]
    run += ["--proxy", egress.url, "--ca", str(egress.ca_certificate)]
    server = StdioServerParameters(
        command=str(BIN / "keyctl"),
        args=[*run, "--", str(BIN / "osmoda-bridge"), "--ca", str(egress.ca_certificate)],
        env={**os.environ, "OSMODA_KEYD_SOCKET": str(world.payer.keyd.socket)},
    )
    async with (
        seller.serving(),
        stdio_client(server) as streams,
        ClientSession(*streams) as session,
    ):
        await session.initialize()
        answers = [await session.call_tool("x402_quote", {"url": url}) for url in (cheap, dear)]
    found = [answer.structuredContent or {} for answer in answers]
    assert [(answer["verdict"], answer["code"]) for answer in found] == [
        ("pay", None),
        ("refuse", "budget_session"),
    ]


# -- HTTP -------------------------------------------------------------------------------------------------


async def test_the_official_client_works_over_http(world: World) -> None:
    async with world.http_client() as session:
        assert len((await session.list_tools()).tools) == 6
        result = await session.call_tool("x402_policy", {})
    assert "Payments are on." in words(result)


def initialize(url: str, **headers: str) -> tuple[int, str]:
    """What a bridge answers to the first message of a client with these headers."""
    host, port = url.removeprefix("http://").removesuffix("/mcp").split(":")
    message = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    known = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    with closing(http.client.HTTPConnection(host, int(port), timeout=60)) as connection:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", "/mcp", json.dumps(message), {**known, **named})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_a_page_in_a_browser_is_kept_out(world: World) -> None:
    """DNS rebinding sends another Host, a page of another site its Origin."""
    with world.http_bridge() as url:
        port = url.split(":")[2].removesuffix("/mcp")
        assert initialize(url)[0] == 200
        assert initialize(url, Host=f"localhost:{port}")[0] == 200
        assert initialize(url, Host=f"evil.example:{port}")[0] == 421
        assert initialize(url, Host="127.0.0.1:80")[0] == 421
        for origin in ("https://evil.example", f"http://127.0.0.1:{port}", "null"):
            assert initialize(url, Origin=origin)[0] == 403
        assert initialize(url, Content_Type="text/plain")[0] == 400


@needs_root
@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_another_user_is_kept_out(world: World) -> None:
    def status(url: str, uid: int, *headers: str) -> str:
        command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", "DELETE", *headers, url]
        done = subprocess.run(
            command, capture_output=True, text=True, user=uid, group=uid, cwd="/", timeout=60
        )
        return done.stdout

    with world.http_bridge(uid=AGENT_UID) as url:
        assert status(url, OTHER_UID) == "403"
        assert status(url, 0) == "403"  # an administrator's programs do not act as the agent either
        assert status(url, AGENT_UID) == "400"  # let in: the SDK misses a session
        host, port = url.removeprefix("http://").removesuffix("/mcp").split(":")
        with as_user(AGENT_UID):
            theirs = socket.create_connection((host, int(port)))
        with theirs:
            forged = f"127.0.0.1:{theirs.getsockname()[1]}"
            for header in (f"X-Forwarded-For: {forged}", f"Forwarded: for={forged}"):
                assert status(url, OTHER_UID, "-H", header) == "403"
                assert status(url, AGENT_UID, "-H", header) == "400"


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """Connections that are made in the block are this user's."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_the_owner_of_a_connection_is_the_user_at_its_other_end(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, 0), family=family) as listener,
        socket.create_connection(listener.getsockname()[:2]) as client,
        listener.accept()[0] as server,
    ):
        there, here = client.getsockname()[:2], server.getsockname()[:2]
        assert owner_of(there, here) == os.geteuid()
        assert owner_of((host, 1), here) is None
        assert owner_of(there, (host, 1)) is None
        client.close()
        assert owner_of(there, here) is None


# -- the next version of the official client ---------------------------------------------------------------

NEXT_CLIENT = ROOT / "tests/bridge/support/next_client.py"


def ask_with_next_client(*where: str) -> dict[str, Any]:
    python = installed("venv") / "bin/python"
    done = subprocess.run(
        [python, NEXT_CLIENT, *where], capture_output=True, text=True, timeout=90, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_clients_of_version_2_work_over_both_transports(world: World) -> None:
    over_stdio = ask_with_next_client("stdio", str(ROOT), *world.command(uid=os.geteuid()))
    with world.http_bridge() as url:
        over_http = ask_with_next_client("http", url)
    for answer in (over_stdio, over_http):
        assert answer["sdk"].startswith("2.")
        assert "x402_policy" in answer["tools"]
        assert answer["daily_budget"] == "1.00"
