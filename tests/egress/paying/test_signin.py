"""A host that knows its customers lets them in without a payment; it is paid if it does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from egress.wire import signin
from egress.wire.signin import challenge
from tests.egress.conftest import World
from tests.egress.support.keyd import SIGNATURE
from tests.egress.support.upstream import Connection, Script, Upstream
from tests.egress.support.wire import TERMS, Message, decode, encode, paid_answer, payment_required, response

INFO = {
    "domain": "127.0.0.1",
    "uri": "http://127.0.0.1/a",
    "version": "1",
    "nonce": "0123456789abcdef",
    "issuedAt": "2026-11-21T12:00:00Z",
}
EXTENSION = {"info": INFO, "supportedChains": [{"chainId": "eip155:84532", "type": "eip191"}], "schema": {}}
OFFERED: dict[str, Any] = {**TERMS, "extensions": {"sign-in-with-x": EXTENSION}}
CHALLENGE = response(402, {"PAYMENT-REQUIRED": encode(OFFERED)}, b"pay or sign in")
WELCOME = response(200, {}, b"welcome back")


def club(to_signed_in: bytes, challenge_: bytes = CHALLENGE) -> Script:
    """`challenge_` to strangers, `to_signed_in` to whoever signs in, the paid answer to whoever pays."""

    async def script(connection: Connection) -> None:
        while True:
            request = await connection.request()
            if request.get("PAYMENT-SIGNATURE"):
                await connection.send(paid_answer())
            else:
                await connection.send(to_signed_in if request.get("SIGN-IN-WITH-X") else challenge_)

    return script


async def allow(world: World, upstream: Upstream) -> None:
    world.keyd.signin_domains.append(
        f"{'' if upstream.scheme == 'https' else 'http://'}127.0.0.1:{upstream.port}"
    )
    await world.allow(upstream)


def kinds(requests: list[Message]) -> list[str]:
    return [
        "paid" if r.get("PAYMENT-SIGNATURE") else "signed in" if r.get("SIGN-IN-WITH-X") else "plain"
        for r in requests
    ]


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("size", [0, 100, 100_000])
async def test_a_request_is_repeated_signed_in_and_nothing_is_paid(
    world: World, tls: bool, size: int
) -> None:
    async with world.serving(club(WELCOME), tls=tls) as upstream, world.app(upstream) as app:
        await allow(world, upstream)
        await app.send(method="POST", body=b"x" * size)
        answer = await app.answer()
    assert (answer.status, answer.body, answer.get("X-402-Egress")) == (200, b"welcome back", "signed-in")
    assert kinds(upstream.requests) == ["plain", "signed in"]
    assert upstream.requests[1].body == b"x" * size
    assert upstream.connections == 1
    assert world.keyd.requests == []
    await world.check_no_more_reports()
    (asked,) = world.keyd.signins
    assert (asked.origin.port, asked.origin.scheme, asked.path) == (upstream.port, upstream.scheme, "/a")
    assert (asked.info, asked.supported_chains) == (INFO, EXTENSION["supportedChains"])
    assert asked.caller is not None
    proof = decode(upstream.requests[1].get("SIGN-IN-WITH-X"))
    assert proof == {
        **INFO,
        "address": "0x" + "11" * 20,
        "chainId": "eip155:84532",
        "type": "eip191",
        "expirationTime": "2026-11-21T12:05:00Z",
        "signature": SIGNATURE,
    }


async def test_a_sign_in_that_is_refused_is_paid_and_tried_only_once(world: World) -> None:
    async with world.serving(club(CHALLENGE)) as upstream, world.app(upstream) as app:
        await allow(world, upstream)
        answer = await app.get()
    assert (answer.status, answer.body) == (200, b"content")
    assert (answer.get("X-402-Egress") or "").startswith("paid; ")
    assert kinds(upstream.requests) == ["plain", "signed in", "paid"]
    assert upstream.requests[2].get("SIGN-IN-WITH-X") is None
    assert len(world.keyd.signins) == len(world.keyd.requests) == 1


async def test_the_terms_that_are_paid_are_those_of_the_last_402(world: World) -> None:
    dearer = {**OFFERED, "accepts": [{**TERMS["accepts"][0], "amount": "2000"}]}  # type: ignore[index]
    last = response(402, {"PAYMENT-REQUIRED": encode(dearer)}, b"still")
    async with world.serving(club(last)) as upstream, world.app(upstream) as app:
        await allow(world, upstream)
        assert (await app.get()).status == 200
    assert world.keyd.requests[0].offers[0]["amount"] == "2000"
    assert decode(upstream.requests[2].get("PAYMENT-SIGNATURE"))["accepted"]["amount"] == "2000"


async def test_by_default_nobody_signs_in(world: World) -> None:
    async with world.serving(club(WELCOME)) as upstream, world.app(upstream) as app:
        assert (await app.get()).body == b"content"
    assert kinds(upstream.requests) == ["plain", "paid"]
    assert world.keyd.signins == []


async def test_where_keyd_does_not_sign_in_it_is_paid(world: World) -> None:
    world.keyd.signin_refusal = "signin_never_paid"
    async with world.serving(club(WELCOME)) as upstream, world.app(upstream) as app:
        await allow(world, upstream)
        assert (await app.get()).body == b"content"
    assert kinds(upstream.requests) == ["plain", "paid"]


async def test_a_route_for_past_payers_alone_can_be_signed_in_to_and_not_paid(world: World) -> None:
    members_only = response(402, {"PAYMENT-REQUIRED": encode({**OFFERED, "accepts": []})}, b"members only")
    async with world.serving(club(WELCOME, members_only)) as upstream, world.app(upstream) as app:
        assert (await app.get()).get("X-402-Egress") == "rejected; reason=terms_missing"
        await allow(world, upstream)
        assert (await app.get()).body == b"welcome back"
    assert world.keyd.requests == []


@pytest.mark.parametrize("status", [204, 302, 403, 500])
async def test_any_other_answer_to_the_sign_in_is_the_applications(world: World, status: int) -> None:
    other = response(status, {"Location": "/b"})
    async with world.serving(club(other)) as upstream, world.app(upstream) as app:
        await allow(world, upstream)
        await app.send()
        answer = await app.answer(head_only=True)
        assert (answer.status, answer.get("X-402-Egress")) == (status, "signed-in")
    assert world.keyd.requests == []


async def test_an_application_that_signs_in_by_itself_is_left_to_it(world: World) -> None:
    async with world.serving(club(CHALLENGE)) as upstream, world.app(upstream) as app:
        await allow(world, upstream)
        await app.get(SIGN_IN_WITH_X="own")
    assert world.keyd.signins == []


async def test_an_application_that_declines_to_pay_is_not_signed_in(world: World) -> None:
    async with world.serving(club(WELCOME)) as upstream, world.app(upstream) as app:
        await allow(world, upstream)
        answer = await app.get(X_402_Pay="none")
    assert (answer.status, answer.get("X-402-Egress")) == (402, "rejected; reason=app_declined")
    assert world.keyd.signins == []


async def test_a_connection_that_was_lost_meanwhile_is_signed_in_to_once_more(world: World) -> None:
    async def script(connection: Connection) -> None:
        if connection.number == 1:
            await connection.request()
            await connection.send(CHALLENGE)
            await connection.request()
            return
        assert (await connection.request()).get("SIGN-IN-WITH-X")
        await connection.send(WELCOME)

    async with world.serving(script) as upstream, world.app(upstream) as app:
        await allow(world, upstream)
        assert (await app.get()).body == b"welcome back"
    first, second = (request.get("SIGN-IN-WITH-X") for request in upstream.requests[1:])
    assert first == second is not None
    assert len(world.keyd.signins) == 1


async def test_the_proof_stays_out_of_logs_and_of_answers(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    async with world.serving(club(WELCOME)) as upstream, world.app(upstream) as app:
        await allow(world, upstream)
        answer = await app.get()
    sent = upstream.requests[1].get("SIGN-IN-WITH-X")
    assert sent is not None
    printed = capsys.readouterr()
    for text in (printed.out, printed.err, str(answer.headers)):
        assert sent not in text
        assert SIGNATURE not in text


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {},
        {"info": INFO},
        {"info": INFO, "supportedChains": []},
        {"info": "text", "supportedChains": [{}]},
        {"info": {**INFO, "statement": "x" * 20_000}, "supportedChains": [{}]},
    ],
    ids=["null", "list", "empty", "no chains", "none of them", "text", "a huge statement"],
)
async def test_a_challenge_without_form_is_no_challenge(world: World, entry: Any) -> None:
    offered = {**OFFERED, "extensions": {"sign-in-with-x": entry}}
    assert challenge(offered["extensions"]) is None
    refusal = response(402, {"PAYMENT-REQUIRED": encode(offered)}, b"")
    async with world.serving(club(WELCOME, refusal)) as upstream, world.app(upstream) as app:
        await allow(world, upstream)
        assert (await app.get()).body == b"content"
    assert world.keyd.signins == []


def test_of_many_chains_only_the_first_are_put_forward() -> None:
    many = {**EXTENSION, "supportedChains": [{"chainId": f"eip155:{i}"} for i in range(100)]}
    found = challenge({"sign-in-with-x": many})
    assert found is not None
    assert len(found.supported_chains) == 16
    assert len(json.dumps(found.info)) < signin.MAX_INFO


async def test_a_402_without_a_challenge_asks_nobody(world: World) -> None:
    async with world.serving(club(WELCOME, payment_required())) as upstream, world.app(upstream) as app:
        await allow(world, upstream)
        assert (await app.get()).body == b"content"
    assert world.keyd.signins == []
