"""Messages about policy: what is in force, what changes it, what waits for an administrator."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from keyd.api.base import DomainText, Message, Text, Usd
from keyd.api.payments import CallerSpend, DomainSpend


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
    allow: list[DomainText] = Field(default_factory=list, max_length=100)
    deny: list[DomainText] = Field(default_factory=list, max_length=100)
    only: Annotated[list[DomainText], Field(max_length=100)] | None = None
    """The only domains to pay, among those that are allowed."""
    signin_allow: list[DomainText] = Field(default_factory=list, max_length=100)
    """Domains to sign in to instead of paying again, one by one: a pattern is refused."""
    signin_deny: list[DomainText] = Field(default_factory=list, max_length=100)
    budgets: list[BudgetChange] = Field(default_factory=list, max_length=100)


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
    wider: list[str] = Field(default_factory=list)
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


class PrepayView(Message):
    """Requests of `methods` to `domain` may be paid before the server asks, once it asked `after` times for the same."""

    domain: str
    methods: list[str]
    after: int


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
    signin_domains: list[str]
    """Where we may sign in instead of paying again."""
    callers: list[str]
    """Who may pay: "uid:1000", "proxy:ci", or "*" for everyone whom egress can identify."""
    session_required: list[str]
    """Who pays inside of a session only."""
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
    prepay: list[PrepayView]
    by_domain: list[DomainSpend]
    by_caller: list[CallerSpend]
    pending: list[Proposal]
    overrides: dict[str, Any]
    """What was changed at run time, as in overrides.toml."""
    wallet: str | None
    """Address of the default wallet, if it exists."""
    default_wallet_label: str
