"""egress subclasses private parts of mitmproxy, and touches some of h2 and asyncio. These tests notice when an update
has changed them."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import socket
import subprocess
import sys
from asyncio.trsock import TransportSocket
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import h2.connection
import h11
import mitmproxy.http
import pytest
from mitmproxy import addonmanager, certs, master
from mitmproxy.addons import next_layer, proxyserver, tlsconfig
from mitmproxy.net import tls as net_tls
from mitmproxy.proxy import layer, mode_servers, server
from mitmproxy.proxy.layers import http, tcp
from mitmproxy.proxy.layers.http import _http1, _http2, _http_h2

from egress.left_out import EMPTIED
from egress.stack.last_words import LastWordsReader

RELIED_ON: dict[str, tuple[Callable[..., Any] | type, str]] = {
    "egress/stack/transparent.py, resend.py, paystream.py (states, check_killed, flow_done)": (
        http.HttpStream,
        "baaac4f7cdb3",
    ),
    "egress/stack/resend.py, egress/stack/layers.py (streams, connections, reuse)": (
        http.HttpLayer,
        "8da4a8a48e63",
    ),
    "egress/stack/http1.py (Http1Client and Http1Server are created here)": (http.HttpClient, "8401d422afda"),
    "egress/stack/http1.py (read_body, send, mark_done)": (_http1.Http1Connection, "c0675638b075"),
    "egress/stack/http1.py (read_headers towards servers)": (_http1.Http1Client, "706b7a68f280"),
    "egress/stack/http1.py (read_headers towards applications)": (_http1.Http1Server, "cc8428d0bb6f"),
    "egress/stack/http2.py, egress/stack/resend.py (stream ids)": (_http2.Http2Client, "a113056f7d2b"),
    "egress/stack/http2.py (acknowledgements, send_data)": (_http2.Http2Connection, "f18f3940fd55"),
    "egress/stack/http2.py (stream_buffers, windows)": (_http_h2.BufferedH2Connection, "f983b7220f47"),
    "egress/stack/handler.py (handle_connection, drain_writers, handle_hook)": (
        mode_servers.ProxyConnectionHandler,
        "10e340d70b3f",
    ),
    "egress/stack/layers.py (choice of layers)": (next_layer.NextLayer, "f1d53b3127c3"),
    "egress/stack/paystream.py (blocking hooks, queued events)": (layer.Layer, "e98dedd896fb"),
    "egress/reach/guard.py (hook and connect in one task), egress/stack/hooks.py (server_event), egress/proxy.py": (
        server.ConnectionHandler,
        "f7209a1273f3",
    ),
    "egress/stack/server.py (setup_servers, register_connection), egress/proxy.py (connections)": (
        proxyserver.Proxyserver,
        "274ee0764207",
    ),
    "egress/proxy.py (run)": (master.Master, "e466d3e6ff59"),
    "egress/stack/server.py (_servers, handle_stream)": (mode_servers.AsyncioServerInstance, "d565bfefd6af"),
    "egress/stack/server.py (_instances, update)": (proxyserver.Servers, "6c950fbed489"),
    "egress/paying/origin.py (SNI is what is verified)": (
        tlsconfig.TlsConfig.tls_start_server,
        "2e2dc9c25670",
    ),
    "egress/reach/trust.py (names of the files)": (certs.CertStore.from_store, "202a158d9075"),
    "egress/stack/hooks.py (chain, what a hook does)": (addonmanager.AddonManager, "6be8dc580f5c"),
    "egress/stack/handler.py (__post_init__ checks types and nothing else)": (
        mitmproxy.http.MessageData,
        "bad2ea9a351a",
    ),
    "egress/stack/headers.py (get_all, get, __contains__)": (mitmproxy.http.Headers, "947aa0298abd"),
    "egress/stack/handler.py (disarm), egress/proxy.py (last_activity)": (
        server.TimeoutWatchdog,
        "95c9f187c70d",
    ),
    "egress/stack/http2.py (pieces in stream_buffers)": (_http_h2.SendH2Data, "1a91df2df80f"),
    "egress/stack/http1.py (trailers in EndOfMessage)": (h11._readers.ChunkedReader, "4d2629eeaaf3"),
    "egress/stack/http1.py (maybe_extract_lines, +=, _data)": (
        h11._receivebuffer.ReceiveBuffer,
        "108c4355eb3b",
    ),
    "egress/memory.py (makes every context)": (net_tls._create_ssl_context, "d322b556bd36"),
    "egress/stack/tunnel.py (start, relay_messages), egress/paying/addon.py (tcp_message, messages)": (
        tcp.TCPLayer,
        "5e842b94cd44",
    ),
}


def digest(part: Callable[..., Any] | type) -> str:
    return hashlib.sha256(inspect.getsource(part).encode()).hexdigest()[:12]


@pytest.mark.parametrize("user", RELIED_ON)
def test_the_private_parts_of_mitmproxy_are_those_that_were_read(user: str) -> None:
    part, expected = RELIED_ON[user]
    assert digest(part) == expected, (
        f"{part.__module__}.{part.__qualname__} is not what it was in mitmproxy 12.2.3 and h11 0.16.0, but that of "
        f"mitmproxy {version('mitmproxy')} and h11 {version('h11')}. "
        f"Read it against {user}, run tests/egress, then write {digest(part)!r} here."
    )


def test_the_private_part_of_h2_is_the_one_that_was_read() -> None:
    assert digest(h2.connection.H2Connection._receive_goaway_frame) == "de018f94938e", (
        f"h2 {version('h2')} reads GOAWAY otherwise than 4.3.0. Read it against egress/stack/http2.py."
    )


async def test_the_private_parts_of_asyncio_are_where_last_words_looks_for_them() -> None:
    """egress/stack/last_words.py. The source differs between versions of Python, so what it does is looked at."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader, writer = await asyncio.open_connection(sock=ours)
        assert type(reader._buffer) is bytearray  # type: ignore[attr-defined]
        theirs.send(b"last words")
        writer.transport.abort()
        kernel = writer.get_extra_info("socket")._sock
        assert kernel.recv(100) == b"last words"  # open until the loop goes on, and then
        assert await reader.read() == b""
        assert kernel.fileno() == -1


def test_the_classes_that_egress_replaces_are_looked_up_by_name() -> None:
    for name in ("Http1Client", "Http1Server", "Http2Client", "Http2Server"):
        creators = inspect.getsource(http.HttpClient) + inspect.getsource(http.HttpLayer)
        assert f"{name}(" in creators, f"mitmproxy no longer creates {name} by its name in layers.http"
    for name, creator in {
        "BufferedH2Connection": _http2.Http2Connection.__init__,
        "ProxyConnectionHandler": mode_servers.ServerInstance.handle_stream,
    }.items():
        assert f"{name}(" in inspect.getsource(creator), f"mitmproxy no longer creates {name} by its name"


def test_what_egress_never_starts_is_not_loaded() -> None:
    """17 MB; were one of these modules renamed, it would come back unseen."""
    code = "import egress.proxy, sys; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "mitmproxy.addons.proxyserver" in loaded
    addons = {"flask", "ldap3", "mitmproxy.addons.onboarding", "mitmproxy.contentviews"}
    parts = {"mitmproxy_rs.mitmproxy_rs", "ruamel.yaml.main", "pyparsing.core", "rich.console", "aiohttp.web"}
    assert (addons | parts).isdisjoint(loaded)


def test_mitmproxy_still_has_what_egress_empties() -> None:
    code = "import sys; from importlib.util import find_spec; print(*(n for n in sys.argv[1:] if not find_spec(n)))"
    missing = subprocess.run(
        [sys.executable, "-c", code, *EMPTIED], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not missing, f"{missing}: these entries in egress/left_out.py do nothing any more"


async def test_the_buffers_of_asyncio_that_are_looked_into_are_there() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"last words")
    reader.set_exception(ConnectionResetError())
    assert LastWordsReader(reader)._rest() == b"last words", (
        "StreamReader._buffer: egress/stack/last_words.py"
    )
    with socket.socket() as sock:
        assert TransportSocket(sock)._sock is sock, "TransportSocket._sock: egress/stack/last_words.py"
