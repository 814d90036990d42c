"""Closed connections leave nothing behind, and open ones hold little."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.net import tls as net_tls
from mitmproxy.tls import TlsData
from OpenSSL import SSL

from tests.egress.conftest import World
from tests.egress.support.upstream import selling
from tests.egress.support.wire import paid_answer, payment_required


class TlsSeen:
    """mitmproxy addon: the TLS connections that are made."""

    def __init__(self) -> None:
        self.connections: list[SSL.Connection] = []

    def tls_start_client(self, data: TlsData) -> None:
        assert data.ssl_conn is not None
        self.connections.append(data.ssl_conn)

    tls_start_server = tls_start_client


async def test_tls_connections_keep_no_buffers_on_either_side(world: World) -> None:
    seen = TlsSeen()
    world.egress._master.addons.add(seen)
    seller = selling(lambda _: paid_answer(), lambda _: payment_required())
    async with world.serving(seller, tls=True) as upstream, world.app(upstream) as app:
        assert (await app.get()).status == 200
    assert len(seen.connections) == 2
    for connection in seen.connections:
        mode = SSL._lib.SSL_set_mode(connection._ssl, 0)  # type: ignore[attr-defined]  # adds nothing
        assert mode & SSL.MODE_RELEASE_BUFFERS


def test_mitmproxy_makes_its_contexts_where_egress_expects_it() -> None:
    for creator in (net_tls.create_client_proxy_context, net_tls.create_proxy_server_context):
        assert "_create_ssl_context(" in inspect.getsource(creator)
    for user in (TlsConfig.tls_start_client, TlsConfig.tls_start_server):
        assert "net_tls.create_" in inspect.getsource(user)


def test_what_is_there_at_the_start_is_not_looked_through_again() -> None:
    code = (
        "import gc, egress.proxy; from egress import memory\n"
        "before = len(gc.get_objects()); memory.settle()\n"
        "cycle = []; cycle.append(cycle); del cycle\n"
        "print(before, gc.get_freeze_count(), len(gc.get_objects()), gc.collect())"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    before, frozen, looked_at, collected = map(int, said.split())
    assert frozen > 0.9 * before
    assert looked_at < 0.01 * before
    assert collected >= 1  # what comes later still goes


@pytest.mark.parametrize(("settled", "left"), [(True, 0), (False, 500)])
def test_what_has_lived_long_goes_soon_after_its_end(settled: bool, left: int) -> None:
    """As a keep-alive connection does, which is a cycle, and older than the requests that came on it."""
    code = f"""if True:
        import gc, egress.proxy
        from egress import memory
        if {settled}:
            memory.settle()
        class Connection:
            def __init__(self): self.me = self
        connections = [Connection() for _ in range(500)]
        gc.collect()  # they are old now
        del connections
        others = [[] for _ in range(100_000)]
        print(sum(type(thing) is Connection for thing in gc.get_objects()))
        """
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(said) == left
