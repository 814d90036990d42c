"""A paid API that a test can turn hostile, one habit at a time. Until then it is honest and verifies what it is paid.

Signatures are verified by the demo's books, which are checked against the official facilitator in tests/real.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from demo.seller import USDC, Books, PaymentRefused
from tests.egress.support.upstream import Connection
from tests.egress.support.wire import Message, decode, encode, response

PAY_TO = "0x90F79bf6EB2c4f870365E785982E1f101E93b906"
OTHER_PAY_TO = "0x15d34AAf54267DB7D7c367839AAf71A00a2C6A65"
"""Public development addresses that every local test chain has."""
NETWORK = "eip155:84532"
PRICE = 1_000
"""Atomic units of USDC, which are micro-USD: 0.001 USD."""

__all__ = ["NETWORK", "OTHER_PAY_TO", "PAY_TO", "PRICE", "USDC", "Seller", "offer", "payment_of", "required"]


def offer(**members: Any) -> dict[str, Any]:
    """A sound offer at PRICE, with `members` on top; None removes one."""
    sound = {
        "scheme": "exact",
        "network": NETWORK,
        "asset": USDC,
        "amount": str(PRICE),
        "payTo": PAY_TO,
        "maxTimeoutSeconds": 60,
        "extra": {"name": "USDC", "version": "2"},
    }
    return {name: value for name, value in (sound | members).items() if value is not None}


def required(*offers: Any, body: bytes = b"pay first", **members: Any) -> bytes:
    """A 402 of protocol v2 with these offers; `members` are other members of PaymentRequired."""
    terms = {"x402Version": 2, "accepts": list(offers), **members}
    return response(402, {"PAYMENT-REQUIRED": encode(terms)}, body)


def payment_of(request: Message) -> str | None:
    """The payment header of a request, v2 or v1."""
    return request.get("PAYMENT-SIGNATURE") or request.get("X-PAYMENT")


class _OneOffer(Books):
    """Books for whatever offer the seller made, not only for the demo's own."""

    def __init__(self, accepted: dict[str, Any]) -> None:
        super().__init__(accepted["payTo"])
        self._accepted = accepted

    def requirements(self, price: int) -> dict[str, Any]:
        return self._accepted


class Seller:
    """`offers` are asked for; `refuse` and `answer` are what it says without and with a payment."""

    def __init__(self, *offers: Any) -> None:
        self.offers: list[Any] = list(offers) or [offer()]
        self.members: dict[str, Any] = {}
        """Of PaymentRequired, besides x402Version and accepts."""
        self.refuse: Callable[[Message], bytes] = self.honest_refusal
        self.answer: Callable[[Message], bytes | None] = self.honest_answer
        """None: it takes the payment and never answers."""
        self.requests: list[Message] = []
        self.hangs = asyncio.Event()

    @property
    def payments(self) -> list[str]:
        """Every payment header that was received, in order."""
        return [payment for request in self.requests if (payment := payment_of(request))]

    async def __call__(self, connection: Connection) -> None:
        while True:
            await self.reply(connection, await connection.request())

    async def reply(self, connection: Connection, request: Message) -> None:
        self.requests.append(request)
        answer = self.answer(request) if payment_of(request) else self.refuse(request)
        if answer is None:
            self.hangs.set()
            await connection.reader.read()  # until the other side gives up
        else:
            await connection.send(answer)

    def honest_refusal(self, _: Message) -> bytes:
        return required(*self.offers, **self.members)

    def honest_answer(self, request: Message) -> bytes:
        """Verifies the payment, says that it settled, delivers. Each authorization buys any number of answers:
        what a real one would take twice is seen in the payments themselves."""
        try:
            settlement = self.settle(request)
        except PaymentRefused as refusal:
            return required(*self.offers, error=str(refusal), **self.members)
        return response(
            200, {"PAYMENT-RESPONSE": encode(settlement)}, b"content of " + request.target.encode()
        )

    def settle(self, request: Message) -> dict[str, Any]:
        """The SettlementResponse for a payment that is good for one of the offers. Raises PaymentRefused."""
        header = request.get("PAYMENT-SIGNATURE")
        accepted = decode(header)["accepted"]
        if header is None or accepted not in self.offers:
            raise PaymentRefused("No matching payment requirements")
        return _OneOffer(accepted).settle(header, int(accepted["amount"]), request.target)

    def forget(self) -> None:
        """Drop what was received, and be honest again."""
        self.requests.clear()
        self.refuse, self.answer, self.members = self.honest_refusal, self.honest_answer, {}
