"""keyd and egress as processes, a seller, and the official MCP client in front of osmoda-bridge."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.memory import create_connected_server_and_client_session
from mcp.types import CallToolResult

from bridge.market import Market
from bridge.server import make_server
from bridge.tools import Tools
from bridge.web import Web
from keyd import api
from keyd.client import KeydClient, KeydRefused
from tests.bridge.support.seller import Seller, offer
from tests.real.support.payer import Payer

DEV_KEY = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
"""Known to everybody (the first account of local test chains)."""
AS_AGENT = Path(__file__).parent / "support/as_agent.py"
ROOT = Path(__file__).resolve().parents[2]
AGENT_UID = 65534 if os.geteuid() == 0 else os.geteuid()
"""Only root can become another user; for others the bridge has all roles, and must behave all the same."""


@dataclass
class World:
    payer: Payer
    listener: socket.socket
    fingerprints: int = 0

    def seller(self) -> Seller:
        return Seller(self.listener)

    async def approve(self, proposal_id: str) -> None:
        async with KeydClient(str(self.payer.keyd.socket)) as keyd:
            assert (await keyd.approve(proposal_id)).applied

    def command(self, *options: str, uid: int = AGENT_UID) -> list[str]:
        egress, keyd = self.payer.egress, self.payer.keyd
        known = ["--socket", str(keyd.socket), "--proxy", egress.url, "--ca", str(egress.ca_certificate)]
        return [sys.executable, str(AS_AGENT), str(uid), *known, *options]

    @asynccontextmanager
    async def client(
        self, *, facilitator: str | None = None, socket: str | None = None, proxy: str | None = None
    ) -> AsyncIterator[ClientSession]:
        """The official client in front of the tools, in this process, as this user, who is an administrator too."""
        egress = self.payer.egress
        async with (
            KeydClient(socket or str(self.payer.keyd.socket)) as keyd,
            Web(proxy or egress.url, egress.ca_certificate) as web,
            create_connected_server_and_client_session(
                make_server(Tools(keyd, Market(web, keyd), facilitator))
            ) as session,
        ):
            yield session

    @asynccontextmanager
    async def stdio_client(self, *options: str) -> AsyncIterator[ClientSession]:
        """The same over stdin and stdout of osmoda-bridge, which runs as an agent's user."""
        command, *arguments = self.command(*options)
        server = StdioServerParameters(
            command=command, args=arguments, env={"PYTHONPATH": str(ROOT)}, cwd="/"
        )
        async with stdio_client(server) as streams, ClientSession(*streams) as session:
            await session.initialize()
            yield session

    @asynccontextmanager
    async def http_client(self, *options: str) -> AsyncIterator[ClientSession]:
        """The same over streamable HTTP, to a bridge of this user."""
        with self.http_bridge(*options) as url:
            async with (
                streamable_http_client(url) as (read, write, _),
                ClientSession(read, write) as session,
            ):
                await session.initialize()
                yield session

    @contextmanager
    def http_bridge(self, *options: str, uid: int | None = None) -> Iterator[str]:
        """The URL of a bridge that serves HTTP; as this user unless another is named."""
        command = self.command("--http", "127.0.0.1:0", *options, uid=os.geteuid() if uid is None else uid)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd="/") as bridge:
            assert bridge.stderr is not None
            try:
                yield bridge.stderr.readline().removeprefix("osmoda-bridge: ").strip()
            finally:
                bridge.send_signal(signal.SIGTERM)
                bridge.communicate(timeout=60)

    async def pay(self, url: str, amount: int, path: str = "/bought") -> str:
        """Another purchase each time, as egress asks for it: "paid", or the code of the refusal."""
        self.fingerprints += 1
        host, port = url.removeprefix("http://").split(":")
        request = api.SignRequest(
            origin=api.Origin(scheme="http", host=host, port=int(port)),
            method="GET",
            path=path,
            fingerprint=f"{self.fingerprints:064x}",
            caller=api.Caller(uid=AGENT_UID),
            x402_version=2,
            offers=[offer(amount)],
        )
        async with KeydClient(str(self.payer.keyd.socket)) as keyd:
            try:
                await keyd.sign(request)
            except KeydRefused as refused:
                return refused.refusal.code
        return "paid"

    async def entries(self) -> int:
        """Length of the ledger."""
        async with KeydClient(str(self.payer.keyd.socket)) as keyd:
            return (await keyd.ledger_head()).seq


@pytest.fixture(scope="module")
def processes() -> Iterator[World]:
    with (
        tempfile.TemporaryDirectory(prefix="osmoda-bridge-") as name,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        folder = Path(name)
        folder.chmod(0o755)  # the agent must reach the socket and read egress's certificate
        seller = f"http://127.0.0.1:{listener.getsockname()[1]}"
        payer = Payer(folder, [seller], DEV_KEY, daily_budget_usd="1.00", max_payment_usd="0.10")
        config = payer.keyd.config
        agents = f'socket_mode = "0666"\n{config.read_text()}'
        config.write_text(agents.replace("agent = [\n", f"agent = [\n    {AGENT_UID},\n"))
        with payer:
            yield World(payer, listener)


@pytest.fixture
async def world(processes: World) -> AsyncIterator[World]:
    """Each test begins with the policy of keyd.toml."""
    yield processes
    async with KeydClient(str(processes.payer.keyd.socket)) as keyd:
        await keyd.policy_reset(api.PolicyReset())
        for proposal in (await keyd.policy()).pending:
            await keyd.reject(proposal.id)


def words(result: CallToolResult) -> str:
    """What a model without structured output reads."""
    return "\n".join(part.text for part in result.content if part.type == "text")
