"""A keyd service on a real ledger and real wallet files, with a clock and entropy that tests control."""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from keyd import api
from keyd.admin import Admin
from keyd.api import Role
from keyd.client import KeydClient
from keyd.core.assets import DEFAULT_ASSETS, AssetTable
from keyd.core.intent import Intent, from_request
from keyd.core.overrides import Limits
from keyd.core.policy import Deny, Policy
from keyd.custody import kek
from keyd.custody.backup import Backups
from keyd.custody.headkey import HeadKey
from keyd.custody.kek import Kek
from keyd.custody.keystore import Keystore, parse_private_key
from keyd.custody.rotation import Rotation
from keyd.custody.secret import Secret
from keyd.custody.wallets import Custody
from keyd.domains import DomainPattern
from keyd.heads import Heads
from keyd.http.listener import Listener
from keyd.http.quotas import SHARES, Quotas, Share
from keyd.peer import Peer, Roles
from keyd.record.policies import Policies
from keyd.server import Server
from keyd.service import Authorized, Service
from keyd.views import Views
from ledger.entry import Entry
from ledger.log import Ledger

NETWORK = "eip155:84532"
USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
SELLER = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
DEV_KEY = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
PAYER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
EGRESS = Peer(pid=1, uid=991, gid=991)
NOON_US = 1_795_262_400_000_000  # 2026-11-21T12:00:00Z


@dataclass
class Clock:
    """Unix time in microseconds; moves only when a test moves it."""

    now_us: int = NOON_US

    def __call__(self) -> int:
        return self.now_us

    def advance(self, seconds: float) -> None:
        self.now_us += int(seconds * 1_000_000)


@dataclass
class Entropy:
    """Distinct, predictable bytes."""

    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __call__(self, size: int) -> bytes:
        return next(self.numbers).to_bytes(size, "big")


def offer(amount: str = "1000", **members: Any) -> dict[str, Any]:
    terms = {
        "scheme": "exact",
        "network": NETWORK,
        "amount": amount,
        "asset": USDC,
        "payTo": SELLER,
        "maxTimeoutSeconds": 60,
        "extra": {"name": "USDC", "version": "2"},
    }
    return terms | members


def sign_request(*offers: dict[str, Any], what: int = 0, **members: Any) -> api.SignRequest:
    """A full-form request; `what` tells different application requests apart."""
    fields: dict[str, Any] = {
        "origin": {"scheme": "https", "host": "api.example.com", "port": 443},
        "method": "GET",
        "path": "/weather",
        "fingerprint": f"{what:064x}",
        "caller": {"uid": 1000},
        "x402_version": 2,
        "offers": list(offers) or [offer()],
    }
    return api.SignRequest.model_validate(fields | members)


def intent(*offers: dict[str, Any], what: int = 0, **members: Any) -> Intent:
    return from_request(sign_request(*offers, what=what, **members), AssetTable(DEFAULT_ASSETS), 0)


POLICY = Policy(
    enabled=True,
    allowed_domains=(DomainPattern.parse("api.example.com"),),
    networks=frozenset({NETWORK}),
    assets=AssetTable(DEFAULT_ASSETS),
    max_payment=100_000,
    daily_budget=1_000_000,
)


@dataclass
class Rig:
    """The service under test and its surroundings."""

    service: Service
    ledger: Ledger
    clock: Clock
    wallets: Keystore
    path: Path
    admin: Admin
    views: Views
    rotation: Rotation
    backups: Backups

    async def pay(self, *offers: dict[str, Any], what: int = 0, **members: Any) -> Authorized | Deny:
        return await self.service.authorize_payment(EGRESS, intent(*offers, what=what, **members))

    async def paid(self, *offers: dict[str, Any], what: int = 0, **members: Any) -> Authorized:
        outcome = await self.pay(*offers, what=what, **members)
        assert isinstance(outcome, Authorized), outcome
        return outcome

    async def refused(self, *offers: dict[str, Any], what: int = 0, **members: Any) -> Deny:
        outcome = await self.pay(*offers, what=what, **members)
        assert isinstance(outcome, Deny), outcome
        return outcome

    async def report(self, authorized: Authorized, **facts: Any) -> str:
        report = api.OutcomeReport(payment_id=authorized.payment.payment_id, **facts)
        state = await self.service.record_outcome(EGRESS, report)
        assert isinstance(state, str), state
        return state

    def entries(self, kind: str | None = None) -> list[Entry]:
        """All but the first, which is that of the default wallet."""
        return [e for e in self.ledger.entries(limit=1_000_000, after=1) if kind in (None, e.type)]

    def policy(self, **changes: Any) -> None:
        self.service.policies.base = replace(self.service.policies.base, **changes)

    def heads(self) -> Heads:
        return Heads(self.ledger, HeadKey(Secret(bytes(range(32)))), self.path / "ledger.heads")

    def view(self) -> api.PolicyView:
        return self.views.policy(self.clock(), wallet=None, default_wallet="default")


def assemble(path: Path, policies: Policies, clock: Clock, entropy: Callable[[int], bytes]) -> Rig:
    """keyd on the files below `path`, as its `__main__` puts it together; with a default wallet."""
    ledger = Ledger.open(path / "ledger.sqlite3", clock=clock)
    source = kek.Source(Kek(bytes(32)), kek.Kind.CREDENTIAL, None)
    wallets = Keystore(path / "wallets", source.kek, entropy)
    if "default" not in wallets.labels():
        wallets.store("default", parse_private_key(DEV_KEY), 0)
    custody = Custody(ledger=ledger, keystore=wallets, initial_default="default", entropy=entropy)
    ledger.transact(custody.stock_step).result()
    rotation = Rotation(ledger=ledger, custody=custody, source=source, entropy=entropy)
    service = Service(ledger=ledger, custody=custody, policies=policies, entropy=entropy)
    admin = Admin(ledger=ledger, policies=policies, overrides_file=path / "overrides.toml", entropy=entropy)
    backups = Backups(ledger=ledger, custody=custody, state_dir=path, config_file=None, entropy=entropy)
    return Rig(service, ledger, clock, wallets, path, admin, Views(ledger, policies), rotation, backups)


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    ledgers: list[Ledger] = []

    def make(
        policy: Policy = POLICY,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
        limits: Limits | None = None,
        *,
        enforce: bool = True,
        folder: Path = tmp_path,
    ) -> Rig:
        policies = Policies(policy, limits=limits, enforce=enforce)
        made = assemble(folder, policies, clock or Clock(), entropy or Entropy())
        ledgers.append(made.ledger)
        return made

    yield make
    for ledger in ledgers:
        ledger.close()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()


@asynccontextmanager
async def listening(
    server: Server, roles: Roles, path: Path, shares: Mapping[Role | None, Share] = SHARES
) -> AsyncIterator[Listener]:
    """`server` on the socket at `path`, as keyd's main does it."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound.bind(str(path))
    listener = Listener(server.answer, Quotas(roles, shares), lambda: NOON_US)
    listener.start(bound)
    yield listener
    await listener.close()


class Keyd:
    """A server on a socket; `grant` decides which roles this very process has."""

    def __init__(self, rig: Rig, socket: Path) -> None:
        self.rig = rig
        self.socket = socket
        self._uids: dict[Role, frozenset[int]] = dict.fromkeys(Role, frozenset())
        self.roles = Roles(self._uids, dict.fromkeys(Role, frozenset()))
        self.server = Server(
            rig.service, rig.admin, rig.rotation, rig.backups, self.roles, rig.clock, rig.heads()
        )

    def grant(self, *roles: Role) -> None:
        for role in Role:
            self._uids[role] = frozenset({os.getuid()}) if role in roles else frozenset()

    async def raw(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connector = aiohttp.UnixConnector(str(self.socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://keyd{path}", data=data) as response,
        ):
            is_json = response.content_type == "application/json"
            return response.status, await response.json() if is_json else {"text": await response.text()}


@pytest.fixture
async def keyd(rig: Rig, tmp_path: Path) -> AsyncIterator[Keyd]:
    keyd = Keyd(rig, tmp_path / "keyd.sock")
    keyd.grant(*Role)
    async with listening(keyd.server, keyd.roles, keyd.socket):
        yield keyd


@pytest.fixture
async def client(keyd: Keyd) -> AsyncIterator[KeydClient]:
    async with KeydClient(str(keyd.socket)) as client:
        yield client
