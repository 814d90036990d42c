"""What the tools answer, in structure. Fields of type UntrustedText hold words of strangers."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from bridge.untrusted import UntrustedText


class Spent(BaseModel):
    name: str
    usd: str
    calls: int


class Waiting(BaseModel):
    """Something that an administrator has to decide."""

    id: str
    kind: Literal["payment", "policy"]
    code: str | None
    summary: UntrustedText
    expires_at: str
    approve_with: str
    """The command with which an administrator approves it. No tool does."""


class PolicyAnswer(BaseModel):
    """Amounts are USD, decimal strings. Days are UTC."""

    state: Literal["on", "off", "frozen"]
    daily_budget: str
    spent_today: str
    left_today: str
    max_payment: str
    approve_above: str | None
    day: str
    allowed_domains: list[str]
    denied_domains: list[str]
    only_domains: list[str] | None
    networks: list[str]
    tokens: list[str]
    by_domain: list[Spent]
    waiting: list[Waiting]


class ConfigureAnswer(BaseModel):
    """`in_force` false: nothing changed yet, because the change would permit more than before."""

    in_force: bool
    would_permit: list[str]
    proposal: Waiting | None
    daily_budget: str
    max_payment: str
    allowed_domains: list[str]
    denied_domains: list[str]
    only_domains: list[str] | None


class PaymentAnswer(BaseModel):
    id: str
    at: str
    state: Literal["signed", "settled", "refused", "unknown", "released"]
    meaning: str
    delivered: bool
    domain: str
    caller: str
    amount: str
    usd: str


class RefusalAnswer(BaseModel):
    at: str
    domain: str
    caller: str
    code: str
    meaning: str
    what_to_do: str
    detail: UntrustedText
    approval: str | None
    """Id for x402_request_approval, if the payment was held."""


class PaymentsAnswer(BaseModel):
    payments: list[PaymentAnswer]
    refused: list[RefusalAnswer]


class ApprovalAnswer(BaseModel):
    """What waits for an administrator now. Nothing was approved."""

    waiting: Waiting | None
    already_in_force: bool = False


class Price(BaseModel):
    amount: str
    token: str
    network: str
    usd: str
    pay_to: str


class QuoteAnswer(BaseModel):
    """`verdict`: what would be decided if the request were made now. `none`: there is nothing to pay."""

    url: str
    http_status: int
    verdict: Literal["pay", "hold", "refuse", "unreadable", "none"]
    code: str | None = None
    what_to_do: str | None = None
    detail: UntrustedText = ""
    price: Price | None = None
    description: UntrustedText = ""
    redirects_to: UntrustedText = ""


class FoundAnswer(BaseModel):
    resource: UntrustedText
    name: UntrustedText
    description: UntrustedText
    verdict: Literal["pay", "hold", "refuse", "unreadable"]
    code: str | None
    price: Price | None


class DiscoverAnswer(BaseModel):
    found: list[FoundAnswer]
