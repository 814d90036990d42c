"""egress.toml. docs/egress.md explains every key; a test compares the two."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from egress.reach.destinations import AllowedPrivate, normal_host
from egress.reach.proxy_address import ProxyAddress
from keyd.api import DEFAULT_SOCKET, SESSION_USER, CallerName, Hex32
from keyd.configfile import TomlSettings
from keyd.domains import DomainPattern

_NEEDS_NETWORK = ("root", "osmoda-egress", "osmoda-reconcile")


def _listen_address(text: str) -> str:
    split_listen(text)
    return text


def _loopback_address(text: str) -> str:
    host, _ = split_listen(text)
    if normal_host(host) not in ("127.0.0.1", "::1"):
        raise ValueError(f"{text!r} is not on loopback: figures of traffic are for this machine alone")
    return text


def _private_destination(text: str) -> str:
    AllowedPrivate.parse(text)
    return text


def _domain(text: str) -> str:
    return str(DomainPattern.parse(text))


def _proxy(text: SecretStr) -> SecretStr:
    ProxyAddress.parse(text.get_secret_value())
    return text


def _fenced_user(text: str) -> str:
    if re.fullmatch(r"uid:[1-9][0-9]{0,9}|[A-Za-z_][A-Za-z0-9_.-]{0,63}", text, re.ASCII) is None:
        raise ValueError(f'{text!r} is no user: write a user name or "uid:1000"')
    if text in _NEEDS_NETWORK:
        raise ValueError(f"{text} cannot be fenced in: the proxy itself needs the network, and root is free")
    return text


class X402Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    enable: bool = True
    """False: no 402 is paid, all are passed on."""
    max_retries: Annotated[int, Field(ge=0, le=1)] = 1
    """Paid repeats of one request. 0 is the same as `enable = false`; more than 1 could pay twice."""
    flat_dialect: bool = False
    """Also read osModa's flat form of terms (`{amount, asset, chain, payTo, expiry}`) in PAYMENT-REQUIRED."""


class CallerSettings(BaseModel):
    """Somebody whom the kernel cannot name: a container, another host. Pays as `proxy:<name>`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: CallerName
    """User name in Proxy-Authorization, and in keyd's `callers` and budgets after `proxy:`."""
    token_sha256: Hex32
    """SHA-256 of the token in hex; the token itself is in no file of ours."""


class EgressSettings(TomlSettings):
    listen: Annotated[str, AfterValidator(_listen_address)] = "127.0.0.1:19999"
    """Address and port of the proxy. Port 0: any free one, named in the log line `egress.ready`."""
    keyd_socket: str = DEFAULT_SOCKET
    """keyd's Unix socket."""
    state_dir: str = "/var/lib/osmoda-egress"
    """Folder of the certificate authority; its certificate is published there as `ca-cert.pem`."""
    intercept: Literal["payable", "all"] = "payable"
    """`payable`: look into TLS only towards hosts that keyd's policy could pay. `all`: towards every host."""
    max_request_body: Annotated[int, Field(ge=0, le=1 << 30)] = 4 * 1024 * 1024
    """Bytes of a request body that are kept to repeat the request. Larger bodies pass through unpaid."""
    max_kept: Annotated[int, Field(ge=0, le=1 << 36)] = 256 * 1024 * 1024
    """Bytes that all request bodies and 402 answers being kept may take together, for each worker process."""
    max_connections_per_caller: Annotated[int, Field(ge=1, le=1 << 20)] = 1024
    """Connections that one local user, or one other host, may have open at a time, to each worker process."""
    allow_private: tuple[Annotated[str, AfterValidator(_private_destination)], ...] = ()
    """Hosts (`host` or `host:port`) that may be reached although their address is private or loopback."""
    allowed_domains: tuple[Annotated[str, AfterValidator(_domain)], ...] = ()
    """Where any traffic may go, paid or not, written as keyd's `allowed_domains`; empty: everywhere."""
    upstream_proxy: Annotated[SecretStr, AfterValidator(_proxy)] | None = None
    """Another proxy, through which everything but `allow_private` goes: `http://host:port`, with
    `user:password@` before the host if it wants a credential."""
    upstream_proxy_credential_file: str | None = None
    """File with the line `user:password`, so that the credential need not stand here."""
    upstream_ca_file: str | None = None
    """PEM file of certificate authorities trusted for upstream TLS, besides those of the system."""
    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 30.0
    """How long requests that are under way may go on after SIGTERM."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that serve the same address. They share keyd, and so its budget."""
    metrics_listen: Annotated[str, AfterValidator(_loopback_address)] | None = None
    """Loopback address and port where `GET /metrics` answers Prometheus; none: nowhere."""
    identify: Literal["uid", "process"] = "uid"
    """`uid`: the kernel says which user asks. `process`: the ledger also gets pid and systemd unit, where
    egress may read them."""
    callers: tuple[CallerSettings, ...] = ()
    """Names and tokens for callers that the kernel cannot name."""
    fence: tuple[Annotated[str, AfterValidator(_fenced_user)], ...] = ()
    """Users (name or "uid:1000") who reach the network through this proxy alone, while osmoda-fence.service is up."""
    x402: X402Settings = X402Settings()

    @model_validator(mode="after")
    def _names_callers_once(self) -> Self:
        names = [caller.name for caller in self.callers]
        if len(set(names)) != len(names):
            raise ValueError("two of [[callers]] have the same name")
        if SESSION_USER in names:
            raise ValueError(
                f"the name {SESSION_USER!r} belongs to the tokens of `osmoda-keyctl x402 run --label`"
            )
        return self

    @model_validator(mode="after")
    def _has_one_credential(self) -> Self:
        if self.upstream_proxy_credential_file is not None:
            if self.upstream_proxy is None:
                raise ValueError("upstream_proxy_credential_file is of no use without upstream_proxy")
            if ProxyAddress.parse(self.upstream_proxy.get_secret_value()).credential is not None:
                raise ValueError("upstream_proxy and upstream_proxy_credential_file both have a credential")
        return self

    @property
    def pays(self) -> bool:
        return self.x402.enable and self.x402.max_retries > 0


def split_listen(text: str) -> tuple[str, int]:
    """`127.0.0.1:19999`, `[::1]:19999` → host and port. Raises ValueError with the way out."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/\s]+)):(\d{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError(f"{text!r} is not an address and port; write for example `127.0.0.1:19999`")
    return match[1] or match[2], int(match[3])
