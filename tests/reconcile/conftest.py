"""The real keyd, its clock in the test's hand, and servers of a chain that may lie."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from keyd.api import OpenPayment, Role
from keyd.client import KeydClient
from keyd.peer import Roles
from keyd.server import Server
from reconcile.config import ReconcileSettings
from reconcile.reconciler import Summary, reconcile
from reconcile.rpc import open_session
from tests.keyd.conftest import NOON_US, Rig, listening, make_rig, offer, rig
from tests.reconcile.support import BLOCK_S, NETWORK, FakeChain, FakeNode, serving

__all__ = ["make_rig", "rig"]

NOON = NOON_US // 1_000_000
HEIGHT = 1_000_000


@dataclass
class Stage:
    """keyd on a socket, and the servers that the reconciler is told to ask."""

    rig: Rig
    socket: Path
    chain: FakeChain
    uids: dict[Role, frozenset[int]] = field(default_factory=lambda: dict.fromkeys(Role, frozenset()))
    nodes: list[FakeNode] = field(default_factory=list)

    def grant(self, role: Role) -> None:
        """The role that keyd gives to this very process."""
        self.uids |= {r: frozenset({os.getuid()}) if r is role else frozenset() for r in Role}

    async def pay(self, what: int = 0, report: dict[str, Any] | None = None) -> OpenPayment:
        """A payment that is valid for 60 seconds, as keyd tells the reconciler about it.

        `report` is the seller's receipt, if it sent one.
        """
        authorized = await self.rig.paid(offer(), what=what)
        if report is not None:
            await self.rig.report(authorized, http_status=200, settlement=report)
        return next(p for p in await self.open() if p.payment_id == authorized.payment.payment_id)

    async def open(self) -> list[OpenPayment]:
        async with KeydClient(str(self.socket)) as keyd:
            return (await keyd.open_payments()).payments

    def advance(self, seconds: int) -> None:
        """Time passes for keyd and for the chain."""
        self.rig.clock.advance(seconds)
        self.chain.height += seconds // BLOCK_S

    async def reconcile(self, others: Sequence[dict[str, Any]] = (), **network: Any) -> Summary:
        """One pass over a table with every node, `network` instead of what it says, and `others` beside it."""
        table = {"network": NETWORK, "rpc": [node.url for node in self.nodes], "block": "latest"}
        settings = ReconcileSettings(keyd_socket=str(self.socket), networks=(table | network, *others))
        async with KeydClient(str(self.socket)) as keyd, open_session() as session:
            return await reconcile(settings, keyd, session)

    def proofs(self) -> list[dict[str, Any]]:
        """What keyd recorded on evidence from the chain."""
        entries = self.rig.entries()
        return [e.data | {"type": e.type} for e in entries if "proof" in e.data]

    def spent(self) -> str:
        return self.rig.view().spent_today


@pytest.fixture
async def bare_stage(rig: Rig, tmp_path: Path) -> AsyncIterator[Stage]:
    """No server yet."""
    stage = Stage(rig, tmp_path / "keyd.sock", FakeChain(NOON - HEIGHT * BLOCK_S, HEIGHT))
    stage.grant(Role.RECONCILER)
    roles = Roles(stage.uids, dict.fromkeys(Role, frozenset()))
    server = Server(rig.service, rig.admin, rig.rotation, rig.backups, roles, rig.clock)
    async with listening(server, roles, stage.socket):
        yield stage


@pytest.fixture
async def stage(bare_stage: Stage) -> AsyncIterator[Stage]:
    """One honest server."""
    async with serving(FakeNode(bare_stage.chain)) as node:
        bare_stage.nodes.append(node)
        yield bare_stage


@pytest.fixture
async def two(stage: Stage) -> AsyncIterator[Stage]:
    """Two honest servers of the same chain."""
    async with serving(FakeNode(stage.chain)) as node:
        stage.nodes.append(node)
        yield stage
