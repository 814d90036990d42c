"""Messages about payments: asked for, signed, ended, proven, listed."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from keyd.api.base import MAX_OFFERS, CallerName, Hex32, Label, Message, Text
from keyd.api.ledger import LedgerEntry

Method = Annotated[str, StringConstraints(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}$")]
TxHash = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-f]{64}$")]


class Origin(Message):
    """The origin egress really connected to, over TLS with a verified certificate when `https`."""

    scheme: Literal["http", "https"]
    host: Annotated[str, StringConstraints(pattern=r"^[a-z0-9._:-]{1,253}$")]
    """Lower-case DNS name (A-labels) or IP literal without brackets."""
    port: Annotated[int, Field(ge=1, le=65535)]

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = {"http": 80, "https": 443}[self.scheme]
        return f"{self.scheme}://{host}" + ("" if self.port == default else f":{self.port}")


class Caller(Message):
    """Who is behind a request: a user of this machine (`uid`), or somebody who proved a `name` to the proxy.

    Exactly one of the two. As text "uid:1000" or "proxy:ci": so the ledger, budgets and `callers` name it.
    """

    uid: Annotated[int, Field(ge=0, le=0xFFFFFFFF)] | None = None
    """Owner of the connection, as the kernel told egress."""
    name: CallerName | None = None
    """Name that goes with the token in Proxy-Authorization."""
    pid: Annotated[int, Field(ge=1)] | None = None
    """With `uid`: a process that held the connection, where egress could see it. For the record only."""
    unit: Text | None = None
    """With `uid`: systemd unit of that process."""

    @model_validator(mode="after")
    def _is_one_of_two(self) -> Self:
        if (self.uid is None) == (self.name is None):
            raise ValueError("give either uid or name")
        if self.uid is None and (self.pid is not None or self.unit is not None):
            raise ValueError("pid and unit go with uid")
        return self

    def __str__(self) -> str:
        return f"uid:{self.uid}" if self.name is None else f"proxy:{self.name}"


type Dialect = Literal["x402", "flat"]
"""How `offers` are written. `flat`: osModa's `{amount, asset, chain, payTo, expiry}`, with version 2."""


class SignRequest(Message):
    """`POST /x402/sign`, full form: a 402 was received, may it be paid?

    `fingerprint` identifies the request that would be repeated: SHA-256 over method, URL and body
    (`egress.wire.fingerprint`). `intent` is the application's own key (`X-402-Intent`), which separates
    requests that are otherwise the same. `offers` are the entries of `accepts`, as received.
    """

    origin: Origin
    method: Method
    path: Annotated[str, StringConstraints(max_length=2048)]
    """Path of the request without its query, for the record; egress clips it."""
    fingerprint: Hex32
    intent: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    caller: Caller | None = None
    """None: egress cannot say. keyd pays for nobody whom it does not know."""
    session: Hex32 | None = None
    """SHA-256 of the session token that came with the request; the token itself stays in egress."""
    x402_version: Literal[1, 2]
    dialect: Dialect = "x402"
    offers: Annotated[list[Any], Field(min_length=1, max_length=MAX_OFFERS)]
    signed_offers: Annotated[list[Any], Field(max_length=MAX_OFFERS)] = Field(default_factory=list)
    """`info.offers` of the extension `offer-receipt`, as received: kept as evidence if it holds, never a condition."""
    resource_url: Text | None = None
    """`resource.url` as the seller stated it: recorded and compared, never what policy judges."""
    started_at: Annotated[int, Field(ge=0)] | None = None
    """When the application's request arrived, Unix time in microseconds. One that began before an identical one
    was answered is its parallel repeat, not a new purchase."""
    max_spend: Annotated[str, StringConstraints(max_length=256)] | None = None
    """The application's X-402-Max, as it was written (`keyd.core.applimits`)."""
    prefer: Annotated[str, StringConstraints(max_length=1024)] | None = None
    """The application's X-402-Pay, as it was written."""
    wallet_id: Label | None = None
    prepaid: bool = False
    """The server has not asked yet: `offers` are those of its last 402 for the same request (ADR 0013)."""


class FlatSignRequest(Message):
    """`POST /x402/sign`, osModa's flat form."""

    domain: Annotated[str, StringConstraints(pattern=r"^[a-z0-9._-]{1,253}$")]
    amount_usd: Annotated[str, StringConstraints(max_length=40)]
    asset: Annotated[str, StringConstraints(max_length=64)]
    chain: Annotated[str, StringConstraints(max_length=64)]
    pay_to: Annotated[str, StringConstraints(max_length=64)]
    expiry: int
    wallet_id: Label | None = None


class Authorization(Message):
    """EIP-3009 `transferWithAuthorization` parameters, spelled as the x402 `exact` EVM payload spells them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    from_: Annotated[str, Field(alias="from")]
    to: str
    value: str
    valid_after: Annotated[str, Field(alias="validAfter")]
    valid_before: Annotated[str, Field(alias="validBefore")]
    nonce: str


class ExactPayload(Message):
    """`payload` of the `exact` scheme on EVM (x402 specs/schemes/exact/scheme_exact_evm.md)."""

    signature: str
    authorization: Authorization

    def __repr__(self) -> str:  # the signature is a bearer instrument until it is settled
        return f"ExactPayload(signature=…, authorization={self.authorization!r})"

    __str__ = __repr__


class SignReply(Message):
    """A signed payment. Its ledger entry was durable before the signature existed."""

    payment_id: str
    accepted: int
    """Index into `offers` of the one that is paid."""
    payload: ExactPayload
    valid_before: int
    wallet_address: str
    signature: str
    """The same as `payload.signature`; osModa's flat form reads it here."""
    signed_at: int
    repeat: bool
    """True: this authorization was signed before for the same request, and cannot cost twice."""
    amount: str
    """In whole tokens, for people: "0.001"."""
    amount_usd: str
    asset: str
    """Symbol from keyd's own table."""
    network: str
    requirements: dict[str, Any] | None = None
    """For a flat offer: the PaymentRequirements that the payment has to name as `accepted`."""

    def __repr__(self) -> str:
        return f"SignReply(payment_id={self.payment_id!r}, accepted={self.accepted}, signature=…)"

    __str__ = __repr__


class OutcomeReport(Message):
    """`POST /x402/outcome`: the facts egress saw after it sent a payment. keyd, not egress, names the state."""

    payment_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    http_status: Annotated[int, Field(ge=100, le=999)] | None = None
    """Status of the answer to the paid request; None if there was none."""
    settlement: dict[str, Any] | None = None
    """The decoded SettlementResponse (PAYMENT-RESPONSE or X-PAYMENT-RESPONSE), as received."""
    failure: Literal["connection", "timeout", "hung_up", "not_sent"] | None = None
    """Why there was no answer. `hung_up`: the application went before the server had had the time that one may take.
    `not_sent`: the payment never left egress."""
    answered_at: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    """When the application began to get the answer, Unix time in microseconds, by the clock of `started_at`."""


class OutcomeReply(Message):
    payment_id: str
    state: Literal["signed", "settled", "refused", "unknown", "released"]


class OpenPayment(Message):
    """A payment whose end is not proven: what a reconciler has to ask the chain about."""

    payment_id: str
    state: str
    network: str
    """CAIP-2."""
    asset: str
    """The token's contract."""
    payer: str
    pay_to: str
    amount: str
    """Atomic units."""
    nonce: str
    signed_at: int
    valid_before: int


class OpenPayments(Message):
    """`GET /x402/open?after=SEQ`: at most 500, oldest first; `next` continues, None when there are no more."""

    payments: list[OpenPayment]
    next: int | None


class ChainEvidence(Message):
    """`POST /x402/evidence`: what the chain says of one authorization at one block (EIP-3009 `authorizationState`)."""

    payment_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    used: bool
    """authorizationState(payer, nonce) at this block."""
    block_number: Annotated[int, Field(ge=0)]
    block_hash: TxHash
    block_timestamp: Annotated[int, Field(ge=0)]
    transaction: TxHash | None = None
    """Of the AuthorizationUsed event, if it was found."""
    sources: Annotated[int, Field(ge=1, le=100)]
    """How many RPC servers said the same."""


class DomainSpend(Message):
    domain: str
    usd: str
    calls: int


class CallerSpend(Message):
    caller: str
    usd: str
    calls: int


class SpendBy(StrEnum):
    """What spending is added up by."""

    DOMAIN = "domain"
    CALLER = "caller"
    DAY = "day"
    ASSET = "asset"
    SESSION = "session"
    WALLET = "wallet"


class SpendRow(Message):
    """One line of `GET /x402/spend`: `key` is a domain, caller, day, SYMBOL@network, LABEL/ID or wallet, as `by` says.

    By session, `-` is what was paid outside of every session: the rows add up to the total, whatever they go by."""

    key: str
    usd: str
    calls: int


class Spend(Message):
    """`GET /x402/spend?by=domain|caller|day|asset|session|wallet&since=YYYY-MM-DD`: what counts as spent, the dearest first."""

    by: SpendBy
    since: str
    rows: list[SpendRow]
    total: str


class PaymentView(Message):
    """One payment as the record has it."""

    payment_id: str
    state: Literal["signed", "settled", "refused", "unknown", "released"]
    delivered: bool
    """The application got its answer (2xx or 3xx)."""
    proven: bool
    """The chain confirmed the state."""
    domain: str
    caller: str
    wallet: str
    amount: str
    """Whole tokens."""
    asset: str
    network: str
    amount_usd: str
    pay_to: str
    day: str
    signed_at: int
    valid_before: int


class PaymentList(Message):
    """`GET /x402/payments?state=&domain=&limit=`: the newest first."""

    payments: list[PaymentView]


class RefusedPayment(Message):
    """One 402 that was not paid."""

    at: str
    """RFC 3339, UTC."""
    domain: str
    caller: str
    code: str
    detail: str
    """The figures; text that came from a seller in it is escaped."""
    approval: str | None
    """Id under which an administrator may approve it, if it was held."""


class RefusalList(Message):
    """`GET /x402/refusals?limit=`: the newest first, as far as they are among the newest entries of the ledger."""

    refusals: list[RefusedPayment]


class PaymentStory(Message):
    """`GET /x402/payments/{id}`: every entry about one payment, from the offer to the proof."""

    payment: PaymentView
    entries: list[LedgerEntry]
