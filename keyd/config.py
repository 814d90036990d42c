"""keyd.toml: every setting, its default and what it accepts. `docs/config-keyd.md` is generated from here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from keyd import api, configfile
from keyd.assets import DEFAULT_ASSETS, Asset, AssetTable
from keyd.configfile import ConfigError
from keyd.domains import DomainPattern
from keyd.evm import parse_address
from keyd.money import format_usd, parse_usd
from keyd.policy import Policy

__all__ = ["ConfigError", "Settings", "load"]


def _usd(value: object) -> int:
    if not isinstance(value, str):
        raise ValueError('write money as a string, like "1.00"')  # noqa: TRY004 - pydantic wants ValueError
    return parse_usd(value)


def _domain(value: object) -> DomainPattern:
    if not isinstance(value, str):
        raise ValueError('write a domain as a string, like "api.example.com"')  # noqa: TRY004
    return DomainPattern.parse(value)


def _caip2(value: Any) -> str:
    if not isinstance(value, str) or re.fullmatch(r"eip155:[1-9][0-9]{0,18}", value, re.ASCII) is None:
        raise ValueError(f"{value!r} is not a CAIP-2 id of an EVM network, like `eip155:8453`")
    return value


def _address(value: object) -> str:
    return parse_address(value)


def _positive_usd(value: object) -> int:
    micros = _usd(value)
    if micros == 0:
        raise ValueError("a token that counts as 0 USD could be spent without limit")
    return micros


MicroUsd = Annotated[int, BeforeValidator(_usd), PlainSerializer(format_usd)]
"""Decimal USD string in the file, integer micro-USD inside."""
Domain = Annotated[str, BeforeValidator(lambda value: _domain(value) and value)]
Network = Annotated[str, BeforeValidator(_caip2)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PeerSettings(_Section):
    """Who has which role: user names, numeric uids, or `@group`."""

    egress: list[str | int] = []
    admin: list[str | int] = ["root"]
    agent: list[str | int] = []
    reconciler: list[str | int] = []


class X402Settings(_Section):
    """What may be paid. The defaults allow nothing, because no domain is listed."""

    enable: bool = True
    default_wallet_label: api.Label = "default"
    daily_budget_usd: MicroUsd = 1_000_000
    max_payment_usd: MicroUsd = 100_000
    allowed_domains: list[Domain] = []
    networks: list[Network] = ["eip155:8453"]


class AssetSettings(_Section):
    """A token beyond the built-in table, or a correction of one of its rows."""

    network: Network
    address: Annotated[str, BeforeValidator(_address)]
    symbol: Annotated[str, Field(pattern=r"^[A-Za-z0-9.$_-]{1,16}$")]
    decimals: Annotated[int, Field(ge=0, le=36)]
    eip712_name: Annotated[str, Field(min_length=1, max_length=128)]
    eip712_version: Annotated[str, Field(min_length=1, max_length=32)]
    usd_value: Annotated[int, BeforeValidator(_positive_usd), PlainSerializer(format_usd)]


class Settings(configfile.TomlSettings):
    """The whole of keyd.toml."""

    socket: Path = Path(api.DEFAULT_SOCKET)
    socket_mode: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] = "0660"
    state_dir: Path = Path("/var/lib/osmoda-keyd")
    kek_file: Path | None = None
    peers: PeerSettings = PeerSettings()
    x402: X402Settings = X402Settings()
    assets: list[AssetSettings] = Field(default_factory=list)

    @property
    def ledger_file(self) -> Path:
        return self.state_dir / "ledger.sqlite3"

    @property
    def wallet_dir(self) -> Path:
        return self.state_dir / "wallets"

    def policy(self) -> Policy:
        """The policy that the decision takes. Raises ConfigError: a network without any known token."""
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
        return Policy(
            enabled=self.x402.enable,
            allowed_domains=tuple(DomainPattern.parse(text) for text in self.x402.allowed_domains),
            networks=frozenset(self.x402.networks),
            assets=table,
            max_payment=self.x402.max_payment_usd,
            daily_budget=self.x402.daily_budget_usd,
        )


def load(path: Path) -> Settings:
    """keyd.toml at `path`. Raises ConfigError."""
    settings = configfile.load(Settings, path)
    settings.policy()
    return settings
