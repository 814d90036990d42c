"""The socket contract of keyd, version 1: what egress, bridge and keyctl may say to it, and what it answers.

HTTP/1.1 with JSON bodies on a Unix socket. Every message is parsed into one of these types at the edge
or refused as a whole (`request_malformed`); nothing inside keyd handles a dict from outside, except the
raw offers, which must be echoed to the seller verbatim.

Units: USD amounts are decimal strings with at most six places ("0.05"); token amounts are atomic units as
decimal strings; times are Unix seconds, UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

API_VERSION: Final = 1

MAX_BODY: Final = 512 * 1024
"""Bytes of one request body. Sixteen offers of 16 KiB fit; anything larger is not a payment request."""
MAX_OFFERS: Final = 16
"""Offers looked at in one 402. The most seen in the field is eight; the rest are ignored, not refused."""
DEFAULT_SOCKET: Final = "/run/osmoda/keyd.sock"

Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
"""Wallet label; doubles as a file name, so no slash, no leading dot, lower case."""
CallerName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,31}$")]
"""Name of a caller with a proxy token. Without a colon, which ends the user name in Basic (RFC 7617)."""
Text = Annotated[str, StringConstraints(max_length=2048)]
DomainText = Annotated[str, StringConstraints(max_length=300)]
"""An entry of `allowed_domains`; a DNS name has at most 253 characters."""
Usd = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,12}(\.[0-9]{1,6})?$")]


class Role(StrEnum):
    """What a peer may do; keyd maps kernel credentials (SO_PEERCRED) to roles in its configuration."""

    EGRESS = "egress"
    ADMIN = "admin"
    AGENT = "agent"
    RECONCILER = "reconciler"


class Endpoint(NamedTuple):
    method: str
    path: str
    roles: frozenset[Role]


_EVERYONE = frozenset(Role)
ENDPOINTS: Final[Mapping[str, Endpoint]] = {
    "health": Endpoint("GET", "/health", _EVERYONE),
    "sign": Endpoint("POST", "/x402/sign", frozenset({Role.EGRESS})),
    "outcome": Endpoint("POST", "/x402/outcome", frozenset({Role.EGRESS})),
    "policy": Endpoint("GET", "/x402/policy", frozenset({Role.EGRESS, Role.ADMIN, Role.AGENT})),
    "policy_change": Endpoint("PATCH", "/x402/policy", frozenset({Role.ADMIN, Role.AGENT})),
    "policy_reset": Endpoint("POST", "/x402/policy/reset", frozenset({Role.ADMIN})),
    "approve": Endpoint("POST", "/x402/proposals/{id}/approve", frozenset({Role.ADMIN})),
    "reject": Endpoint("POST", "/x402/proposals/{id}/reject", frozenset({Role.ADMIN})),
    "freeze": Endpoint("POST", "/x402/freeze", frozenset({Role.ADMIN, Role.AGENT})),
    "unfreeze": Endpoint("POST", "/x402/unfreeze", frozenset({Role.ADMIN})),
    "spend": Endpoint("GET", "/x402/spend", frozenset({Role.ADMIN, Role.AGENT})),
    "payments": Endpoint("GET", "/x402/payments", frozenset({Role.ADMIN, Role.AGENT})),
    "payment": Endpoint("GET", "/x402/payments/{id}", frozenset({Role.ADMIN, Role.AGENT})),
    "open_payments": Endpoint("GET", "/x402/open", frozenset({Role.RECONCILER})),
    "evidence": Endpoint("POST", "/x402/evidence", frozenset({Role.RECONCILER})),
    "wallet_create": Endpoint("POST", "/wallet/create", frozenset({Role.ADMIN})),
    "wallet_import": Endpoint("POST", "/wallet/import", frozenset({Role.ADMIN})),
    "wallet_list": Endpoint("GET", "/wallet/list", frozenset({Role.ADMIN})),
    "ledger_entries": Endpoint("GET", "/ledger/entries", frozenset({Role.ADMIN})),
    "ledger_head": Endpoint("GET", "/ledger/head", frozenset({Role.ADMIN, Role.RECONCILER})),
    "ledger_verify": Endpoint("POST", "/ledger/verify", frozenset({Role.ADMIN})),
}
"""Every endpoint and who may call it. A role that is not named is refused with `role_insufficient`."""


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


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


class SignRequest(Message):
    """`POST /x402/sign`, full form: a 402 was received, may it be paid?

    `fingerprint` identifies the request that would be repeated: SHA-256 over method, URL and body
    (`egress.fingerprint`). `intent` is the application's own key (`X-402-Intent`), which separates
    requests that are otherwise the same. `offers` are the entries of `accepts`, as received.
    """

    origin: Origin
    method: Annotated[str, StringConstraints(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}$")]
    path: Annotated[str, StringConstraints(max_length=2048)]
    """Path of the request without its query, for the record; egress clips it."""
    fingerprint: Hex32
    intent: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    caller: Caller | None = None
    """None: egress cannot say. keyd pays for nobody whom it does not know."""
    x402_version: Literal[1, 2]
    offers: Annotated[list[Any], Field(min_length=1, max_length=MAX_OFFERS)]
    resource_url: Text | None = None
    """`resource.url` as the seller stated it: recorded and compared, never what policy judges."""
    started_at: Annotated[int, Field(ge=0)] | None = None
    """When the application's request arrived, Unix time in microseconds. One that began before an identical one
    was answered is its parallel repeat, not a new purchase."""
    max_spend: Annotated[str, StringConstraints(max_length=256)] | None = None
    """The application's X-402-Max, as it was written (`keyd.applimits`)."""
    prefer: Annotated[str, StringConstraints(max_length=1024)] | None = None
    """The application's X-402-Pay, as it was written."""
    wallet_id: Label | None = None


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

    def __repr__(self) -> str:
        return f"SignReply(payment_id={self.payment_id!r}, accepted={self.accepted}, signature=…)"

    __str__ = __repr__


class Refusal(Message):
    """403 (or 4xx/5xx): what was refused, why, and the way out. `code` is from `keyd.reasons`."""

    code: str
    detail: str
    hint: str


class OutcomeReport(Message):
    """`POST /x402/outcome`: the facts egress saw after it sent a payment. keyd, not egress, names the state."""

    payment_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    http_status: Annotated[int, Field(ge=100, le=999)] | None = None
    """Status of the answer to the paid request; None if there was none."""
    settlement: dict[str, Any] | None = None
    """The decoded SettlementResponse (PAYMENT-RESPONSE or X-PAYMENT-RESPONSE), as received."""
    failure: Literal["connection", "timeout", "not_sent"] | None = None
    """Why there was no answer. `not_sent`: the payment never left egress."""


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


TxHash = Annotated[str, StringConstraints(pattern=r"^0x[0-9a-f]{64}$")]


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


class BudgetChange(Message):
    """A daily budget for a domain, a caller, or both; `daily_usd` None removes it."""

    domain: Annotated[str, StringConstraints(max_length=300)] | None = None
    """As `domain` in the ledger: "api.example.com", or with scheme and port."""
    caller: Annotated[str, StringConstraints(max_length=64)] | None = None
    """As `caller` in the ledger: "uid:1000"."""
    daily_usd: Usd | None = None


class PolicyPatch(Message):
    """`PATCH /x402/policy`: only what is named changes. An agent may tighten; anything wider becomes a proposal."""

    enable: bool | None = None
    daily_budget_usd: Usd | None = None
    max_payment_usd: Usd | None = None
    approve_above_usd: Usd | None = None
    payments_per_minute: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    allow: Annotated[list[DomainText], Field(max_length=100)] = []
    deny: Annotated[list[DomainText], Field(max_length=100)] = []
    only: Annotated[list[DomainText], Field(max_length=100)] | None = None
    """The only domains to pay, among those that are allowed."""
    budgets: Annotated[list[BudgetChange], Field(max_length=100)] = []


class Proposal(Message):
    """Something that waits for an administrator: a change of policy, or a payment that was held."""

    id: str
    kind: Literal["policy", "payment"]
    summary: str
    """In words; text that came from a seller in it is escaped."""
    code: str | None = None
    """Why a payment is held."""
    by: str
    created_at: int
    expires_at: int


class PolicyChanged(Message):
    """What became of a change. `proposal`: it was filed, and is not in force before an administrator approves."""

    applied: bool
    proposal: Proposal | None = None
    wider: list[str] = []
    """In words, what the change would permit beyond the policy in force."""


class PolicyReset(Message):
    """`POST /x402/policy/reset`: with `domain`, forgets its pins and its quarantine; without, drops all overrides."""

    domain: Text | None = None


class Decided(Message):
    """Answer to approve and reject."""

    proposal: Proposal
    applied: bool


class Freeze(Message):
    """`POST /x402/freeze`: no payment is signed until an administrator unfreezes."""

    reason: Annotated[str, StringConstraints(max_length=200)] = ""


class Frozen(Message):
    frozen: bool
    by: str | None = None
    reason: str | None = None
    since: int | None = None


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


class SpendRow(Message):
    """One line of `GET /x402/spend`: `key` is a domain, caller, day or SYMBOL@network, as `by` says."""

    key: str
    usd: str
    calls: int


class Spend(Message):
    """`GET /x402/spend?by=domain|caller|day|asset&since=YYYY-MM-DD`: what counts as spent, the dearest first."""

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


class PaymentStory(Message):
    """`GET /x402/payments/{id}`: every entry about one payment, from the offer to the proof."""

    payment: PaymentView
    entries: list[LedgerEntry]


class BudgetView(Message):
    domain: str | None
    caller: str | None
    daily: str
    spent_today: str


class PolicyView(Message):
    """`GET /x402/policy`: what is in force and what was spent. All USD figures are decimal strings."""

    enabled: bool
    enforce: bool
    """False: overrides are only tried out; what they would refuse is recorded, and paid if the base allows it."""
    frozen: Frozen
    allowed_domains: list[str]
    denied_domains: list[str]
    only_domains: list[str] | None
    callers: list[str]
    """Who may pay: "uid:1000", "proxy:ci", or "*" for everyone whom egress can identify."""
    networks: list[str]
    assets: list[str]
    """Payable tokens as `SYMBOL@network`."""
    max_payment: str
    approve_above: str | None
    approve_first_seen: bool
    payments_per_minute: int | None
    daily_budget: str
    spent_today: str
    left_today: str
    day: str
    """The UTC day, YYYY-MM-DD. What is recorded for later days, after a clock was set back, counts as spent today."""
    budgets: list[BudgetView]
    by_domain: list[DomainSpend]
    by_caller: list[CallerSpend]
    pending: list[Proposal]
    overrides: dict[str, Any]
    """What was changed at run time, as in overrides.toml."""
    wallet: str | None
    """Address of the default wallet, if it exists."""
    default_wallet_label: str


class WalletCreate(Message):
    label: Label


class WalletImport(Message):
    label: Label
    private_key: Annotated[str, StringConstraints(max_length=70)]
    """32 bytes in hex, with or without 0x."""

    def __repr__(self) -> str:
        return f"WalletImport(label={self.label!r}, private_key=…)"

    __str__ = __repr__


class Wallet(Message):
    label: str
    address: str
    """EIP-55 checksummed."""
    created_at: int
    default: bool


class WalletList(Message):
    wallets: list[Wallet]


class LedgerEntry(Message):
    seq: int
    ts: str
    type: str
    actor: str
    data: dict[str, Any]
    hash: Hex32


class LedgerEntries(Message):
    """`GET /ledger/entries?limit=N[&after=SEQ]`: without `after` the newest N; always oldest first."""

    entries: list[LedgerEntry]


class LedgerHead(Message):
    seq: int
    """Number of entries; 0 for an empty ledger."""
    hash: Hex32


class LedgerVerdict(Message):
    """`POST /ledger/verify`: chain and projection, checked from the first entry."""

    ok: bool
    entries: int
    head: Hex32
    problems: list[str]
    """In words, first problem first; empty when ok."""


class Health(Message):
    status: Literal["ok", "degraded"]
    api_version: int
    version: str
    ledger_entries: int
    problems: list[str]
    """Why no payment can be made now: no wallet, ledger not writable, x402 disabled."""
