"""reconcile.toml. docs/reconcile.md explains every key; a test compares the two."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)

from keyd.api import DEFAULT_SOCKET
from keyd.configfile import TomlSettings


def server_name(url: str) -> str:
    """`https://user:pass@rpc.example.com/v2/KEY` → `rpc.example.com`: all that may be logged of an RPC URL."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if parts.port is None else f"{host}:{parts.port}"


def _rpc_url(url: SecretStr) -> SecretStr:
    """Messages never quote the URL: its path, query or password is often the key to a paid account."""
    text = url.get_secret_value()
    try:
        parts = urlsplit(text)
        sound = parts.scheme in ("https", "http") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or not text.isascii() or any(char <= " " for char in text) or "#" in text:
        raise ValueError("not a URL like https://rpc.example.com/…")
    return url


RpcUrl = Annotated[SecretStr, AfterValidator(_rpc_url)]


class NetworkSettings(BaseModel):
    """One `[[networks]]` table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: Annotated[str, StringConstraints(pattern=r"^eip155:[1-9][0-9]{0,15}$")]
    """CAIP-2 id, as in `networks` of keyd.toml."""
    rpc: Annotated[tuple[RpcUrl, ...], Field(min_length=1, max_length=100)]
    """URLs of JSON-RPC servers of this network."""
    agree: Annotated[int, Field(ge=1)] | None = None
    """How many of them have to say the same before keyd is told. Default: all."""
    block: Literal["finalized", "safe", "latest"] = "finalized"
    """The block at which the state is read. Anything but `finalized` can still be undone by the chain."""
    log_range: Annotated[int, Field(ge=1, le=100_000)] = 2000
    """Blocks in one `eth_getLogs` at the most; halved by itself when a server finds it too many."""
    timeout_seconds: Annotated[float, Field(gt=0, le=120)] = 10.0
    """Longest wait for one answer."""
    allow_http: bool = False
    """Allow `http://` to other hosts than loopback: whoever is on the way can then forge every answer."""

    @property
    def chain_id(self) -> int:
        return int(self.network.removeprefix("eip155:"))

    @property
    def needed(self) -> int:
        """Servers that have to say the same."""
        return len(self.rpc) if self.agree is None else self.agree

    @model_validator(mode="after")
    def _sound(self) -> Self:
        urls = [url.get_secret_value() for url in self.rpc]
        if len(set(urls)) != len(urls):
            raise ValueError("the same rpc URL is listed twice, and would agree with itself")
        if self.needed > len(urls):
            raise ValueError(f"agree = {self.agree}, but rpc lists {len(urls)}")
        for url in urls:
            if urlsplit(url).scheme == "http" and not self.allow_http and not _is_loopback(url):
                raise ValueError(f"rpc server {server_name(url)}: write https://, or set allow_http = true")
        return self


class HookSettings(BaseModel):
    """`[alerts]` and `[heads]`: who is told. Every way that is set has to take it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Program and arguments; it gets the document on its standard input. No shell."""
    url: RpcUrl | None = None
    """Gets the document as a POST; `https://` unless on loopback."""
    timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 10.0
    """Longest wait for either. Then it counts as failed, and is told again in the next pass."""

    @property
    def wanted(self) -> bool:
        return bool(self.command) or self.url is not None

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.url is not None:
            url = self.url.get_secret_value()
            if urlsplit(url).scheme == "http" and not _is_loopback(url):
                raise ValueError(f"{server_name(url)}: write https://")
        if self.command and not self.command[0].startswith("/"):
            raise ValueError("write the command with its whole path: a service has a PATH of its own")
        return self


class ReconcileSettings(TomlSettings):
    keyd_socket: str = DEFAULT_SOCKET
    """keyd's Unix socket."""
    networks: Annotated[tuple[NetworkSettings, ...], Field(min_length=1)]
    """Where to ask, one table for each network that payments are made on."""
    state_dir: str = "/var/lib/osmoda-reconcile"
    """Where is kept what was told and handed on already."""
    alerts: HookSettings = HookSettings()
    """Who is told of budgets that run out, freezes, held payments and faults."""
    heads: HookSettings = HookSettings()
    """Who keeps the signed heads of the ledger."""

    @model_validator(mode="after")
    def _one_table_each(self) -> Self:
        names = [network.network for network in self.networks]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"networks: {min(twice)} has two tables; list all its URLs in one")
        return self


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
