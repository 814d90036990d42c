"""What happens after the 402: hanging, refusing again, forging receipts, redirecting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from keyd import api
from tests.abuse.support.seller import NETWORK, OTHER_PAY_TO, PRICE, Seller, offer, payment_of, required
from tests.abuse.support.stage import PATIENCE_S, WALLET, Stage, domain
from tests.egress.support.upstream import Connection, Upstream
from tests.egress.support.wire import Message, encode, response

TERMS = {"x402Version": 2, "accepts": [offer()]}
TX = "0x" + "ab" * 32


def failing(status: int) -> Callable[[Message], bytes]:
    return lambda _: response(status, {}, b"sorry")


async def check_held_and_repeated(stage: Stage, seller: Seller, upstream: Upstream) -> None:
    """The payment of a request without an answer stays spent, and its repeat carries the same bytes."""
    [signed] = stage.signed(upstream)
    state, _ = await stage.outcome(signed["payment_id"])
    assert state == "unknown"
    assert await stage.spent_at(upstream) == PRICE
    seller.answer = seller.honest_answer
    assert (await stage.get(upstream)).status == 200
    assert seller.payments == [seller.payments[0]] * 2
    assert stage.signed(upstream) == [signed]
    assert await stage.spent_at(upstream) == PRICE
    state, _ = await stage.outcome(signed["payment_id"], after=1)
    assert state == "settled"
    await stage.check_sells(seller, upstream)


@pytest.mark.attack(16)
async def test_a_seller_that_takes_the_payment_and_hangs_is_given_the_same_one_again(
    stage: Stage, seller: Seller
) -> None:
    seller.answer = lambda _: None
    async with stage.serving(seller) as upstream:
        async with stage.app(upstream) as app:
            await app.send()
            await seller.hangs.wait()
        await check_held_and_repeated(stage, seller, upstream)


@pytest.mark.attack(17)
@pytest.mark.parametrize("status", [502, 504])
async def test_a_gateway_error_after_the_payment_leaves_it_open(
    stage: Stage, seller: Seller, status: int
) -> None:
    seller.answer = failing(status)
    async with stage.serving(seller) as upstream:
        answer = await stage.get(upstream)
        assert (answer.status, answer.body) == (status, b"sorry")
        assert (answer.get("X-402-Egress") or "").startswith("unknown; ")
        await check_held_and_repeated(stage, seller, upstream)


@pytest.mark.attack(18)
async def test_a_402_after_the_payment_ends_it(stage: Stage, seller: Seller) -> None:
    seller.answer = seller.honest_refusal
    async with stage.serving(seller) as upstream:
        answer = await stage.get(upstream)
        [signed] = stage.signed(upstream)
        why = f"rejected; reason=already_paid; payment={signed['payment_id']}"
        assert (answer.status, answer.get("X-402-Egress")) == (402, why)
        state, _ = await stage.outcome(signed["payment_id"])
        assert state == "refused"
        stage.check_refused(await stage.get(upstream), upstream, "cool_down", payments=1)
        assert len(seller.payments) == 1
        assert await stage.spent_at(upstream) == PRICE
        seller.answer = seller.honest_answer
        await stage.check_sells(seller, upstream, "/b")


@pytest.mark.attack(19)
async def test_prices_that_change_with_every_402_are_paid_once(stage: Stage, seller: Seller) -> None:
    prices = iter(range(PRICE, PRICE + 100))
    seller.refuse = seller.answer = lambda _: required(offer(amount=str(next(prices))))
    async with stage.serving(seller) as upstream:
        first = await stage.get(upstream)
        assert "reason=already_paid" in (first.get("X-402-Egress") or "")
        [signed] = stage.signed(upstream)
        await stage.outcome(signed["payment_id"])
        for _ in range(5):  # a program with a retry loop of its own
            stage.check_refused(await stage.get(upstream), upstream, "cool_down", payments=1)
        assert len(seller.payments) == 1
        seller.forget()
        await stage.check_sells(seller, upstream, "/b")


class Rally:
    """A seller that answers nobody before `size` requests of the same kind are there."""

    def __init__(self, seller: Seller, size: int) -> None:
        self.seller = seller
        self.unpaid, self.paid = asyncio.Barrier(size), asyncio.Barrier(size)

    async def __call__(self, connection: Connection) -> None:
        while True:
            request = await connection.request()
            await (self.paid if payment_of(request) else self.unpaid).wait()
            await self.seller.reply(connection, request)


async def post_ten(stage: Stage, upstream: Upstream, intents: list[str | None]) -> list[Message]:
    """All have left before any can be answered: the seller's replies come from this very loop."""
    async with asyncio.timeout(PATIENCE_S), AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(stage.app(upstream)) for _ in intents]
        for app, intent in zip(apps, intents, strict=True):
            headers = {} if intent is None else {"X_402_Intent": intent}
            await app.send(method="POST", body=b"order", **headers)
        return await asyncio.gather(*(app.answer() for app in apps))


@pytest.mark.attack(20)
async def test_ten_identical_posts_at_once_share_one_payment(stage: Stage, seller: Seller) -> None:
    async with stage.serving(Rally(seller, 10)) as upstream:
        answers = await post_ten(stage, upstream, [None] * 10)
        assert [answer.status for answer in answers] == [200] * 10
        assert seller.payments == [seller.payments[0]] * 10
        assert len(stage.signed(upstream)) == 1
        assert await stage.spent_at(upstream) == PRICE


class Straggler:
    """A seller whose 402 for the last of `size` requests comes after the others had their answers."""

    def __init__(self, seller: Seller, size: int) -> None:
        self.seller = seller
        self.unpaid = self.paid = size
        """How many are still to come."""
        self.others_paid, self.others_answered = asyncio.Event(), asyncio.Event()

    async def __call__(self, connection: Connection) -> None:
        while True:
            request = await connection.request()
            if payment_of(request) is None:
                self.unpaid -= 1
                if self.unpaid == 0:
                    await self.others_answered.wait()
            else:
                self.paid -= 1
                if self.paid == 1:
                    self.others_paid.set()
            await self.seller.reply(connection, request)


@pytest.mark.attack(20)
async def test_a_402_that_comes_after_its_twins_were_answered_is_still_of_the_same_burst(
    stage: Stage, seller: Seller
) -> None:
    straggler = Straggler(seller, 10)
    async with stage.serving(straggler) as upstream, asyncio.TaskGroup() as tasks:
        posts = tasks.create_task(post_ten(stage, upstream, [None] * 10))
        await straggler.others_paid.wait()
        [signed] = stage.signed(upstream)
        assert (await stage.outcome(signed["payment_id"]))[0] == "settled"
        straggler.others_answered.set()
        assert [answer.status for answer in await posts] == [200] * 10
        assert len(set(seller.payments)) == len(stage.signed(upstream)) == 1
        assert await stage.spent_at(upstream) == PRICE


@pytest.mark.attack(20)
async def test_ten_posts_that_the_program_tells_apart_are_ten_purchases(stage: Stage, seller: Seller) -> None:
    async with stage.serving(Rally(seller, 10)) as upstream:
        answers = await post_ten(stage, upstream, [f"order-{number}" for number in range(10)])
        assert [answer.status for answer in answers] == [200] * 10
        assert len(set(seller.payments)) == len(stage.signed(upstream)) == 10
        assert all(request.get("X-402-Intent") is None for request in seller.requests)


@pytest.mark.attack(21)
async def test_a_host_that_never_delivers_proof_is_quarantined(stage: Stage, seller: Seller) -> None:
    answers = [response(200), response(200, {}, b"<html>login</html>"), response(204, length=False)]
    seller.answer = lambda _: answers[len(seller.payments) % 3]
    async with stage.serving(seller) as upstream:
        for number in range(10):
            assert (await stage.get(upstream)).status in (200, 204)  # passed on as it is
            signed = stage.signed(upstream)
            assert len(signed) == number + 1
            state, data = await stage.outcome(signed[-1]["payment_id"])
            assert (state, data["delivered"]) == ("unknown", True)
        stage.check_refused(await stage.get(upstream), upstream, "host_quarantined", payments=10)
        assert await stage.spent_at(upstream) == 10 * PRICE
        async with stage.serving(Seller()) as other:
            assert (await stage.get(other)).status == 200  # another host is none the worse
        seller.answer = seller.honest_answer
        await stage.keyd.policy_reset(api.PolicyReset(domain=domain(upstream)))
        await stage.check_sells(seller, upstream)


@pytest.mark.attack(22)
@pytest.mark.parametrize(
    "lie",
    [
        {"payer": OTHER_PAY_TO},
        {"network": "eip155:8453"},
        {"amount": "1"},
        {"transaction": "0x" + "ab" * 31},
        {"transaction": None},
        {"transaction": "0x\r\nX-Evil: 1"},
        {"success": "true"},
        {"success": False, "errorReason": "insufficient_funds"},
        {"success": 1},
    ],
)
async def test_a_receipt_that_contradicts_what_was_signed_proves_nothing(
    stage: Stage, seller: Seller, lie: dict[str, Any]
) -> None:
    receipt = {"success": True, "transaction": TX, "network": NETWORK, "payer": WALLET, **lie}
    seller.answer = lambda _: response(200, {"PAYMENT-RESPONSE": encode(receipt)}, b"content")
    async with stage.serving(seller) as upstream:
        answer = await stage.get(upstream)
        assert answer.body == b"content"
        assert answer.get("X-Evil") is None
        [signed] = stage.signed(upstream)
        state, data = await stage.outcome(signed["payment_id"])
        assert (state, data["transaction"]) == ("unknown", None)
        assert data["notes"]
        assert await stage.spent_at(upstream) == PRICE
        seller.answer = seller.honest_answer
        await stage.check_sells(seller, upstream)
        assert await stage.spent_at(upstream) == 2 * PRICE


@pytest.mark.attack(23)
async def test_a_settlement_called_failed_stays_spent_until_the_chain_tells(
    stage: Stage, seller: Seller
) -> None:
    """Proof from the chain is what the reconciler brings; its own tests ask real servers for it."""
    failed = {
        "success": False,
        "errorReason": "unexpected_settle_error",
        "transaction": "",
        "network": NETWORK,
    }
    seller.answer = lambda _: response(
        402, {"PAYMENT-REQUIRED": encode(TERMS), "PAYMENT-RESPONSE": encode(failed)}
    )
    async with stage.serving(seller) as upstream:
        await stage.get(upstream)
        [signed] = stage.signed(upstream)
        payment_id = signed["payment_id"]
        assert (await stage.outcome(payment_id))[0] == "refused"
        assert await stage.spent_at(upstream) == PRICE

        unused = evidence(payment_id, used=False, at=signed["valid_before"] + 3600)
        assert (await stage.keyd.evidence(unused)).state == "refused"  # our clock: it can still be settled
        assert await stage.spent_at(upstream) == PRICE
        used = evidence(payment_id, used=True, at=signed["signed_at"] + 5)
        assert (await stage.keyd.evidence(used)).state == "settled"
        assert await stage.spent_at(upstream) == PRICE
        seller.answer = seller.honest_answer
        await stage.check_sells(seller, upstream, "/b")


def evidence(payment_id: str, *, used: bool, at: int) -> api.ChainEvidence:
    return api.ChainEvidence(
        payment_id=payment_id,
        used=used,
        block_number=7,
        block_hash="0x" + "cd" * 32,
        block_timestamp=at,
        transaction=TX if used else None,
        sources=1,
    )


def browser(stage: Stage) -> httpx.AsyncClient:
    """An unmodified program that follows redirects."""
    return httpx.AsyncClient(
        proxy=stage.payer.egress.url,
        verify=stage.pki.client(stage.payer.egress.ca_certificate),
        follow_redirects=True,
        timeout=PATIENCE_S,
    )


@pytest.mark.attack(24)
async def test_a_redirect_of_the_paid_request_takes_no_payment_along(stage: Stage, seller: Seller) -> None:
    thief = Seller()
    async with (
        stage.serving(seller) as upstream,
        stage.serving(thief) as elsewhere,
        browser(stage) as program,
    ):
        seller.answer = lambda _: response(302, {"Location": elsewhere.url("/steal")})
        async with stage.policy(deny=[domain(elsewhere)]):
            answer = await program.get(upstream.url())
            assert answer.headers["X-402-Egress"] == "rejected; reason=domain_denied"
            assert stage.rejected(elsewhere) == ["domain_denied"]
        assert len(seller.payments) == 1
        assert [payment_of(request) for request in thief.requests] == [None]
        assert stage.signed(elsewhere) == []
        seller.answer = seller.honest_answer
        await stage.check_sells(seller, upstream, "/b")


@pytest.mark.attack(25)
async def test_a_redirect_to_a_look_alike_is_judged_as_the_host_it_is(stage: Stage, seller: Seller) -> None:
    """The look-alike names the known seller in its terms; what counts is where the connection went."""
    look_alike = Seller()
    async with (
        stage.serving(seller) as upstream,
        stage.serving(look_alike, tls=False) as elsewhere,
        browser(stage) as program,
    ):
        await stage.check_sells(seller, upstream)
        target = f"http://localhost:{elsewhere.port}/a"
        look_alike.members = {"resource": {"url": upstream.url()}}
        seller.refuse = lambda _: response(302, {"Location": target})
        answer = await program.get(upstream.url())
        assert (str(answer.url), answer.status_code) == (target, 402)
        assert answer.headers["X-402-Egress"] == "rejected; reason=domain_not_allowed"
        refused = stage.payer.entries("x402.payment.rejected")[-1]["data"]
        assert (refused["code"], refused["domain"]) == (
            "domain_not_allowed",
            f"http://localhost:{elsewhere.port}",
        )
        assert look_alike.payments == []
        seller.refuse = seller.honest_refusal
        await stage.check_sells(seller, upstream)


@pytest.mark.attack(26)
async def test_terms_for_another_origin_are_judged_and_recorded_as_ours(stage: Stage, seller: Seller) -> None:
    async with stage.serving(seller) as upstream:
        seller.members = {"resource": {"url": "https://bank.example/account?token=hunter2"}}
        await stage.check_sells(seller, upstream)
        attempt = stage.entries(upstream, "x402.payment.attempt")[-1]
        # Both are on record: who was connected to, and whom the seller named.
        assert (attempt["domain"], attempt["resource_url"]) == (
            domain(upstream),
            "https://bank.example/account",
        )
        async with stage.policy(deny=[domain(upstream)], allow=["bank.example"]):
            stage.check_refused(await stage.get(upstream), upstream, "domain_denied", payments=1)
        seller.members = {"resource": {"url": upstream.url("/another/path")}}
        await stage.check_sells(seller, upstream)
