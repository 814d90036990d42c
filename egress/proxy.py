"""The running proxy: mitmproxy's parts that are needed, ours, and their life from start to drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog
from mitmproxy.addons import core, tlsconfig
from mitmproxy.master import Master
from mitmproxy.options import Options
from mitmproxy.proxy.mode_servers import ProxyConnectionHandler

from egress import memory
from egress.callers.identity import Identity
from egress.config import EgressSettings
from egress.connections import ConnectionLimit
from egress.listener import metrics_listener
from egress.loads import Load
from egress.metrics import Metrics, MetricsAddon
from egress.parent import end_with
from egress.paying.addon import X402Addon
from egress.paying.buyer import Buyer
from egress.paying.payer import Payer
from egress.paying.policy import PayablePolicy
from egress.paying.room import Room
from egress.reach import trust
from egress.reach.destinations import AllowedDomains, AllowedPrivate
from egress.reach.guard import Guard
from egress.reach.lookups import Lookups, LookupThreads
from egress.reach.proxy_address import ProxyAddress
from egress.reach.upstream import UpstreamProxy
from egress.stack import headers, http1, http2
from egress.stack.handler import install as install_handler
from egress.stack.layers import PayNextLayer
from egress.stack.server import Proxyserver
from egress.status import Status
from keyd.api import Origin
from keyd.client import KeydClient
from keyd.service_manager import Notifier

IDLE_LIMIT_S: Final = 3600
"""After this long without a byte a connection is closed. Models that think for minutes send nothing meanwhile;
mitmproxy's default of ten minutes would cut them off."""
KEYD_TIMEOUT_S: Final = 10.0
"""keyd answers in milliseconds; an application should not hang on one that does not."""
REPORT_LIMIT_S: Final = 5.0
"""How long outcome reports may delay the stop."""
_TUNNEL_QUIET_S: Final = 2.0
"""A tunnel without traffic for this long counts as idle when egress stops: its end cannot be seen."""
_DRAIN_POLL_S: Final = 0.05

_log = structlog.get_logger("egress")


class _OnRunning:
    """mitmproxy addon: calls back when the proxy accepts connections."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.running = callback


class Egress:
    """One proxy on one event loop. `await Egress(settings, sockets).run()` until `stop` or `drain`."""

    def __init__(
        self,
        settings: EgressSettings,
        sockets: Sequence[socket.socket],
        notifier: Notifier | None = None,
        *,
        on_connections: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`sockets` are bound and become its own. `on_connections` is told how many there are, whenever that changes.

        Raises ConfigError.
        """
        self.settings = settings
        self._sockets = sockets
        self._status = Status(notifier or Notifier({}))
        self.ready = asyncio.Event()
        self.keyd = KeydClient(settings.keyd_socket, timeout_s=KEYD_TIMEOUT_S)
        self.policy = PayablePolicy(self.keyd, self._status.keyd_answers)
        self.metrics = Metrics()
        self._payer = Payer(
            self.keyd,
            among_others=settings.workers > 1,
            on_answer=self.metrics.sign.observe,
            on_lost_report=self.metrics.reports_lost.inc,
        )
        self._identity = Identity(
            {caller.name: bytes.fromhex(caller.token_sha256) for caller in settings.callers},
            look_for_process=settings.identify == "process",
        )
        buyer = Buyer(self._payer, self._identity, self.policy, flat_dialect=settings.x402.flat_dialect)
        self._x402 = X402Addon(
            buyer,
            self._payer,
            room := Room(settings.max_kept),
            enabled=settings.pays,
            max_request_body=settings.max_request_body,
        )
        self._layers = PayNextLayer(self._may_intercept)
        self._proxyserver = Proxyserver(sockets, on_connections)
        self._master = self._make_master()
        self._draining: asyncio.Task[None] | None = None
        self._tell_figures(room)

    @property
    def address(self) -> tuple[str, int]:
        """Where the proxy listens."""
        host, port, *_ = self._sockets[0].getsockname()
        return host, port

    async def run(self) -> None:
        """Serve until stopped. Ready once keyd has answered, or is known not to."""
        await self.policy.refresh()
        follow = asyncio.create_task(self.policy.follow(), name="follow policy")
        alive = asyncio.create_task(self._keep_alive(), name="watchdog")
        try:
            await self._master.run()
        finally:
            follow.cancel()
            alive.cancel()
            await self._payer.drain(REPORT_LIMIT_S)
            await self.keyd.close()

    def _tell_figures(self, room: Room) -> None:
        gauge = self.metrics.gauge
        gauge("connections", "Connections of applications.", lambda: len(self._proxyserver.connections))
        gauge("tunnels", "Those whose bytes pass unread.", lambda: len(self._layers.tunnels))
        gauge("requests_live", "Requests that have begun and not ended.", lambda: len(self._x402.live))
        gauge("kept_bytes", "Bodies and 402 answers that are kept.", lambda: room.taken)
        gauge("keyd_up", "1 if keyd answered when last asked.", lambda: bool(self.policy.reachable))

    def _announce(self) -> None:
        host, port = self.address
        self.ready.set()
        self._status.ready(self.address)
        _log.info("egress.ready", host=host, port=port)

    async def _keep_alive(self) -> None:
        await self.ready.wait()
        await self._status.keep_alive()

    def stop(self) -> None:
        """Stop now; what is under way breaks off."""
        self._master.shutdown()  # type: ignore[no-untyped-call]

    def drain(self) -> None:
        """Stop accepting, let what is under way finish for `drain_seconds`, then stop. A second call stops now."""
        if self._draining is not None:
            self.stop()
        self.drain_once()

    def drain_once(self) -> None:
        """The same, but a second call changes nothing."""
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(), name="drain")

    async def _drain(self) -> None:
        self._status.stopping()
        _log.info("egress.draining", live=len(self._x402.live), limit_seconds=self.settings.drain_seconds)
        try:
            await self._proxyserver.servers.update([])
            await self._quiet(time.monotonic() + self.settings.drain_seconds)
            _log.info("egress.drained", cut_off=len(self._x402.live))
        finally:
            self.stop()  # also after a fault: nobody asks a second time

    async def _quiet(self, deadline: float) -> None:
        """Return when nothing is under way, or at `deadline`."""
        quiet = 0
        # Twice quiet in a row: between the end of a flow and its last bytes in the buffer lies one round.
        while quiet < 2 and time.monotonic() < deadline:
            await asyncio.sleep(_DRAIN_POLL_S)
            quiet = 0 if self._busy() else quiet + 1

    def _busy(self) -> bool:
        return bool(self._x402.live) or any(
            self._has_unsent(handler) or self._is_active_tunnel(handler)
            for handler in self._proxyserver.connections.values()
        )

    @staticmethod
    def _has_unsent(handler: ProxyConnectionHandler) -> bool:
        writers = [io.writer for io in handler.transports.values()]
        return any(
            isinstance(writer, asyncio.StreamWriter) and writer.transport.get_write_buffer_size() > 0
            for writer in writers
        )

    def _is_active_tunnel(self, handler: ProxyConnectionHandler) -> bool:
        quiet = time.time() - handler.timeout_watchdog.last_activity
        return handler.client.id in self._layers.tunnels and quiet < _TUNNEL_QUIET_S

    def _make_master(self) -> Master:
        settings = self.settings
        ca = trust.prepare_ca(Path(settings.state_dir))
        extra = Path(settings.upstream_ca_file) if settings.upstream_ca_file else None
        install_handler()
        http1.install()
        http2.install()
        headers.install()
        memory.lighten_tls()
        master = Master(Options())
        master.addons.add(  # type: ignore[no-untyped-call]
            core.Core(),
            self._proxyserver,
            self._layers,
            tlsconfig.TlsConfig(),
            *_routing(settings, self._identity, asyncio.get_running_loop()),
            self._identity,
            ConnectionLimit(settings.max_connections_per_caller, self._identity.owner),
            self._x402,
            *([MetricsAddon(self.metrics)] if settings.metrics_listen else []),
            _OnRunning(self._announce),
        )
        # After the addons: they act on options when these change, and the CA must be there before a client is.
        master.options.update(  # type: ignore[no-untyped-call]
            confdir=str(ca),
            ssl_verify_upstream_trusted_ca=str(trust.upstream_bundle(ca, extra)),
            websocket=False,  # an upgraded connection is a pipe: parsing its frames could only change them
            tcp_timeout=IDLE_LIMIT_S,
        )
        return master

    def _may_intercept(self, origin: Origin) -> bool:
        if self.settings.intercept == "all":
            return True
        return self.settings.pays and self.policy.covers(origin)


def _routing(settings: EgressSettings, identity: Identity, loop: asyncio.AbstractEventLoop) -> list[object]:
    """The addons that decide where connections go, and put it into effect in `loop`. Raises ConfigError."""
    lookups = Lookups(identity.owner)
    lookups.install(loop)
    allow_private = [AllowedPrivate.parse(entry) for entry in settings.allow_private]
    allowed_domains = AllowedDomains(settings.allowed_domains)
    guard = Guard(allow_private, allowed_domains, behind_proxy=settings.upstream_proxy is not None)
    guard.install(loop)
    if settings.upstream_proxy is None:
        return [lookups, guard]
    address = ProxyAddress.parse(settings.upstream_proxy.get_secret_value())
    if settings.upstream_proxy_credential_file is not None:
        address = address.with_credential_of(Path(settings.upstream_proxy_credential_file))
    proxy = UpstreamProxy(address, direct=allow_private)
    proxy.install(loop)
    return [lookups, guard, proxy]


async def serve(settings: EgressSettings, sockets: Sequence[socket.socket]) -> None:
    """Run until SIGTERM or SIGINT; a second signal stops at once. Raises ConfigError."""
    egress = Egress(settings, sockets, Notifier(os.environ))
    _on_signals(egress.drain, egress.drain)
    scraped = None if settings.metrics_listen is None else metrics_listener(settings.metrics_listen)
    await _run(egress, scraped)


async def serve_as_worker(
    settings: EgressSettings, sockets: Sequence[socket.socket], load: Load, parent: int, scraped: Path | None
) -> None:
    """Run beside others on the same sockets (egress.workers): SIGTERM drains, however often it is sent; SIGINT stops
    at once. The end of process `parent`, which started this one, is a SIGTERM too."""
    egress = Egress(settings, sockets, Notifier(os.environ), on_connections=load.tell)
    _on_signals(egress.drain_once, egress.stop)
    end_with(parent)
    await _run(egress, scraped if settings.metrics_listen else None)


def _on_signals(sigterm: Callable[[], None], sigint: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, sigterm)
    loop.add_signal_handler(signal.SIGINT, sigint)


async def _run(egress: Egress, scraped: Path | socket.socket | None) -> None:
    logging.getLogger("mitmproxy").setLevel(logging.WARNING)
    asyncio.get_running_loop().set_default_executor(LookupThreads())
    settling = asyncio.create_task(_settle(egress), name="settle")
    try:
        if scraped is None:
            await egress.run()
            return
        from egress.scrape import answering  # a web server, which few need

        async with answering(scraped, egress.metrics.exposition):
            await egress.run()
    finally:
        settling.cancel()


async def _settle(egress: Egress) -> None:
    await egress.ready.wait()
    memory.settle()
