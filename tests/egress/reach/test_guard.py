"""Destinations: private addresses are refused on the address that is connected to, whatever the resolver says."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from egress.reach.destinations import AllowedDomains, AllowedPrivate, is_private
from tests.egress.conftest import RunEgress
from tests.egress.support.client import App
from tests.egress.support.upstream import Upstream, selling, serving
from tests.egress.support.wire import response

FREE = selling(lambda _: b"", lambda _: response(200, {}, b"free"))
REFUSED = "rejected; reason=destination_private"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200",
        "0.0.0.0", "224.0.0.1", "255.255.255.255", "168.63.129.16", "::1", "::", "fe80::1", "fe80::1%eth0",
        "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::10.0.0.1",
        "2002:7f00:1::", "192.0.2.1", "2001:db8::1", "fec0::1", "::127.0.0.1", "::ffff:0:127.0.0.1",
    ],
)  # fmt: skip
def test_private_addresses_are_private_in_every_spelling(address: str) -> None:
    assert is_private(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"])
def test_public_addresses_are_not(address: str) -> None:
    assert not is_private(address)


@pytest.mark.parametrize(
    ("entry", "covered", "not_covered"),
    [
        ("localhost", ("localhost", 1), ("127.0.0.1", 1)),
        ("LOCALHOST:80", ("localhost", 80), ("localhost", 81)),
        ("127.0.0.1:80", ("127.0.0.1", 80), ("127.0.0.2", 80)),
        ("[::1]:80", ("0:0::1", 80), ("::1", 81)),
        ("::1", ("::1", 5), ("::2", 5)),
        ("[::1]", ("::1", 5), ("::2", 5)),
    ],
)
def test_an_exception_covers_what_it_names(
    entry: str, covered: tuple[str, int], not_covered: tuple[str, int]
) -> None:
    allowed = AllowedPrivate.parse(entry)
    assert allowed.covers(*covered)
    assert not allowed.covers(*not_covered)


@pytest.mark.parametrize(
    "entry", ["", ":80", "host:", "host:http", "host:70000", "10.0.0.0/8", "*.local", "[::1", "http://a"]
)
def test_an_exception_that_is_not_understood_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="write a host or an address"):
        AllowedPrivate.parse(entry)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_private_destination_is_refused_over_http(run_egress: RunEgress, method: str) -> None:
    async with (
        run_egress(allow_private=()) as egress,
        serving(FREE) as upstream,
        App(egress.address, upstream) as app,
    ):
        for _ in range(2):  # the connection to the application stays usable
            await app.send(method=method, body=None if method == "GET" else b"x" * 100_000)
            answer = await app.answer()
            assert (answer.status, answer.get("X-402-Egress")) == (403, REFUSED)
            assert b"allow_private" in answer.body
    assert upstream.connections == 0


async def test_a_private_destination_is_refused_over_connect(run_egress: RunEgress) -> None:
    async with (
        run_egress(allow_private=()) as egress,
        serving(FREE) as upstream,
        App(egress.address, upstream) as app,
    ):
        await app.write(f"CONNECT 127.0.0.1:{upstream.port} HTTP/1.1\r\n\r\n".encode())
        answer = await app.answer()
        assert (answer.status, answer.get("X-402-Egress")) == (403, REFUSED)
    assert upstream.connections == 0


class Resolver:
    """Answers as the test says, one answer after another, and counts."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> list[Any]:
        self.asked.append(host)
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [
            (family[":" in address], socket.SOCK_STREAM, 6, "", (address, port))
            for address in self.answers.pop(0)
        ]


async def get_by_name(address: tuple[str, int], upstream: Upstream, name: str) -> tuple[int, str | None]:
    async with App(address, upstream) as app:
        await app.write(
            f"GET http://{name}:{upstream.port}/ HTTP/1.1\r\nHost: {name}:{upstream.port}\r\n\r\n".encode()
        )
        answer = await app.answer()
        return answer.status, answer.get("X-402-Egress")


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["169.254.169.254"], ["::ffff:127.0.0.1"], ["fd00::1", "10.0.0.1"], ["64:ff9b::7f00:1"]],
)
async def test_a_name_that_resolves_to_private_addresses_is_refused(
    run_egress: RunEgress, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    resolver = Resolver(addresses)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver.getaddrinfo)
    async with serving(FREE) as upstream, run_egress(allow_private=()) as egress:
        assert await get_by_name(egress.address, upstream, "evil.example") == (403, REFUSED)
    assert resolver.asked == ["evil.example"]
    assert upstream.connections == 0


async def test_a_guard_that_fails_lets_nobody_through(
    run_egress: RunEgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bool:
        raise RuntimeError("a host that nobody thought of")

    async with run_egress() as egress, serving(FREE) as upstream, App(egress.address, upstream) as app:
        monkeypatch.setattr("egress.reach.guard.covered", fail)
        assert (await app.get()).status == 502
    assert upstream.connections == 0


async def test_a_resolver_that_changes_its_answer_is_judged_by_the_answer_that_is_used(
    run_egress: RunEgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(FREE) as upstream:
        resolver = Resolver(["169.254.169.254", "127.0.0.1"], ["169.254.169.254"])
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver.getaddrinfo)
        async with run_egress(allow_private=(f"127.0.0.1:{upstream.port}",)) as egress:
            # Of the first answer only the permitted address is used; the second holds none.
            assert await get_by_name(egress.address, upstream, "rebind.example") == (200, None)
            assert await get_by_name(egress.address, upstream, "rebind.example") == (403, REFUSED)
    assert resolver.asked == ["rebind.example"] * 2  # one lookup for each connection: no second to lie to
    assert upstream.connections == 1


async def test_a_name_in_allow_private_may_resolve_to_private_addresses(
    run_egress: RunEgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = Resolver(["127.0.0.1"])
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver.getaddrinfo)
    async with serving(FREE) as upstream, run_egress(allow_private=("intranet.example",)) as egress:
        assert await get_by_name(egress.address, upstream, "intranet.example") == (200, None)


# -- allowed_domains --------------------------------------------------------------------------------------

NOT_ALLOWED = "rejected; reason=destination_not_allowed"


@pytest.mark.parametrize(
    ("entry", "covered", "not_covered"),
    [
        ("api.example.com", ("API.example.com", 443), ("api.example.com", 80)),
        ("api.example.com:8443", ("api.example.com", 8443), ("api.example.com", 443)),
        ("*.example.com", ("a.b.example.com", 443), ("example.com", 443)),
        ("http://api.example.com", ("api.example.com", 80), ("api.example.com", 443)),
        ("http://127.0.0.1:4021", ("127.0.0.1", 4021), ("127.0.0.1", 4022)),
    ],
)
def test_an_allowed_domain_covers_host_and_port(
    entry: str, covered: tuple[str, int], not_covered: tuple[str, int]
) -> None:
    allowed = AllowedDomains([entry])
    assert allowed.covers(*covered)
    assert not allowed.covers(*not_covered)
    assert not allowed.covers("evil.example", 443)


def test_without_entries_and_with_a_star_everything_is_allowed() -> None:
    for entries in ((), ("*",)):
        assert AllowedDomains(entries).covers("anything.example", 1)


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
@pytest.mark.parametrize("intercept", ["payable", "all"])
async def test_a_destination_that_is_not_listed_is_refused(
    run_egress: RunEgress, method: str, intercept: str
) -> None:
    async with (
        serving(FREE) as upstream,
        run_egress(allowed_domains=("api.example.com",), intercept=intercept) as egress,
        App(egress.address, upstream) as app,
    ):
        if method == "GET":
            await app.send()
        else:
            await app.write(f"CONNECT 127.0.0.1:{upstream.port} HTTP/1.1\r\n\r\n".encode())
        answer = await app.answer()
        assert (answer.status, answer.get("X-402-Egress")) == (403, NOT_ALLOWED)
        assert b"allowed_domains" in answer.body
    assert upstream.connections == 0


@pytest.mark.parametrize("method", ["GET", "CONNECT"])
async def test_a_destination_that_is_listed_is_reached(run_egress: RunEgress, method: str) -> None:
    async with serving(FREE) as upstream:
        entry = f"http://127.0.0.1:{upstream.port}"
        async with run_egress(allowed_domains=(entry,)) as egress, App(egress.address, upstream) as app:
            if method == "GET":
                assert (await app.get()).status == 200
            else:
                assert (await app.tunnel()).status == 200
    assert upstream.connections == 1


async def test_a_listed_name_may_still_not_resolve_to_a_private_address(
    run_egress: RunEgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = Resolver(["127.0.0.1"])
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver.getaddrinfo)
    async with serving(FREE) as upstream:
        listed = (f"http://api.example.com:{upstream.port}",)
        async with run_egress(allowed_domains=listed, allow_private=()) as egress:
            assert await get_by_name(egress.address, upstream, "api.example.com") == (403, REFUSED)
            assert await get_by_name(egress.address, upstream, "other.example.com") == (403, NOT_ALLOWED)
    assert resolver.asked == ["api.example.com"]  # what is not allowed is not even looked up
