"""A real egress in the test's own event loop, between scripted servers, a scripted keyd and raw clients."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from mitmproxy import certs

from egress.config import EgressSettings
from egress.listener import listeners
from egress.proxy import Egress
from tests.egress.support.client import App
from tests.egress.support.keyd import FakeKeyd, fake_keyd
from tests.egress.support.manager import Manager
from tests.egress.support.process import toml
from tests.egress.support.upstream import Script, Upstream, serving


@dataclass(frozen=True)
class Pki:
    """A certificate authority for upstream servers, and egress's own, made once for all tests."""

    upstream_ca: Path
    server: ssl.SSLContext
    state_dir: Path

    def server_for(self, *alpn: str) -> ssl.SSLContext:
        context = _server_context(self.upstream_ca.parent)
        context.set_alpn_protocols(alpn)
        return context

    def client(self, *alpn: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.state_dir / "ca-cert.pem"))
        if alpn:
            context.set_alpn_protocols(alpn)
        return context


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    folder = tmp_path_factory.mktemp("pki")
    key, ca = certs.create_ca("upstream test", "upstream test CA", 2048)
    names = [
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.DNSName("localhost"),
        x509.DNSName("seller.example"),
    ]
    leaf = certs.dummy_cert(key, ca, "localhost", names)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(pem + leaf.to_pem())
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    return Pki(folder / "ca.pem", _server_context(folder), tmp_path_factory.mktemp("state"))


def _server_context(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


@pytest.fixture
async def keyd() -> AsyncIterator[FakeKeyd]:
    async with fake_keyd() as keyd:
        yield keyd


type WriteConfig = Callable[..., Path]
"""`config(key=value, …)` writes the test's egress.toml with these values."""


@pytest.fixture
def config(tmp_path: Path, keyd: FakeKeyd, pki: Pki) -> WriteConfig:
    def write(**overrides: Any) -> Path:
        values = {
            "listen": "127.0.0.1:0",
            "keyd_socket": keyd.socket,
            "state_dir": str(tmp_path / "state"),
            "allow_private": ["127.0.0.1"],
            "upstream_ca_file": str(pki.upstream_ca),
            **overrides,
        }
        file = tmp_path / "egress.toml"
        file.write_text(toml(values))
        return file

    return write


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


type RunEgress = Callable[..., AbstractAsyncContextManager[Egress]]


@pytest.fixture
def run_egress(keyd: FakeKeyd, pki: Pki) -> RunEgress:
    """`async with run_egress(key=value, …) as egress:`; values override the test's egress.toml."""

    @asynccontextmanager
    async def run(**overrides: Any) -> AsyncIterator[Egress]:
        values: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "keyd_socket": keyd.socket,
            "state_dir": str(pki.state_dir),
            "allow_private": ("127.0.0.1",),
            "upstream_ca_file": str(pki.upstream_ca),
            **overrides,
        }
        settings = EgressSettings(**values)
        faults = _Faults()
        egress = Egress(settings, listeners(settings.listen, {}))
        running = asyncio.create_task(egress.run())
        ready = asyncio.create_task(egress.ready.wait())
        await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            ready.cancel()
            running.result()
        try:
            yield egress
        finally:
            egress.stop()
            await running
            logging.getLogger("mitmproxy.proxy").removeHandler(faults)
        assert faults.seen == []

    return run


class _Faults(logging.Handler):
    """What went wrong inside of mitmproxy: it drops the rest of what it was doing then, and goes on as if nothing were."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []
        logging.getLogger("mitmproxy.proxy").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(f"{record.getMessage()} {record.exc_info and record.exc_info[1]!r}"[:500])


@pytest.fixture
async def egress(run_egress: RunEgress) -> AsyncIterator[Egress]:
    async with run_egress() as egress:
        yield egress


@dataclass
class World:
    """egress, keyd and the way to put an application and a server on its two sides."""

    egress: Egress
    keyd: FakeKeyd
    pki: Pki

    def serving(self, script: Script, *, tls: bool = False) -> AbstractAsyncContextManager[Upstream]:
        return serving(script, self.pki.server if tls else None)

    def app(self, upstream: Upstream) -> App:
        return App(self.egress.address, upstream, self.pki.client())

    async def allow(self, upstream: Upstream) -> None:
        """keyd's policy covers this server, and egress knows. `*` covers no plain http."""
        self.keyd.allowed_domains.append(f"{upstream.scheme}://127.0.0.1:{upstream.port}")
        await self.egress.policy.refresh()

    def client_gone(self) -> asyncio.Event:
        """Set when egress has noticed that an application hung up."""
        gone = asyncio.Event()
        self.egress._master.addons.add(_ClientGone(gone))
        return gone

    def server_gone(self) -> asyncio.Event:
        """Set when egress has noticed that a server hung up."""
        gone = asyncio.Event()
        self.egress._master.addons.add(_ServerGone(gone))
        return gone

    async def check_no_more_reports(self) -> None:
        """Of payments whose applications have gone."""
        await self.all_gone()
        await self.egress._payer.drain(100)
        assert self.keyd.outcomes.empty()

    async def all_gone(self) -> None:
        """Return when egress has let go of all applications' connections."""
        # mitmproxy announces the end of a connection before it has forgotten it, so there is no event to await.
        for _ in iter(lambda: bool(self.egress._proxyserver.connections), False):
            await asyncio.sleep(0)


class _ClientGone:
    def __init__(self, gone: asyncio.Event) -> None:
        self.client_disconnected = lambda _: gone.set()


class _ServerGone:
    def __init__(self, gone: asyncio.Event) -> None:
        self.server_disconnected = lambda _: gone.set()


@pytest.fixture
def world(egress: Egress, keyd: FakeKeyd, pki: Pki) -> World:
    return World(egress, keyd, pki)
