"""The reconciler against a real chain: what sellers did with payments, whatever they said about it.

The chain, the facilitator, egress and osmoda-reconcile are real programs. keyd runs inside the test, because its
clock has to move past `validBefore` together with the chain's.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import tomli_w
from aiohttp import web

from demo.stack import Egress
from keyd.api import Role
from keyd.custody.keystore import parse_private_key
from keyd.domains import DomainPattern
from keyd.peer import Peer, Roles
from keyd.server import Server
from tests.keyd.conftest import POLICY, Clock, Rig, listening, make_rig
from tests.real.support import counterparts
from tests.real.support.counterparts import Chain

__all__ = ["make_rig"]

pytestmark = pytest.mark.real

PRICE = 1_000
"""Atomic units of one purchase."""
VOID_S = 60 + 120 + 2
"""After this many seconds a payment that is valid for a minute can be released."""
FINAL_BLOCKS = 65
"""anvil calls a block finalized when 64 more are on top of it."""


@dataclass
class Seller:
    """Sells at any path, and does with a payment what the first word of the path says."""

    facilitator: str
    pay_to: str
    asset: str
    url: str = ""
    payments: dict[str, dict[str, Any]] = field(default_factory=dict)
    """path → the last PaymentPayload."""
    transactions: dict[str, str] = field(default_factory=dict)
    """path → the transaction that settled it."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        header = request.headers.get("PAYMENT-SIGNATURE")
        if header is None:
            return web.Response(status=402, headers={"PAYMENT-REQUIRED": _encode(self._required(request))})
        payment = self.payments[request.path] = json.loads(base64.b64decode(header))
        match request.path.split("/")[1]:
            case "honest":
                return web.Response(
                    text="sold",
                    headers={"PAYMENT-RESPONSE": _encode(await self.settle(payment, request.path))},
                )
            case "settles-and-fails":
                await self.settle(payment, request.path)
                return web.Response(status=502)
            case "fails":
                return web.Response(status=502)
            case "only-claims":
                payer = payment["payload"]["authorization"]["from"]
                claim = {
                    "success": True,
                    "transaction": "0x" + "ab" * 32,
                    "network": "eip155:84532",
                    "payer": payer,
                }
                return web.Response(text="sold", headers={"PAYMENT-RESPONSE": _encode(claim)})
        raise AssertionError(request.path)

    async def settle(self, payment: dict[str, Any], path: str) -> dict[str, Any]:
        """What the official facilitator makes of it."""
        question = {"x402Version": 2, "paymentPayload": payment, "paymentRequirements": self._terms()}
        async with httpx.AsyncClient(timeout=60) as client:
            settlement: dict[str, Any] = (
                await client.post(f"{self.facilitator}/settle", json=question)
            ).json()
        if settlement.get("success"):
            self.transactions[path] = settlement["transaction"]
        return settlement

    def _terms(self) -> dict[str, Any]:
        return {
            "scheme": "exact",
            "network": "eip155:84532",
            "asset": self.asset,
            "amount": str(PRICE),
            "payTo": self.pay_to,
            "maxTimeoutSeconds": 60,
            "extra": {"name": "USDC", "version": "2"},
        }

    def _required(self, request: web.Request) -> dict[str, Any]:
        return {"x402Version": 2, "resource": {"url": str(request.url)}, "accepts": [self._terms()]}


def _encode(value: dict[str, Any]) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


@dataclass
class World:
    """A chain, a seller, a payer, and one clock for keyd and the chain."""

    chain: Chain
    seller: Seller
    rig: Rig
    egress: Egress
    socket: Path

    async def buy(self, path: str) -> int:
        """The status that an ordinary program sees."""
        async with httpx.AsyncClient(proxy=self.egress.url, timeout=60) as program:
            return (await program.get(self.seller.url + path)).status_code

    async def rpc(self, method: str, *params: object) -> Any:
        question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        async with httpx.AsyncClient(timeout=60) as client:
            return (await client.post(self.chain.rpc, json=question)).json()["result"]

    async def advance(self, seconds: int) -> None:
        """Time passes for keyd and for the chain, which makes one block."""
        self.rig.clock.advance(seconds)
        await self.rpc("evm_setNextBlockTimestamp", self.rig.clock.now_us // 1_000_000)
        await self.rpc("evm_mine")

    async def finalize(self) -> None:
        """The newest block becomes a finalized one; a second passes for each block on top of it."""
        await self.rpc("anvil_mine", hex(FINAL_BLOCKS), hex(1))
        self.rig.clock.advance(FINAL_BLOCKS)

    async def reconcile(self) -> str:
        """The last word of one pass, which must succeed."""
        config = self.rig.path / "reconcile.toml"
        network = {"network": self.chain.network, "rpc": [self.chain.rpc]}
        config.write_text(tomli_w.dumps({"keyd_socket": str(self.socket), "networks": [network]}))
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "reconcile", "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.removeprefix("reconciled: ").strip()

    def proven(self, state: str) -> list[dict[str, Any]]:
        """Ledger entries of this state that rest on proof from the chain."""
        return [e.data for e in self.rig.entries(f"x402.payment.{state}") if "proof" in e.data]


@pytest.fixture
async def world(make_rig: Callable[..., Rig], tmp_path: Path) -> AsyncIterator[World]:
    # A chain of its own: its clock is moved, which would void the payments of other tests.
    chain_program = counterparts.chain_program(tmp_path)
    ready = await asyncio.to_thread(chain_program.start)
    chain = counterparts.read_chain(ready, tmp_path / "chain.json")
    facilitator_program = counterparts.facilitator_program(chain, tmp_path)
    facilitator = await asyncio.to_thread(facilitator_program.start)
    seller = Seller(facilitator["url"], chain.accounts["payee"], chain.token)
    app = web.Application()
    app.router.add_get("/{path:.*}", seller.handle)
    shop = await _serve(app, lambda runner: web.TCPSite(runner, "127.0.0.1", 0))
    seller.url = f"http://127.0.0.1:{shop.addresses[0][1]}"

    rig = make_rig(
        policy=replace(POLICY, allowed_domains=(DomainPattern.parse(seller.url),)),
        clock=Clock(int(time.time()) * 1_000_000),
        entropy=os.urandom,
    )
    rig.wallets.store("payer", parse_private_key(chain.keys["payer"]), 0)
    await rig.service.custody.take_stock()
    await rig.service.custody.choose_default(Peer(1, 0, 0), "payer")
    mine = dict.fromkeys(Role, frozenset({os.getuid()}))
    roles = Roles(mine, dict.fromkeys(Role, frozenset()))
    socket = tmp_path / "keyd.sock"
    async with listening(
        Server(rig.service, rig.admin, rig.rotation, rig.backups, roles, rig.clock), roles, socket
    ):
        egress = Egress(tmp_path, socket, {"allow_private": ["127.0.0.1"]})
        await asyncio.to_thread(egress.start)
        rig.clock.now_us = (
            int(time.time()) * 1_000_000
        )  # what is signed is valid for a minute of the chain's time
        world = World(chain, seller, rig, egress, socket)
        await world.finalize()  # a chain without the token has nothing to say about it
        yield world
        await asyncio.to_thread(egress.stop)
    await shop.cleanup()
    await asyncio.to_thread(facilitator_program.stop)
    await asyncio.to_thread(chain_program.stop)


async def _serve(app: web.Application, site: Callable[[web.AppRunner], web.BaseSite]) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await site(runner).start()
    return runner


async def test_a_settlement_behind_a_502_is_found_with_its_transaction_once_it_is_final(world: World) -> None:
    before = world.chain.balance("payer")
    assert await world.buy("/settles-and-fails") == 502
    assert world.chain.balance("payer") == before - PRICE
    assert await world.reconcile() == "0 settled, 0 released, 1 open, 0 unreachable"

    await world.finalize()
    assert await world.reconcile() == "1 settled, 0 released, 0 open, 0 unreachable"
    [settled] = world.proven("settled")
    assert settled["transaction"] == world.seller.transactions["/settles-and-fails"]
    block = await world.rpc("eth_getBlockByNumber", hex(settled["proof"]["block_number"]), False)
    assert settled["proof"]["block_hash"] == block["hash"]
    assert world.rig.view().spent_today == "0.001"


async def test_a_payment_that_was_never_settled_is_released_once_no_block_can_hold_it(world: World) -> None:
    before = world.chain.balance("payer")
    assert await world.buy("/fails") == 502
    await world.finalize()
    assert await world.reconcile() == "0 settled, 0 released, 1 open, 0 unreachable"
    assert world.rig.view().spent_today == "0.001"

    await world.advance(VOID_S)
    assert await world.reconcile() == "0 settled, 0 released, 1 open, 0 unreachable"
    await world.finalize()
    assert await world.reconcile() == "0 settled, 1 released, 0 open, 0 unreachable"
    assert world.rig.view().spent_today == "0.00"

    # The seller kept the signature, and tries now.
    late = await world.seller.settle(world.seller.payments["/fails"], "/fails")
    assert not late.get("success")
    assert world.chain.balance("payer") == before


async def test_what_the_ledger_calls_settled_is_what_left_the_wallet(world: World) -> None:
    before = world.chain.balance("payer")
    for path, status in {
        "/honest/1": 200,
        "/honest/2": 200,
        "/settles-and-fails": 502,
        "/fails": 502,
        "/only-claims": 200,
    }.items():
        assert await world.buy(path) == status
    assert len(world.rig.entries("x402.payment.signed")) == 5

    await world.finalize()
    assert await world.reconcile() == "3 settled, 0 released, 2 open, 0 unreachable"
    await world.advance(VOID_S)
    await world.finalize()
    assert await world.reconcile() == "0 settled, 2 released, 0 open, 0 unreachable"
    assert await world.reconcile() == "0 settled, 0 released, 0 open, 0 unreachable"

    amounts = {e.data["payment_id"]: int(e.data["amount"]) for e in world.rig.entries("x402.payment.signed")}
    settled = sum(amounts[entry["payment_id"]] for entry in world.proven("settled"))
    assert settled == before - world.chain.balance("payer") == 3 * PRICE
    assert {entry["transaction"] for entry in world.proven("settled")} == set(
        world.seller.transactions.values()
    )
    assert world.rig.view().spent_today == "0.003"
