"""TLS is looked into only where keyd's policy could pay; everything else is a tunnel."""

from __future__ import annotations

import ssl

import pytest
from mitmproxy import http
from mitmproxy.connection import Server

from egress.paying.origin import connected_origin, names_origin
from egress.reach.destinations import origin_of
from keyd.api import Origin
from tests.egress.conftest import Pki, RunEgress
from tests.egress.support.client import App
from tests.egress.support.keyd import FakeKeyd
from tests.egress.support.upstream import Connection, Upstream, selling, serving
from tests.egress.support.wire import paid_answer, payment_required

SELLER = selling(lambda _: paid_answer(), lambda _: payment_required())


async def issuer_seen(address: tuple[str, int], upstream: Upstream) -> str:
    """Whose certificate an application sees behind egress."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with App(address, upstream, context) as app:
        certificate = app.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return "egress" if b"osmoda-egress CA" in certificate else "server"


@pytest.mark.parametrize(
    ("entry", "issuer"),
    [
        (None, "server"),
        ("other.example", "server"),
        ("127.0.0.1", "server"),  # port 443 only
        ("http://127.0.0.1:{port}", "server"),
        ("127.0.0.1:{port}", "egress"),
        ("https://127.0.0.1:{port}", "egress"),
        ("*", "egress"),
    ],
)
async def test_only_payable_hosts_are_intercepted(
    run_egress: RunEgress, keyd: FakeKeyd, pki: Pki, entry: str | None, issuer: str
) -> None:
    async with serving(SELLER, pki.server) as upstream:
        keyd.allowed_domains = [] if entry is None else [entry.format(port=upstream.port)]
        async with run_egress() as egress:
            assert await issuer_seen(egress.address, upstream) == issuer


async def test_intercept_all_looks_into_every_host(run_egress: RunEgress, keyd: FakeKeyd, pki: Pki) -> None:
    keyd.allowed_domains = []
    async with serving(SELLER, pki.server) as upstream, run_egress(intercept="all") as egress:
        assert await issuer_seen(egress.address, upstream) == "egress"


async def test_nothing_is_intercepted_when_nothing_is_paid(run_egress: RunEgress, pki: Pki) -> None:
    async with serving(SELLER, pki.server) as upstream, run_egress(x402={"enable": False}) as egress:
        assert await issuer_seen(egress.address, upstream) == "server"


async def test_a_402_inside_a_tunnel_reaches_the_application_untouched(
    run_egress: RunEgress, keyd: FakeKeyd, pki: Pki
) -> None:
    keyd.allowed_domains = []
    trusting = ssl.create_default_context(cafile=str(pki.upstream_ca))
    async with (
        serving(SELLER, pki.server) as upstream,
        run_egress() as egress,
        App(egress.address, upstream, trusting) as app,
    ):
        answer = await app.get()
    assert (answer.status, answer.get("X-402-Egress")) == (402, None)
    assert keyd.requests == []


async def test_the_policy_is_followed_without_a_restart(
    run_egress: RunEgress, keyd: FakeKeyd, pki: Pki
) -> None:
    keyd.allowed_domains = []
    async with serving(SELLER, pki.server) as upstream, run_egress() as egress:
        assert await issuer_seen(egress.address, upstream) == "server"
        keyd.allowed_domains = ["a form of tomorrow", "*"]
        await egress.policy.refresh()
        assert await issuer_seen(egress.address, upstream) == "egress"
        keyd.allowed_domains = []
        await egress.policy.refresh()
        assert await issuer_seen(egress.address, upstream) == "server"


async def test_the_policy_is_polled(
    run_egress: RunEgress, keyd: FakeKeyd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egress.paying.policy.POLL_INTERVAL_S", 0.01)
    async with run_egress():
        keyd.policy_asked.clear()
        await keyd.policy_asked.wait()


async def test_without_keyd_the_last_known_policy_stays(
    run_egress: RunEgress, keyd: FakeKeyd, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(SELLER, pki.server) as upstream, run_egress() as egress:
        monkeypatch.setattr(egress.keyd, "socket", "/nonexistent/keyd.sock")
        await egress.keyd.close()  # the next request connects anew, to nothing
        await egress.policy.refresh()
        assert await issuer_seen(egress.address, upstream) == "egress"


async def test_a_server_that_speaks_first_is_tunnelled(run_egress: RunEgress) -> None:
    async def greeter(connection: Connection) -> None:
        await connection.send(b"220 hello\r\n")
        await connection.send(await connection.reader.readexactly(4))

    async with run_egress() as egress, serving(greeter) as upstream, App(egress.address, upstream) as app:
        await app.tunnel()
        assert await app.reader.readline() == b"220 hello\r\n"
        await app.write(b"QUIT")
        assert await app.reader.readexactly(4) == b"QUIT"


@pytest.mark.parametrize(
    "first", [b"\x16", b"\x16\x03\x01\x00\x05hello", b"\x00\x01", b"GET / HTTP/1.1\r\n\r\n"]
)
async def test_a_tunnel_to_a_host_that_is_not_payable_passes_any_bytes(
    run_egress: RunEgress, keyd: FakeKeyd, first: bytes
) -> None:
    async def echo(connection: Connection) -> None:
        assert await connection.reader.readexactly(len(first)) == first
        await connection.send(b"got it")

    keyd.allowed_domains = []
    async with run_egress() as egress, serving(echo) as upstream, App(egress.address, upstream) as app:
        await app.tunnel()
        await app.write(first)
        assert await app.reader.readexactly(6) == b"got it"


async def test_plain_http_inside_a_tunnel_is_paid_if_its_origin_is_payable(
    run_egress: RunEgress, keyd: FakeKeyd
) -> None:
    async with serving(SELLER) as upstream:
        keyd.allowed_domains = [f"http://127.0.0.1:{upstream.port}"]
        async with run_egress() as egress, App(egress.address, upstream) as app:
            await app.tunnel()
            await app.write(f"GET /a HTTP/1.1\r\nHost: 127.0.0.1:{upstream.port}\r\n\r\n".encode())
            assert (await app.answer()).body == b"content"
    assert str(keyd.requests[0].origin) == f"http://127.0.0.1:{upstream.port}"


async def test_an_upstream_certificate_that_is_not_trusted_is_refused(
    run_egress: RunEgress, pki: Pki
) -> None:
    async with (
        serving(SELLER, pki.server) as upstream,
        run_egress(upstream_ca_file=None) as egress,
        App(egress.address, upstream, pki.client()) as app,
    ):
        assert (await app.get()).status == 502
    assert upstream.requests == []


# -- whose origin it is --------------------------------------------------------------------------------------


def test_hosts_are_compared_in_one_spelling() -> None:
    assert origin_of("https", "BÜCHER.example", 443) == origin_of("https", "xn--bcher-kva.example", 443)
    assert origin_of("https", "0:0::1", 443) == origin_of("https", "::1", 443)
    assert origin_of("https", "a" * 300, 443) is None
    assert origin_of("https", "sp ace", 443) is None


@pytest.mark.parametrize(
    ("address", "sni", "established", "expected"),
    [
        (("api.example", 443), "api.example", True, "https://api.example"),
        (("API.example", 443), "api.EXAMPLE", True, "https://api.example"),
        (("api.example", 443), "other.example", True, None),
        (("api.example", 443), None, True, None),
        (("api.example", 443), "api.example", False, None),
        (("192.0.2.1", 443), "api.example", True, None),
        (None, "api.example", True, None),
    ],
)
def test_an_https_origin_is_the_verified_name_of_the_address(
    address: tuple[str, int] | None, sni: str | None, established: bool, expected: str | None
) -> None:
    server = Server(address=address)
    server.tls, server.sni = True, sni
    server.timestamp_tls_setup = 1.0 if established else None
    origin = connected_origin(server)
    assert (None if origin is None else str(origin)) == expected


@pytest.mark.parametrize(
    ("host", "same"),
    [
        ("api.example", True),
        ("API.example:443", True),
        ("api.example:80", False),
        ("other.example", False),
        ("", False),
        ("api.example, api.example", False),
    ],
)
def test_the_host_header_has_to_name_the_origin(host: str, same: bool) -> None:
    request = http.Request.make("GET", "https://api.example/")
    request.headers["Host"] = host
    assert names_origin(request, Origin(scheme="https", host="api.example", port=443)) is same
