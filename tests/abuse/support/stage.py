"""Where attacks are played: the real proxy and the real keyd as processes, scripted sellers, raw programs."""

from __future__ import annotations

import asyncio
import sys
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import tomli_w

from demo.programs import Program
from keyd import api
from keyd.client import KeydClient
from keyd.core.money import format_usd, parse_usd
from tests.abuse.support.pki import Pki
from tests.abuse.support.seller import Seller
from tests.egress.support.client import App
from tests.egress.support.http2 import Http2Script, serving_http2
from tests.egress.support.upstream import Script, Upstream, serving
from tests.egress.support.wire import Message, decode
from tests.real.support.payer import Payer

KEY = "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"
WALLET = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"
"""The wallet that pays, and its key: a public development account of every local test chain."""
CLOCKED_KEYD = Path(__file__).resolve().parents[1] / "programs/keyd_with_clock.py"
PATIENCE_S = 90.0
"""Deadline for what happens in another process: it ends what hangs, and no test takes as long on any machine."""


class Stage:
    """One keyd, one egress, and everything that a test asks them or does to them."""

    def __init__(self, payer: Payer, pki: Pki, known_ports: set[int]) -> None:
        self.payer = payer
        self.pki = pki
        self.keyd = KeydClient(str(payer.keyd.socket))
        self._ports = known_ports

    # -- the two sides ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def serving(self, script: Script, *, tls: bool = True) -> AsyncIterator[Upstream]:
        async with self._unknown(lambda: serving(script, self.pki.server() if tls else None)) as upstream:
            yield upstream

    @asynccontextmanager
    async def serving_http2(self, script: Http2Script) -> AsyncIterator[Upstream]:
        async with self._unknown(lambda: serving_http2(script, self.pki.server("h2"))) as upstream:
            yield upstream

    @asynccontextmanager
    async def _unknown(
        self, listen: Callable[[], AbstractAsyncContextManager[Upstream]]
    ) -> AsyncIterator[Upstream]:
        """A seller on a port that keyd has never seen: what it remembers of a host stays out of the next test."""
        async with listen() as upstream:
            if upstream.port in self._ports:
                async with self._unknown(listen) as another:
                    yield another
                return
            self._ports.add(upstream.port)
            yield upstream

    def app(self, upstream: Upstream, egress_url: str | None = None) -> App:
        """A program that has one connection to the proxy."""
        url = urlsplit(egress_url or self.payer.egress.url)
        assert url.hostname is not None
        assert url.port is not None
        return App((url.hostname, url.port), upstream, self.pki.client(self.payer.egress.ca_certificate))

    async def get(self, upstream: Upstream, path: str = "/a", **options: Any) -> Message:
        """One request on a connection of its own, and the whole answer to it."""
        async with asyncio.timeout(PATIENCE_S), self.app(upstream) as app:
            return await app.get(path, **options)

    # -- what keyd recorded -------------------------------------------------------------------------------

    def entries(self, upstream: Upstream, *types: str) -> list[dict[str, Any]]:
        """`data` of the ledger's entries of these types about a host, oldest first."""
        host = domain(upstream)
        return [e["data"] for e in self.payer.entries(*types) if e["data"].get("domain") == host]

    def signed(self, upstream: Upstream) -> list[dict[str, Any]]:
        return self.entries(upstream, "x402.payment.signed")

    def rejected(self, upstream: Upstream) -> list[str]:
        """The reason code of each refusal that keyd recorded for this host."""
        return [data["code"] for data in self.entries(upstream, "x402.payment.rejected")]

    async def outcome(self, payment_id: str, *, after: int = 0) -> tuple[str, dict[str, Any]]:
        """(event, data) of the newest outcome of a payment, once there are more than `after`: egress reports
        in the background, so it may come after the answer."""
        async with asyncio.timeout(PATIENCE_S):
            while len(found := self._outcomes(payment_id)) <= after:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # the ledger is another process's file: there is no event to await
        return found[-1]

    def _outcomes(self, payment_id: str) -> list[tuple[str, dict[str, Any]]]:
        names = ("settled", "refused", "unknown", "released")
        entries = self.payer.entries(*(f"x402.payment.{name}" for name in names))
        return [
            (e["type"].rpartition(".")[2], e["data"])
            for e in entries
            if e["data"]["payment_id"] == payment_id
        ]

    async def spent(self) -> int:
        """Micro-USD that count as spent today."""
        return parse_usd((await self.keyd.policy()).spent_today)

    async def spent_at(self, upstream: Upstream) -> int:
        """Micro-USD that count as spent today at one host."""
        rows = (await self.keyd.policy()).by_domain
        return sum(parse_usd(row.usd) for row in rows if row.domain == domain(upstream))

    # -- what a test demands ------------------------------------------------------------------------------

    def check_refused(self, answer: Message, upstream: Upstream, code: str, *, payments: int = 0) -> None:
        """keyd said no: the seller's own 402 with the code, the code on record, and nothing signed beyond
        the `payments` that this host had before."""
        assert (answer.status, answer.get("X-402-Egress")) == (402, f"rejected; reason={code}")
        assert self.rejected(upstream)[-1] == code
        assert len(self.signed(upstream)) == payments

    def check_not_asked(self, answer: Message, upstream: Upstream, code: str) -> None:
        """egress said no by itself: the 402 with the code, and keyd was never asked."""
        assert (answer.status, answer.get("X-402-Egress")) == (402, f"rejected; reason={code}")
        assert self.entries(upstream, "x402.payment.attempt") == []

    async def check_sells(self, seller: Seller, upstream: Upstream, path: str = "/a") -> dict[str, Any]:
        """The control: this host gets a legitimate payment. Returns what was signed."""
        before = len(self.signed(upstream))
        answer = await self.get(upstream, path)
        assert (answer.status, answer.body) == (200, b"content of " + path.encode())
        assert (answer.get("X-402-Egress") or "").startswith("paid; ")
        signed = self.signed(upstream)
        assert len(signed) == before + 1
        newest: dict[str, Any] = signed[-1]
        assert decode(seller.payments[-1])["payload"]["authorization"] == newest["authorization"]
        assert (await self.outcome(newest["payment_id"]))[0] == "settled"
        return newest

    # -- what an administrator does -----------------------------------------------------------------------

    @asynccontextmanager
    async def policy(self, **patch: Any) -> AsyncIterator[None]:
        """A change of policy for the length of the block."""
        changed = await self.keyd.policy_change(api.PolicyPatch(**patch))
        assert changed.applied
        try:
            yield
        finally:
            await self.keyd.policy_reset(api.PolicyReset())

    @asynccontextmanager
    async def configured(self, section: str, **settings: Any) -> AsyncIterator[None]:
        """keyd with other settings in one section of keyd.toml, for the length of the block."""
        config = self.payer.keyd.config
        before = config.read_text()
        document = tomllib.loads(before)
        document[section] |= settings
        try:
            await self._restart_keyd(tomli_w.dumps(document))
            yield
        finally:
            await self._restart_keyd(before)

    async def _restart_keyd(self, config: str) -> None:
        keyd = self.payer.keyd
        await self.keyd.close()
        await asyncio.to_thread(keyd.stop)
        keyd.config.write_text(config)
        await asyncio.to_thread(keyd.start)

    async def room_for(self, micros_left: int) -> str:
        """A daily budget that leaves this much."""
        return format_usd(await self.spent() + micros_left)

    async def approve_held(self, upstream: Upstream) -> None:
        """Approve the newest payment that is held for this host."""
        held = self.entries(upstream, "x402.payment.rejected")[-1]["approval"]
        assert (await self.keyd.approve(held)).applied


@contextmanager
def staged(folder: Path, pki: Pki, clock: Path | None = None, **x402: Any) -> Iterator[Payer]:
    """keyd that may pay every https host, and egress in front of it; `x402` overrides settings of [x402].

    `clock` is a file for programs/keyd_with_clock.py.
    """
    payer = Payer(folder, ["*"], KEY, pki.authority, **{"daily_budget_usd": "100.00", **x402})
    if clock is not None:
        keyd = payer.keyd
        command: list[str | Path] = [sys.executable, CLOCKED_KEYD, "--config", keyd.config]
        keyd.program = Program("keyd", command, keyd.log, env={"OSMODA_TEST_CLOCK": str(clock)})
    with payer:
        yield payer


def domain(upstream: Upstream) -> str:
    """The host as keyd's record spells it."""
    scheme = "" if upstream.scheme == "https" else "http://"
    return f"{scheme}127.0.0.1:{upstream.port}"
