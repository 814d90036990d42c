"""Another proxy between egress and the servers: what it gets to see, what it may refuse, where it is not asked."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from egress.config import EgressSettings
from egress.proxy import Egress
from egress.reach.destinations import is_private_name
from egress.reach.proxy_address import ProxyAddress
from keyd.configfile import ConfigError
from tests.egress.conftest import Pki, RunEgress, WriteConfig
from tests.egress.support.client import App
from tests.egress.support.keyd import FakeKeyd
from tests.egress.support.process import egress_process
from tests.egress.support.upstream import Connection, Upstream, selling, serving
from tests.egress.support.wire import Message, paid_answer, payment_required, read_message

BASIC = "Basic dXNlcjpwYTpzcw=="  # user:pa:ss
SELLER = selling(lambda _: paid_answer(), lambda _: payment_required())


NAME = "seller.example"


@dataclass
class Proxy:
    """A scripted proxy that resolves every name to the seller. Over plain http it is the seller itself."""

    seller: Upstream | None = None
    requests: list[Message] = field(default_factory=list)
    """As they came: CONNECT, or in absolute-form."""
    to_seller: bytes = b""
    """What went through tunnels, as the proxy saw it."""

    async def __call__(self, connection: Connection) -> None:
        while True:
            request = await connection.request()
            self.requests.append(request)
            if request.method == "CONNECT":
                await self._tunnel(connection)
                return
            await connection.send(paid_answer() if request.get("PAYMENT-SIGNATURE") else payment_required())

    async def _tunnel(self, connection: Connection) -> None:
        assert self.seller is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", self.seller.port)
        await connection.send(b"HTTP/1.1 200 go on\r\nVia: 1.1 test\r\n\r\n")
        there = asyncio.create_task(self._pipe(connection.reader, writer, record=True))
        await self._pipe(reader, connection.writer)
        await there

    async def _pipe(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, record: bool = False
    ) -> None:
        while data := await source.read(65536):
            if record:
                self.to_seller += data
            sink.write(data)
        sink.close()


@asynccontextmanager
async def chain(
    run_egress: RunEgress, seller: Upstream | None = None, **settings: Any
) -> AsyncIterator[tuple[Egress, Proxy, Upstream]]:
    """egress behind a proxy that wants a credential; nothing private may be reached directly."""
    proxy = Proxy(seller)
    async with serving(proxy) as listening:
        address = f"http://user:pa%3Ass@127.0.0.1:{listening.port}"
        values = {"upstream_proxy": address, "allow_private": (), **settings}
        async with run_egress(**values) as egress:
            yield egress, proxy, listening


async def test_https_is_paid_inside_a_tunnel_of_which_the_proxy_reads_nothing(
    run_egress: RunEgress, pki: Pki
) -> None:
    async with (
        serving(SELLER, pki.server) as seller,
        chain(run_egress, seller) as (egress, proxy, listening),
        App(egress.address, seller, pki.client(), host=NAME) as app,
    ):
        for _ in range(2):
            answer = await app.get()
            assert (answer.status, answer.body) == (200, b"content")
            assert (answer.get("X-402-Egress") or "").startswith("paid; ")
    (connect,) = proxy.requests
    assert connect.start == f"CONNECT {NAME}:{seller.port} HTTP/1.1"
    assert connect.headers == [("Host", f"{NAME}:{seller.port}"), ("Proxy-Authorization", BASIC)]
    assert len(seller.requests) == 4
    assert listening.connections == seller.connections == 1
    assert all(request.get("Proxy-Authorization") is None for request in seller.requests)
    payment = seller.requests[1].get("PAYMENT-SIGNATURE")
    assert payment is not None
    assert payment.encode() not in proxy.to_seller


async def test_a_host_that_is_not_intercepted_is_tunnelled_through_the_proxy(
    run_egress: RunEgress, pki: Pki, keyd: FakeKeyd
) -> None:
    keyd.allowed_domains = []
    trusting = ssl.create_default_context(cafile=str(pki.upstream_ca))
    async with (
        serving(SELLER, pki.server) as seller,
        chain(run_egress, seller) as (egress, proxy, _),
        App(egress.address, seller, trusting, host=NAME) as app,
    ):
        assert (await app.get()).status == 402
    assert [request.method for request in proxy.requests] == ["CONNECT"]


async def test_plain_http_is_paid_in_absolute_form_on_one_connection(run_egress: RunEgress) -> None:
    nobody = Upstream(80, "http")
    async with chain(run_egress) as (egress, proxy, listening), App(egress.address, nobody, host=NAME) as app:
        for _ in range(2):
            answer = await app.get("/a?q=1", Proxy_Authorization="Basic b3duOm93bg==")
            assert (answer.status, answer.body) == (200, b"content")
    assert [request.start for request in proxy.requests] == [f"GET http://{NAME}/a?q=1 HTTP/1.1"] * 4
    assert {request.get("Proxy-Authorization") for request in proxy.requests} == {BASIC}
    assert listening.connections == 1


async def test_plain_http_inside_a_tunnel_stays_in_origin_form(run_egress: RunEgress) -> None:
    async with serving(SELLER) as seller, chain(run_egress, seller, intercept="all") as (egress, proxy, _):
        reader, writer = await asyncio.open_connection(*egress.address)
        authority = f"{NAME}:{seller.port}"
        writer.write(
            f"CONNECT {authority} HTTP/1.1\r\n\r\nGET /a HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        assert (await read_message(reader)).status == 200
        writer.close()
    assert [request.method for request in proxy.requests] == ["CONNECT"]
    assert [request.start for request in seller.requests] == ["GET /a HTTP/1.1"] * 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nsecret",
        b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\n\r\n",
        b"220 smtp.example ESMTP\r\n\r\n",
        b"x" * 100_000,
        b"",
    ],
)
async def test_a_proxy_that_refuses_is_an_error_that_tells_no_secret(
    run_egress: RunEgress, pki: Pki, answer: bytes
) -> None:
    async def refuse(connection: Connection) -> None:
        await connection.request()
        await connection.send(answer)

    seller = Upstream(443, "https")
    async with serving(refuse) as listening:
        proxy = f"http://user:pass@127.0.0.1:{listening.port}"
        async with run_egress(upstream_proxy=proxy, allow_private=()) as egress:
            reader, writer = await asyncio.open_connection(*egress.address)
            writer.write(f"CONNECT {NAME}:{seller.port} HTTP/1.1\r\n\r\n".encode())
            refused = await read_message(reader)
            writer.close()
    assert refused.status == 502
    assert b"the upstream proxy" in refused.body
    assert b"secret" not in refused.body


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "localhost", "LOCALHOST.", "a.localhost",
        "127.1", "0x7f.1", "2130706433", "0177.0.0.1", "metadata.google.internal", "printer.local", "router.home.arpa",
        "intranet",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "CONNECT"])
async def test_what_is_private_by_its_spelling_is_not_asked_of_the_proxy(
    run_egress: RunEgress, host: str, method: str
) -> None:
    async with chain(run_egress) as (egress, proxy, _):
        reader, writer = await asyncio.open_connection(*egress.address)
        target = f"{host}:4021" if method == "CONNECT" else f"http://{host}:4021/"
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: {host}:4021\r\n\r\n".encode())
        answer = await read_message(reader)
        writer.close()
    assert (answer.status, answer.get("X-402-Egress")) == (403, "rejected; reason=destination_private")
    assert proxy.requests == []


@pytest.mark.parametrize(
    "host", ["metadata.google\uff0einternal", "\uff11\uff12\uff17.1", "127\u30020\u30020\u30021"]
)
async def test_nor_is_what_is_private_once_it_is_written_in_ascii(run_egress: RunEgress, host: str) -> None:
    async with chain(run_egress) as (egress, proxy, _):
        reader, writer = await asyncio.open_connection(*egress.address)
        writer.write(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        answer = await read_message(reader)
        writer.close()
    assert (answer.status, answer.get("X-402-Egress")) == (403, "rejected; reason=destination_private")
    assert proxy.requests == []


@pytest.mark.parametrize(
    "name", ["seller.example", "local.example", "internal", "a.b.c.example", "1.1.1.1.example"]
)
def test_names_of_the_internet_are_not_private(name: str) -> None:
    assert is_private_name(name) is (name == "internal")


async def test_names_are_not_looked_up_here(run_egress: RunEgress, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    resolve = asyncio.get_running_loop().getaddrinfo

    async def getaddrinfo(host: Any, *rest: Any, **options: Any) -> Any:
        asked.append(host)
        return await resolve("127.0.0.1", *rest, **options)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    async with serving(Proxy()) as listening:
        private = f"http://proxy.intranet:{listening.port}"  # the proxy itself may be private
        async with (
            run_egress(upstream_proxy=private, allow_private=()) as egress,
            App(egress.address, Upstream(80, "http"), host=NAME) as app,
        ):
            asked.clear()
            assert (await app.get()).status == 200
    assert asked == ["proxy.intranet"]


async def test_allow_private_is_reached_directly(run_egress: RunEgress) -> None:
    async with (
        serving(SELLER) as seller,
        chain(run_egress, allow_private=("127.0.0.1",)) as (egress, proxy, _),
        App(egress.address, seller) as app,
    ):
        assert (await app.get()).status == 200
    assert proxy.requests == []
    assert seller.requests[0].get("Proxy-Authorization") is None


async def test_allowed_domains_hold_behind_a_proxy_too(run_egress: RunEgress) -> None:
    async with chain(run_egress, allowed_domains=(f"http://{NAME}",)) as (egress, proxy, _):
        for host, status in ((NAME, 200), ("other.example", 403)):
            async with App(egress.address, Upstream(80, "http"), host=host) as app:
                assert (await app.get()).status == status
    assert {request.target for request in proxy.requests} == {f"http://{NAME}/a"}


# -- the setting ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "proxy:3128", "https://proxy:3128", "http://proxy", "http://proxy:3128/path", "http://:3128", "http://proxy:x",
        "http://user:hidden@proxy", "socks5://user:hidden@proxy:1080",
    ],
)  # fmt: skip
async def test_an_address_that_is_not_understood_is_named_without_its_password(
    config: WriteConfig, text: str
) -> None:
    async with egress_process(config(upstream_proxy=text), until_ready=False) as egress:
        assert await egress.stopped() == 2
    assert "upstream_proxy: write `http://host:port`" in egress.log
    assert "hidden" not in egress.log


def test_a_password_is_in_no_representation() -> None:
    settings = EgressSettings(upstream_proxy=SecretStr("http://user:hidden@proxy:3128"))
    assert settings.upstream_proxy is not None
    address = ProxyAddress.parse(settings.upstream_proxy.get_secret_value())
    assert address.credential == "user:hidden"
    assert "hidden" not in repr(settings) + repr(address) + settings.model_dump_json()


def test_the_credential_may_be_in_a_file_that_only_few_can_read(tmp_path: Path) -> None:
    address = ProxyAddress.parse("http://[::1]:3128/")
    assert (address.host, address.port, address.authorization) == ("::1", 3128, None)
    file = tmp_path / "credential"
    file.write_text("user:pa:ss\n")
    with pytest.raises(ConfigError, match="can be read by everybody"):
        address.with_credential_of(file)
    file.chmod(0o600)
    assert address.with_credential_of(file).authorization == BASIC
    file.write_text("two\nlines:")
    with pytest.raises(ConfigError, match="holds no credential"):
        address.with_credential_of(file)
    with pytest.raises(ConfigError, match="cannot read upstream_proxy_credential_file"):
        address.with_credential_of(tmp_path / "missing")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"upstream_proxy_credential_file": "/c"}, "of no use without upstream_proxy"),
        (
            {"upstream_proxy": "http://u:p@h:1", "upstream_proxy_credential_file": "/c"},
            "both have a credential",
        ),
    ],
)
async def test_a_credential_stands_in_one_place(
    config: WriteConfig, settings: dict[str, str], message: str
) -> None:
    async with egress_process(config(**settings), until_ready=False) as egress:
        assert await egress.stopped() == 2
    assert message in egress.log


# -- a real one -------------------------------------------------------------------------------------------

EVERYTHING_IS_THE_SELLER = """
from mitmproxy import ctx
def load(loader):
    loader.add_option("seller", int, 0, "port")
def server_connect(data):
    data.server.address = ("127.0.0.1", ctx.options.seller)
"""


@asynccontextmanager
async def mitmdump(folder: Path, seller: Upstream) -> AsyncIterator[int]:
    (folder / "seller.py").write_text(EVERYTHING_IS_THE_SELLER)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(
            Path(sys.executable).with_name("mitmdump"),
            "--set",
            f"confdir={folder}",
            "-s",
            folder / "seller.py",
        ),
        *("--listen-host", "127.0.0.1", "-p", str(port), "--set", f"seller={seller.port}"),
        *("--proxyauth", "user:p@ss", "--set", "flow_detail=0", "--ignore-hosts", ".*"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        while b"listening at" not in (line := await process.stdout.readline()):
            assert line, "mitmdump did not start"
        yield port
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def tinyproxy(folder: Path, seller: Upstream) -> AsyncIterator[int]:
    """In a mount namespace of its own, where /etc/hosts names the seller."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "hosts").write_text(f"127.0.0.1 {NAME}\n")
    lines = ["Listen 127.0.0.1", f"Port {port}", "MaxClients 10", "Allow 127.0.0.1", "BasicAuth user secret"]
    (folder / "tinyproxy.conf").write_text("\n".join([*lines, ""]))
    start = 'mount --bind "$1/hosts" /etc/hosts && exec tinyproxy -d -c "$1/tinyproxy.conf"'
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--mount", "sh", "-c", start, "sh", folder), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        while b"Accepting connections" not in (line := await process.stdout.readline()):
            assert line, "tinyproxy did not start"
        yield port
    finally:
        process.kill()
        await process.wait()


needs_tinyproxy = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("tinyproxy") is None,
    reason="needs tinyproxy, and root, to give it a hosts file",
)


@pytest.mark.real
@needs_tinyproxy
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("password", ["secret", "wrong"])
async def test_tinyproxy_lets_payments_through(
    run_egress: RunEgress, keyd: FakeKeyd, pki: Pki, tmp_path: Path, tls: bool, password: str
) -> None:
    """It closes every connection of plain http after one answer."""
    async with serving(SELLER, pki.server if tls else None) as seller, tinyproxy(tmp_path, seller) as port:
        keyd.allowed_domains.append(f"http://{NAME}:{seller.port}")
        address = f"http://user:{password}@127.0.0.1:{port}"
        async with run_egress(upstream_proxy=address, allow_private=()) as egress:
            if password == "wrong":
                async with App(egress.address, seller, host=NAME) as app:
                    answer = app.connect_answer or await app.get()
                assert answer.status == (502 if tls else 401)  # tinyproxy's word for 407
            else:
                async with App(egress.address, seller, pki.client(), host=NAME) as app:
                    answers = [await app.get() for _ in range(2)]
                assert [answer.body for answer in answers] == [b"content"] * 2
    assert len(seller.requests) == (0 if password == "wrong" else 4)
    assert all(request.get("Proxy-Authorization") is None for request in seller.requests)


@pytest.mark.real
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("password", ["p%40ss", "wrong"])
async def test_a_real_proxy_lets_payments_through_for_whom_it_knows(
    run_egress: RunEgress, pki: Pki, tmp_path: Path, tls: bool, password: str
) -> None:
    async with serving(SELLER, pki.server if tls else None) as seller, mitmdump(tmp_path, seller) as port:
        address = f"http://user:{password}@127.0.0.1:{port}"
        named = Upstream(443 if tls else 80, seller.scheme)
        async with run_egress(upstream_proxy=address, allow_private=()) as egress:
            if password == "wrong":
                async with App(egress.address, named, host=NAME) as app:
                    answer = app.connect_answer or await app.get()
                assert answer.status == (502 if tls else 407)
                assert seller.requests == []
            else:
                async with App(egress.address, named, pki.client(), host=NAME) as app:
                    assert (await app.get()).body == b"content"
                first, second = seller.requests
                assert first.get("Proxy-Authorization") is None
                assert second.get("PAYMENT-SIGNATURE") is not None
