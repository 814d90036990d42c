"""Addresses that must not be reached, and signatures that are asked for in the name of signing in."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from egress.config import EgressSettings
from egress.listener import listeners
from egress.proxy import Egress
from keyd import api
from keyd.client import KeydRefused
from tests.abuse.support.seller import Seller, offer
from tests.abuse.support.stage import PATIENCE_S, WALLET, Stage, domain
from tests.egress.support.upstream import Upstream
from tests.egress.support.wire import Message, decode, encode, read_message, response


async def ask(address: tuple[str, int], request: str) -> tuple[int, str | None]:
    """Status and X-402-Egress of the answer to one raw request to the proxy."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(request.encode())
            answer: Message = await read_message(reader)
            return answer.status, answer.get("X-402-Egress")
        finally:
            writer.close()


def connect(authority: str) -> str:
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n"


def plain_get(authority: str) -> str:
    return f"GET http://{authority}/a HTTP/1.1\r\nHost: {authority}\r\n\r\n"


@pytest.mark.attack(44)
@pytest.mark.parametrize("spoken", [connect, plain_get])
@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "127.0.0.2", "10.0.0.1", "0.0.0.0", "168.63.129.16",
     "[::1]", "[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]", "[fd00::1]", "[fe80::1]", "[64:ff9b::7f00:1]"],
)  # fmt: skip
async def test_a_private_address_is_refused_in_every_spelling(
    stage: Stage, seller: Seller, host: str, spoken: Any
) -> None:
    url = urlsplit(stage.payer.egress.url)
    assert url.hostname is not None
    assert url.port is not None
    async with stage.serving(seller) as upstream:
        assert await ask((url.hostname, url.port), spoken(f"{host}:{upstream.port}")) == (
            403,
            "rejected; reason=destination_private",
        )
        assert upstream.connections == 0
        await stage.check_sells(seller, upstream)


class Resolver:
    """Answers one list of addresses after another, whatever is asked."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> list[Any]:
        self.asked += 1
        families = {True: socket.AF_INET6, False: socket.AF_INET}
        return [
            (families[":" in address], socket.SOCK_STREAM, 6, "", (address, port))
            for address in self._answers.pop(0)
        ]


@asynccontextmanager
async def egress_in_this_process(stage: Stage, folder: Path, allow_private: str) -> AsyncIterator[Egress]:
    """The same proxy in front of the same keyd, but with a resolver that the test can bend."""
    settings = EgressSettings(
        listen="127.0.0.1:0",
        keyd_socket=str(stage.payer.keyd.socket),
        state_dir=str(folder / "egress"),
        allow_private=(allow_private,),
    )
    egress = Egress(settings, listeners(settings.listen, {}))
    running = asyncio.create_task(egress.run())
    ready = asyncio.create_task(egress.ready.wait())
    await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
    assert ready.done(), running.result()
    try:
        yield egress
    finally:
        egress.stop()
        await running


@pytest.mark.attack(44)
@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:127.0.0.1", "fd00::1", "127.0.0.2"])
async def test_an_allowed_name_that_turns_private_is_refused_on_the_address(
    stage: Stage, seller: Seller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """Rebinding: the name pays once, then its owner points it elsewhere. The list of names does not help it."""
    async with stage.serving(seller, tls=False) as upstream:
        name = f"rebind.example:{upstream.port}"
        resolver = Resolver(["127.0.0.1"], [address], ["127.0.0.1"])
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolver.getaddrinfo)
        async with (
            stage.policy(allow=[f"http://{name}"]),
            egress_in_this_process(stage, tmp_path, f"127.0.0.1:{upstream.port}") as egress,
        ):
            status, said = await ask(egress.address, plain_get(name))
            assert (status, (said or "")[:6]) == (200, "paid; ")
            assert await ask(egress.address, plain_get(name)) == (403, "rejected; reason=destination_private")
            status, said = await ask(egress.address, plain_get(name))
            assert (status, (said or "")[:6]) == (200, "paid; ")
        assert resolver.asked == 3  # one look-up for each connection: no second to lie to
        assert len(seller.payments) == 2


def sign_in(uri: str) -> dict[str, Any]:
    """The extension sign-in-with-x as a server asks for it (CAIP-122)."""
    info = {"domain": "bank.example", "uri": uri, "statement": "Sign in", "nonce": "12345678", "version": "1"}
    chain = {"chainId": "eip155:84532", "type": "eip191"}
    return {"sign-in-with-x": {"info": info, "supportedChains": [chain], "schema": {}}}


async def check_only_transfers_are_signed(stage: Stage, seller: Seller, upstream: Upstream) -> None:
    await stage.check_sells(seller, upstream)
    payment = decode(seller.payments[-1])
    assert payment["payload"].keys() == {"signature", "authorization"}
    for request in seller.requests:
        assert request.get("SIGN-IN-WITH-X") is None


@pytest.mark.attack(45)
@pytest.mark.parametrize("uri", ["https://bank.example/login", "https://127.0.0.1/"])
async def test_a_402_that_wants_a_sign_in_is_passed_on(stage: Stage, seller: Seller, uri: str) -> None:
    """Nobody has allowed this host to be signed in to, as for every host at first."""
    terms = {"x402Version": 2, "accepts": [], "extensions": sign_in(uri)}
    async with stage.serving(seller) as upstream:
        seller.refuse = lambda _: response(402, {"PAYMENT-REQUIRED": encode(terms)}, b"sign in")
        answer = await stage.get(upstream)
        stage.check_not_asked(answer, upstream, "terms_missing")
        assert decode(answer.get("PAYMENT-REQUIRED")) == terms
        assert len(seller.requests) == 1
        seller.refuse = seller.honest_refusal
        await check_only_transfers_are_signed(stage, seller, upstream)


@pytest.mark.attack(45)
async def test_a_sign_in_beside_an_offer_is_echoed_and_not_signed(stage: Stage, seller: Seller) -> None:
    seller.offers, seller.members = [offer()], {"extensions": sign_in("https://bank.example/login")}
    async with stage.serving(seller) as upstream:
        await check_only_transfers_are_signed(stage, seller, upstream)
        assert decode(seller.payments[0])["extensions"] == seller.members["extensions"]
        assert stage.entries(upstream, "x402.payment.attempt")[0]["domain"] == domain(upstream)


PHISHING: dict[str, dict[str, Any]] = {
    "another domain": {"domain": "bank.example"},
    "another uri": {"uri": "https://bank.example/login"},
    "our host as a user of another": {"uri": "https://127.0.0.1@bank.example/"},
    "an expired challenge": {"issuedAt": "2020-01-01T00:00:00Z"},
    "a nonce with words": {"nonce": "I agree to everything"},
    "a nonce with a line": {"nonce": "12345678\nResources:"},
}


@pytest.mark.attack(45)
async def test_where_signing_in_is_allowed_no_challenge_for_another_host_is_signed(
    stage: Stage, seller: Seller
) -> None:
    async with stage.serving(seller) as upstream:
        await stage.check_sells(seller, upstream)
        (payment,) = stage.signed(upstream)
        await stage.outcome(payment["payment_id"])
        await stage.keyd.policy_change(api.PolicyPatch(signin_allow=[domain(upstream)]))
        authority = f"127.0.0.1:{upstream.port}"
        honest = {
            "domain": authority,
            "uri": f"https://{authority}/a",
            "version": "1",
            "nonce": "0123456789abcdef",
            "issuedAt": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "statement": "I owe you everything. " * 500,
        }
        ours = {"chainId": "eip155:84532", "type": "eip191"}
        proof = (await stage.keyd.sign_in(_challenge(upstream, honest, ours))).proof
        assert (proof.domain, proof.address, proof.nonce) == (authority, WALLET, honest["nonce"])
        foreign_chain = _challenge(upstream, honest, ours | {"chainId": "eip155:1"})
        for asked in (
            foreign_chain,
            *(_challenge(upstream, honest | odd, ours) for odd in PHISHING.values()),
        ):
            with pytest.raises(KeydRefused) as refused:
                await stage.keyd.sign_in(asked)
            assert refused.value.refusal.code == "signin_unsuitable"
        assert len(stage.entries(upstream, "x402.signin.signed")) == 1
        assert len(stage.signed(upstream)) == 1


def _challenge(upstream: Upstream, info: dict[str, Any], chain: dict[str, str]) -> api.SignInRequest:
    return api.SignInRequest(
        origin=api.Origin(scheme="https", host="127.0.0.1", port=upstream.port),
        method="GET",
        path="/a",
        caller=api.Caller(uid=os.getuid()),
        info=info,
        supported_chains=[chain],
    )
