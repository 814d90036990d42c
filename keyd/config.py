"""keyd.toml: every setting, its default and what it accepts. `docs/config-keyd.md` is generated from here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator
from pydantic_settings import SettingsConfigDict

from keyd import api, callers, configfile
from keyd.configfile import ConfigError
from keyd.core.applimits import Token
from keyd.core.assets import DEFAULT_ASSETS, Asset, AssetTable
from keyd.core.evm import parse_address
from keyd.core.money import format_usd, parse_usd
from keyd.core.overrides import Limits, one_domain
from keyd.core.policy import BudgetRule, Policy, PrepayRule
from keyd.domains import DomainPattern

__all__ = ["ConfigError", "Settings", "load"]


def _usd(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError('write money as a string, like "1.00"')
    return parse_usd(value)


def _domain(value: object) -> DomainPattern:
    if not isinstance(value, str):
        raise ValueError('write a domain as a string, like "api.example.com"')
    return DomainPattern.parse(value)


def _caip2(value: Any) -> str:
    if not isinstance(value, str) or re.fullmatch(r"eip155:[1-9][0-9]{0,18}", value, re.ASCII) is None:
        raise ValueError(f"{value!r} is not a CAIP-2 id of an EVM network, like `eip155:8453`")
    return value


def _token(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError('write a token as a string, like "USDC@eip155:8453"')
    Token.parse(value)
    return value


def _address(value: object) -> str:
    return parse_address(value)


def _positive_usd(value: object) -> int:
    micros = _usd(value)
    if micros == 0:
        raise ValueError("a token that counts as 0 USD could be spent without limit")
    return micros


def _factor(value: object) -> int:
    if not isinstance(value, str) or re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", value, re.ASCII) is None:
        raise ValueError('write a factor as a string, like "2" or "1.5"')
    milli = parse_usd(value) // 1000
    if milli < 1000:
        raise ValueError("a factor below 1 would hold every payment")
    return milli


MicroUsd = Annotated[int, BeforeValidator(_usd), PlainSerializer(format_usd)]
"""Decimal USD string in the file, integer micro-USD inside."""
Factor = Annotated[int, BeforeValidator(_factor), PlainSerializer(lambda milli: format_usd(milli * 1000))]
"""A factor of at least 1 in the file ("2"), thousandths inside."""
PerMinute = Annotated[int, Field(ge=0, le=1_000_000)]
Domain = Annotated[str, BeforeValidator(lambda value: _domain(value) and value)]
TokenName = Annotated[str, BeforeValidator(_token)]
Network = Annotated[str, BeforeValidator(_caip2)]
Caller = Annotated[str, BeforeValidator(callers.check_entry)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class PeerSettings(_Section):
    """Who has which role: user names, numeric uids, or `@group`."""

    egress: list[str | int] = []
    """Asks for payments and reports their outcomes: the user of osmoda-egress."""
    admin: list[str | int] = ["root"]
    """Changes policy, approves, imports wallets, reads the ledger."""
    agent: list[str | int] = []
    """Sees policy and spending, tightens and freezes; anything wider becomes a proposal."""
    reconciler: list[str | int] = []
    """Brings proof from the chain, the only thing that gives budget back: the user of osmoda-reconcile."""


class BudgetSettings(_Section):
    """A daily budget for one domain, one caller, or one caller at one domain, named as the ledger names them."""

    domain: Domain | None = None
    """Exactly one domain, as the ledger names it: "api.example.com", or with scheme and port. Unset: every domain."""
    caller: Annotated[str, Field(pattern=r"^[!-~]{1,64}$")] | None = None
    """As the ledger names it: "uid:1000" or "proxy:NAME". Unset: every caller."""
    daily_usd: MicroUsd
    """What may be spent in a UTC day."""

    @model_validator(mode="after")
    def _names_something(self) -> Self:
        if self.domain is None and self.caller is None:
            raise ValueError("name a domain, a caller, or both; daily_budget_usd is the budget of all")
        if self.domain is not None:
            one_domain(self.domain)
        return self


class PrepaySettings(_Section):
    """Requests that are paid before the server asks, once it has asked often enough for the same (docs/prepayment.md)."""

    domain: Domain
    """Exactly one domain, as the ledger names it: "api.example.com", or with scheme and port."""
    methods: list[Annotated[str, Field(pattern=r"^[A-Z]{1,20}$")]] = ["GET", "HEAD"]
    """Only these. A request that changes something on the server and is paid in vain has changed it nevertheless."""
    after: Annotated[int, Field(ge=1, le=1000)] = 3
    """How many 402s in a row must have asked for the same terms, for the same URL."""

    @model_validator(mode="after")
    def _is_one_domain(self) -> Self:
        one_domain(self.domain)
        return self


class LimitSettings(_Section):
    """How far administrators may go at run time (`keyctl x402 budget|cap|allow`). Unset: no limit."""

    daily_budget_usd: MicroUsd | None = None
    """The highest daily budget that `keyctl x402 budget` may set."""
    max_payment_usd: MicroUsd | None = None
    """The highest cap that `keyctl x402 cap` may set."""
    payments_per_minute: PerMinute | None = None
    """The highest rate that an override may set."""
    allowed_domains: list[Domain] | None = None
    """The only entries that may be allowed in all, those of the base included, letter by letter."""


class X402Settings(_Section):
    """What may be paid. The defaults allow nothing, because no domain is listed."""

    enable: bool = True
    """false: nothing is paid."""
    enforce: bool = True
    """false: overrides are tried out. keyd.toml alone decides, and the ledger says what they would have refused."""
    default_wallet_label: api.Label = "default"
    """The wallet that pays."""
    daily_budget_usd: MicroUsd = 1_000_000
    """What may be spent in a UTC day, by all together."""
    daily_budget_per_domain_usd: MicroUsd | None = None
    """What each domain may be paid in a day. Unset: no such limit."""
    daily_budget_per_caller_usd: MicroUsd | None = None
    """What each caller may spend in a day. Unset: no such limit."""
    daily_budget_per_caller_and_domain_usd: MicroUsd | None = None
    """What each caller may spend at each domain in a day. Unset: no such limit."""
    max_payment_usd: MicroUsd = 100_000
    """What a single payment may cost."""
    payments_per_minute: PerMinute | None = None
    """Payments signed in 60 seconds, by all together. Unset: no such limit."""
    allowed_domains: list[Domain] = []
    """Who may be paid: "api.example.com", "*.example.com" (not itself), "http://host:port", or "*" for every https host. Nothing listed: nothing is paid."""
    denied_domains: list[Domain] = []
    """Who is never paid, whatever allowed_domains says. Written like those."""
    callers: list[Caller] = ["*"]
    """Who may pay: user names, "uid:1000", "@group", "proxy:NAME", or "*" for everyone whom egress can identify."""
    session_required: list[Caller] = []
    """Who pays inside of a session only (`keyctl x402 run --label`), written like `callers`."""
    networks: list[Network] = ["eip155:8453"]
    """Networks to pay on, as CAIP-2 ids."""
    allowed_assets: list[TokenName] | None = None
    """The only tokens to pay in, like `USDC` or `USDC@eip155:8453`; unset: every known one of these networks."""
    pin: bool = True
    """Hold a payment whose recipient, token or price is not that of the first one (docs/policy.md)."""
    pin_price_factor: Factor = 2000
    """How far the price of a method and path may rise above the first one before it is held."""
    approve_above_usd: MicroUsd | None = None
    """A payment above this waits for `keyctl x402 approve`. Unset: none does."""
    approve_first_seen: bool = False
    """true: the first payment to a host waits for `keyctl x402 approve`."""
    quarantine_after: Annotated[int, Field(ge=0)] = 10
    """Payments in a row without delivery or receipt, after which a host is not paid any more. 0: never."""
    proof_sources: Annotated[int, Field(ge=1, le=100)] = 1
    """RPC servers that must agree before an unused authorization gives budget back."""
    budgets: list[BudgetSettings] = []
    """Budgets of single domains and callers."""
    prepay: list[PrepaySettings] = []
    """Where requests may be paid before the server asks. Nothing listed: nowhere."""
    pay_to: dict[Domain, list[Annotated[str, BeforeValidator(_address)]]] = {}
    """Domain to the only recipients that it may name."""
    limits: LimitSettings = LimitSettings()
    """How far changes at run time may go."""

    @model_validator(mode="after")
    def _rules_bind(self) -> Self:
        for domain in self.pay_to:
            one_domain(domain)
        keys = [(budget.domain, budget.caller) for budget in self.budgets]
        if len(set(keys)) < len(keys):
            raise ValueError("two budgets for the same domain and caller: only one of them could hold")
        return self


class AssetSettings(_Section):
    """A token beyond the built-in table, or a correction of one of its rows."""

    network: Network
    """CAIP-2 id of an EVM network."""
    address: Annotated[str, BeforeValidator(_address)]
    """The token's contract."""
    symbol: Annotated[str, Field(pattern=r"^[A-Za-z0-9.$_-]{1,16}$")]
    """For people: policy and ledger show it."""
    decimals: Annotated[int, Field(ge=0, le=36)]
    """Decimal places of one whole token."""
    eip712_name: Annotated[str, Field(min_length=1, max_length=128)]
    """`name` of the contract's EIP-712 domain. A wrong one makes signatures that never settle."""
    eip712_version: Annotated[str, Field(min_length=1, max_length=32)]
    """`version` of the contract's EIP-712 domain."""
    usd_value: Annotated[int, BeforeValidator(_positive_usd), PlainSerializer(format_usd)]
    """What one whole token counts for in budgets."""


class Settings(configfile.TomlSettings):
    """The whole of keyd.toml."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    socket: Path = Path(api.DEFAULT_SOCKET)
    """Unix socket that keyd listens on."""
    socket_mode: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] = "0660"
    """Its mode, octal. Who may do what follows from [peers], not from this."""
    state_dir: Path = Path("/var/lib/osmoda-keyd")
    """Ledger and its signed heads, wallets and overrides.toml. Nobody but keyd's user may enter it."""
    kek_file: Path | None = None
    """Key-encryption key in a file, for trying out. Unset: the systemd credential `kek`."""
    peers: PeerSettings = PeerSettings()
    """Who has which role."""
    x402: X402Settings = X402Settings()
    """What may be paid."""
    assets: list[AssetSettings] = Field(default_factory=list)
    """Tokens beyond the built-in table."""

    @property
    def ledger_file(self) -> Path:
        return self.state_dir / "ledger.sqlite3"

    @property
    def ledger_key_file(self) -> Path:
        return self.state_dir / "ledger-key.json"

    @property
    def ledger_heads_file(self) -> Path:
        return self.state_dir / "ledger.heads"

    @property
    def wallet_dir(self) -> Path:
        return self.state_dir / "wallets"

    def asset_table(self) -> AssetTable:
        """Built-in tokens and [[assets]]. Raises ConfigError: a network without any known token."""
        added = tuple(
            Asset(
                a.network,
                a.address,
                a.symbol,
                a.eip712_name,
                a.eip712_version,
                a.decimals,
                usd_per_token=a.usd_value,
            )
            for a in self.assets
        )
        table = AssetTable(DEFAULT_ASSETS + added)
        for network in self.x402.networks:
            if network not in table.networks:
                hint = "add a token of it under [[assets]], or take it from the list"
                raise ConfigError(f"x402.networks: no token of {network} is known", hint)
        return table

    def policy(self) -> Policy:
        """The policy that the decision takes. Raises ConfigError, also for a caller who is no user here."""
        x402 = self.x402
        return Policy(
            enabled=x402.enable,
            allowed_domains=_patterns(x402.allowed_domains),
            denied_domains=_patterns(x402.denied_domains),
            callers=callers.resolve(x402.callers, "callers"),
            session_required=callers.resolve(x402.session_required, "session_required"),
            networks=frozenset(x402.networks),
            assets=self.asset_table(),
            allowed_assets=(
                None
                if x402.allowed_assets is None
                else tuple(Token.parse(text) for text in x402.allowed_assets)
            ),
            max_payment=x402.max_payment_usd,
            daily_budget=x402.daily_budget_usd,
            daily_budget_per_domain=x402.daily_budget_per_domain_usd,
            daily_budget_per_caller=x402.daily_budget_per_caller_usd,
            daily_budget_per_caller_and_domain=x402.daily_budget_per_caller_and_domain_usd,
            budgets=tuple(BudgetRule(_name(b.domain), b.caller, b.daily_usd) for b in x402.budgets),
            prepay=tuple(
                PrepayRule(str(DomainPattern.parse(p.domain)), frozenset(p.methods), p.after)
                for p in x402.prepay
            ),
            payments_per_minute=x402.payments_per_minute,
            pay_to={str(DomainPattern.parse(d)): frozenset(to) for d, to in x402.pay_to.items()},
            pin=x402.pin,
            pin_price_factor_milli=x402.pin_price_factor,
            approve_above=x402.approve_above_usd,
            approve_first_seen=x402.approve_first_seen,
            quarantine_after=x402.quarantine_after or None,
        )

    def limits(self) -> Limits:
        """How far overrides may go."""
        limits = self.x402.limits
        return Limits(
            daily_budget=limits.daily_budget_usd,
            max_payment=limits.max_payment_usd,
            payments_per_minute=limits.payments_per_minute,
            domains=None if limits.allowed_domains is None else _patterns(limits.allowed_domains),
        )


def _patterns(texts: list[str]) -> tuple[DomainPattern, ...]:
    return tuple(DomainPattern.parse(text) for text in texts)


def _name(domain: str | None) -> str | None:
    return None if domain is None else str(DomainPattern.parse(domain))


def load(path: Path) -> Settings:
    """keyd.toml at `path`. Raises ConfigError."""
    settings = configfile.load(Settings, path)
    settings.asset_table()  # not the whole policy: its users may exist only where keyd will run
    return settings
