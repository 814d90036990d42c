"""Sellers that take the money and lie. Whatever they say, one request costs once, and spent money stays counted."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiohttp import web

from demo.seller import NETWORK, USDC
from tests.real.support.counterparts import Chain
from tests.real.support.payer import Payer

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

PRICE = Decimal("0.001")
TRANSACTION = "0x" + "ab" * 32


@dataclass
class Liar:
    """Asks for money, and answers paid requests as a test wants it to. `answer` is awaited once per request."""

    url: str = ""
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
    ask: Callable[[web.Request], Awaitable[None]] | None = None
    """Awaited before a 402 goes out."""
    price: int = 1_000
    payments: list[dict[str, Any]] = field(default_factory=list)
    """PaymentPayloads in order of arrival."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        header = request.headers.get("PAYMENT-SIGNATURE")
        if header is None:
            if self.ask:
                await self.ask(request)
            return self.payment_required(request)
        self.payments.append(json.loads(base64.b64decode(header)))
        assert self.answer is not None
        return await self.answer(request)

    def payment_required(self, request: web.Request) -> web.Response:
        terms = {
            "scheme": "exact",
            "network": NETWORK,
            "asset": USDC,
            "amount": str(self.price),
            "payTo": "0x90F79bf6EB2c4f870365E785982E1f101E93b906",
            "maxTimeoutSeconds": 60,
            "extra": {"name": "USDC", "version": "2"},
        }
        required = {"x402Version": 2, "resource": {"url": str(request.url)}, "accepts": [terms]}
        return web.Response(status=402, headers={"PAYMENT-REQUIRED": _encode(required)})

    @property
    def nonces(self) -> set[str]:
        return {payment["payload"]["authorization"]["nonce"] for payment in self.payments}

    @property
    def headers(self) -> set[str]:
        """What was received, payment by payment; the same bytes count once."""
        return {json.dumps(payment) for payment in self.payments}


def _encode(value: dict[str, Any]) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def _receipt(payer: str, /, **lies: object) -> dict[str, str]:
    settlement = {"success": True, "transaction": TRANSACTION, "network": NETWORK, "payer": payer}
    return {"PAYMENT-RESPONSE": _encode(settlement | lies)}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Liar]:
    liar = Liar()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", liar.handle)
    # A handler must not outlive the client that went away: this seller hangs on purpose.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    liar.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield liar
    await runner.cleanup()


@pytest.fixture(scope="module")
def paying(served: Liar, chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Payer]:
    folder = tmp_path_factory.mktemp("payer")
    # A host that delivers no proof again and again is quarantined; here one host plays many.
    with Payer(folder, [served.url], chain.keys["payer"], quarantine_after=0) as running:
        yield running


@pytest.fixture
def liar(served: Liar) -> Liar:
    served.payments.clear()
    served.answer, served.ask, served.price = None, None, 1_000
    return served


@pytest_asyncio.fixture(loop_scope="module")
async def program(paying: Payer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(proxy=paying.egress.url, timeout=20) as client:
        yield client


@dataclass(frozen=True)
class Spending:
    usd: Decimal
    signed: int
    settled: int

    def __sub__(self, other: Spending) -> Spending:
        return Spending(self.usd - other.usd, self.signed - other.signed, self.settled - other.settled)


def _spending(payer: Payer) -> Spending:
    return Spending(Decimal(payer.policy()["spent_today"]), len(payer.signed()), payer.settled())


def _reason(answer: httpx.Response) -> str:
    verdict, *fields = answer.headers["X-402-Egress"].split("; ")
    assert verdict == "rejected"
    return dict(entry.split("=", 1) for entry in fields)["reason"]


ONCE_UNPROVEN = Spending(usd=PRICE, signed=1, settled=0)
"""One payment, counted as spent, not proven by anything."""


async def test_a_seller_that_settles_and_hangs_gets_the_same_authorization_again(
    liar: Liar, paying: Payer, program: httpx.AsyncClient
) -> None:
    before, never = _spending(paying), asyncio.Event()

    async def hang(_: web.Request) -> web.StreamResponse:
        await never.wait()
        raise AssertionError("nobody sets this event")

    liar.answer = hang
    with pytest.raises(httpx.TimeoutException):
        await program.get(f"{liar.url}/hangs", timeout=1)
    with pytest.raises(httpx.TimeoutException):
        await program.get(f"{liar.url}/hangs", timeout=1)

    assert len(liar.payments) == 2
    assert len(liar.headers) == 1
    assert _spending(paying) - before == ONCE_UNPROVEN


@pytest.mark.parametrize("status", [502, 504])
async def test_a_seller_that_settles_and_fails_gets_the_same_authorization_again(
    status: int, liar: Liar, paying: Payer, program: httpx.AsyncClient
) -> None:
    before = _spending(paying)

    async def fail(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    liar.answer = fail
    answers = [await program.get(f"{liar.url}/fails/{status}") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [status] * 3
    assert len(liar.payments) == 3
    assert len(liar.headers) == 1
    assert _spending(paying) - before == ONCE_UNPROVEN


async def test_a_seller_that_asks_again_is_never_paid_again(
    liar: Liar, paying: Payer, program: httpx.AsyncClient
) -> None:
    before = _spending(paying)

    async def ask_again(request: web.Request) -> web.StreamResponse:
        liar.price += 100
        return liar.payment_required(request)

    liar.answer = ask_again
    answers = [await program.get(f"{liar.url}/again") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [402] * 3
    assert [_reason(answer) for answer in answers] == ["already_paid", "cool_down", "cool_down"]
    assert len(liar.payments) == 1
    assert _spending(paying) - before == ONCE_UNPROVEN


async def test_a_seller_that_fails_and_then_changes_its_price_is_not_paid_again(
    liar: Liar, paying: Payer, program: httpx.AsyncClient
) -> None:
    before = _spending(paying)

    async def fail_and_raise(_: web.Request) -> web.StreamResponse:
        liar.price += 100
        return web.Response(status=502)

    liar.answer = fail_and_raise
    first = await program.get(f"{liar.url}/dearer")
    second = await program.get(f"{liar.url}/dearer")

    assert (first.status_code, second.status_code) == (502, 402)
    assert _reason(second) == "intent_open_terms_changed"
    assert len(liar.payments) == 1
    assert _spending(paying) - before == ONCE_UNPROVEN


def _meet(parties: int) -> Callable[[web.Request], Awaitable[None]]:
    """Holds every request back until `parties` of them are there."""
    barrier = asyncio.Barrier(parties)

    async def wait(_: web.Request) -> None:
        await barrier.wait()

    return wait


async def _ten_at_once(liar: Liar, program: httpx.AsyncClient, intents: list[str | None]) -> list[int]:
    """Ten identical POSTs, none answered before all have come, neither unpaid nor paid."""
    liar.ask, meet_paid = _meet(10), _meet(10)

    async def answer(request: web.Request) -> web.StreamResponse:
        await meet_paid(request)
        return web.Response(text="sold")

    liar.answer = answer
    headers = [{} if intent is None else {"X-402-Intent": intent} for intent in intents]
    posts = (program.post(f"{liar.url}/order", content=b"one fish", headers=h) for h in headers)
    return [answer.status_code for answer in await asyncio.gather(*posts)]


async def test_ten_identical_posts_at_once_share_one_authorization(
    liar: Liar, paying: Payer, program: httpx.AsyncClient
) -> None:
    before = _spending(paying)

    assert await _ten_at_once(liar, program, [None] * 10) == [200] * 10

    assert len(liar.payments) == 10
    assert len(liar.headers) == 1
    assert _spending(paying) - before == ONCE_UNPROVEN


async def test_ten_intents_of_their_own_are_ten_purchases(
    liar: Liar, paying: Payer, program: httpx.AsyncClient
) -> None:
    before = _spending(paying)

    assert await _ten_at_once(liar, program, [f"order-{n}" for n in range(10)]) == [200] * 10

    assert len(liar.nonces) == 10
    assert _spending(paying) - before == Spending(usd=10 * PRICE, signed=10, settled=0)


async def test_an_answer_without_a_receipt_is_delivered_and_stays_unproven(
    liar: Liar, paying: Payer, program: httpx.AsyncClient
) -> None:
    before = _spending(paying)

    async def deliver(_: web.Request) -> web.StreamResponse:
        return web.Response(text="here you are")

    liar.answer = deliver
    answer = await program.get(f"{liar.url}/no-receipt")

    assert (answer.status_code, answer.text) == (200, "here you are")
    assert _spending(paying) - before == ONCE_UNPROVEN


@pytest.mark.parametrize(
    "lies",
    [
        {"success": False, "errorReason": "insufficient_funds", "transaction": ""},
        {"payer": "0x00000000000000000000000000000000000000AA"},
        {"network": "eip155:8453"},
        {"transaction": "paid, trust me"},
        {"amount": "1"},
        {"amount": "-1000"},
    ],
    ids=lambda lies: "-".join(lies),
)
async def test_a_receipt_that_does_not_fit_proves_nothing_and_frees_nothing(
    lies: dict[str, object], liar: Liar, paying: Payer, program: httpx.AsyncClient
) -> None:
    before = _spending(paying)

    async def forge(_: web.Request) -> web.StreamResponse:
        payer = liar.payments[-1]["payload"]["authorization"]["from"]
        return web.Response(text="sold", headers=_receipt(payer, **lies))

    liar.answer = forge
    answer = await program.get(f"{liar.url}/forged/{'-'.join(lies)}{lies.get('amount', '')}")

    assert (answer.status_code, answer.text) == (200, "sold")
    assert _spending(paying) - before == ONCE_UNPROVEN


async def test_a_receipt_that_fits_is_what_settled_means(
    liar: Liar, paying: Payer, program: httpx.AsyncClient
) -> None:
    before = _spending(paying)

    async def sell(_: web.Request) -> web.StreamResponse:
        payer = liar.payments[-1]["payload"]["authorization"]["from"]
        return web.Response(text="sold", headers=_receipt(payer))

    liar.answer = sell
    answer = await program.get(f"{liar.url}/honest")

    assert answer.status_code == 200
    assert _spending(paying) - before == Spending(usd=PRICE, signed=1, settled=1_000)


async def test_settlement_failed_holds_the_budget(
    liar: Liar, paying: Payer, program: httpx.AsyncClient
) -> None:
    """The authorization is out: whoever has it can settle it until it expires."""
    before = _spending(paying)

    async def refuse(_: web.Request) -> web.StreamResponse:
        settlement = {"success": False, "errorReason": "unexpected_settle_error", "transaction": ""}
        return web.Response(
            status=402, headers={"PAYMENT-RESPONSE": _encode(settlement | {"network": NETWORK})}
        )

    liar.answer = refuse
    first = await program.get(f"{liar.url}/failed")
    second = await program.get(f"{liar.url}/failed")

    assert (first.status_code, second.status_code) == (402, 402)
    assert len(liar.headers) == 1
    assert _spending(paying) - before == ONCE_UNPROVEN


async def test_a_seller_that_never_proves_anything_is_not_paid_for_ever(
    liar: Liar, chain: Chain, tmp_path: Path
) -> None:
    async def fail(_: web.Request) -> web.StreamResponse:
        return web.Response(status=500)

    liar.answer = fail
    with Payer(tmp_path, [liar.url], chain.keys["payer"], quarantine_after=3) as own:
        async with httpx.AsyncClient(proxy=own.egress.url, timeout=20) as program:
            answers = [await program.get(f"{liar.url}/item/{n}") for n in range(5)]

    assert [answer.status_code for answer in answers] == [500, 500, 500, 402, 402]
    assert _reason(answers[3]) == _reason(answers[4]) == "host_quarantined"
    assert len(liar.nonces) == 3


async def test_a_redirect_after_the_payment_takes_no_payment_along(
    liar: Liar, paying: Payer, program: httpx.AsyncClient
) -> None:
    before, elsewhere = _spending(paying), asyncio.Queue[httpx.Headers]()

    async def collect(request: web.Request) -> web.Response:
        elsewhere.put_nowait(httpx.Headers(list(request.headers.items())))
        return web.Response(text="elsewhere")

    other = web.AppRunner(_catch_all(collect))
    await other.setup()
    try:
        site = web.TCPSite(other, "127.0.0.1", 0)
        await site.start()
        target = f"http://127.0.0.1:{other.addresses[0][1]}/grab"

        async def redirect(_: web.Request) -> web.StreamResponse:
            raise web.HTTPFound(target)

        liar.answer = redirect
        answer = await program.get(f"{liar.url}/redirects", follow_redirects=True)
    finally:
        await other.cleanup()

    assert answer.text == "elsewhere"
    headers = elsewhere.get_nowait()
    assert not any("payment" in name for name in headers)
    assert _spending(paying) - before == ONCE_UNPROVEN


def _catch_all(handler: Callable[[web.Request], Awaitable[web.Response]]) -> web.Application:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    return app
