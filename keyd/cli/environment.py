"""The environment in which a program pays without knowing it: where the proxy is, and whose certificates to trust.

Names files, and touches none. docs/programs.md says which program reads what, and tests/programs tries each one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

from keyd import api

LOCAL_HOSTS: Final = "localhost,127.0.0.1,::1"
"""Not through the proxy unless asked: programs talk to services of their own machine, and egress goes to no
private address."""
TRUST_STORE_PASSWORD: Final = "changeit"  # noqa: S105 - Java's own default: the store holds public certificates

BUNDLE_VARIABLES: Final = (
    "SSL_CERT_FILE",  # OpenSSL: Python, Ruby, PHP; Go; Rust's native roots
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "npm_config_cafile",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "DENO_CERT",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
)
"""Each names one file of certificate authorities. What it named before is in the bundle as well."""
_PROXY_VARIABLES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where egress listens. `url` may hold a user and token: it goes to programs, never into a message."""

    url: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, in words and without the token."""
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise ValueError("it is not a URL") from None
        if parts.scheme != "http" or not host or port is None or _has_more(parts):
            raise ValueError("write it as http://HOST:PORT or http://NAME:TOKEN@HOST:PORT")
        return cls(text.rstrip("/"), host, port)

    def in_session(self, token: str) -> Proxy:
        """The same proxy, with the credentials of a session. Raises ValueError if it has others."""
        if "@" in self.url:
            raise ValueError("a session is its user's: name the proxy without NAME:TOKEN")
        url = f"http://{api.SESSION_USER}:{token}@{self.url.removeprefix('http://')}"
        return Proxy(url, self.host, self.port)

    def __str__(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"Proxy({self})"


@dataclass(frozen=True, slots=True)
class TrustFiles:
    """The same certificate authorities in the forms that programs want: the system's and ours."""

    bundle: Path
    """PEM."""
    java_store: Path
    """PKCS #12, with TRUST_STORE_PASSWORD."""
    wgetrc: Path
    """A wgetrc that names `bundle`."""


def program_environment(
    before: Mapping[str, str], proxy: Proxy, trust: TrustFiles, no_proxy: str | None, *, own_wgetrc: bool
) -> dict[str, str]:
    """The variables to set on top of `before`.

    `no_proxy`: hosts that are reached directly; None: those of `before`, or LOCAL_HOSTS. `own_wgetrc`: the user
    has a wgetrc, which would no longer be read if we named ours.
    """
    direct = _first(no_proxy, before.get("NO_PROXY"), before.get("no_proxy"), LOCAL_HOSTS)
    changes = {
        **_both_cases(dict.fromkeys(_PROXY_VARIABLES, proxy.url)),
        **_both_cases({"NO_PROXY": direct}),
        **dict.fromkeys(BUNDLE_VARIABLES, str(trust.bundle)),
        "OSMODA_PROXY": proxy.url,  # for keyctl and osmoda-bridge inside of the program: same proxy, same session
        "NODE_USE_ENV_PROXY": "1",
        "npm_config_proxy": proxy.url,
        "npm_config_https_proxy": proxy.url,
        "npm_config_noproxy": direct,
        "JAVA_TOOL_OPTIONS": _java_options(before.get("JAVA_TOOL_OPTIONS", ""), proxy, trust, direct),
    }
    if not own_wgetrc:
        changes["WGETRC"] = str(trust.wgetrc)
    return changes


def _java_options(before: str, proxy: Proxy, trust: TrustFiles, direct: str) -> str:
    """Java's networking properties. The last mention of a property counts, so ours come last."""
    properties = {
        "http.proxyHost": proxy.host,
        "http.proxyPort": str(proxy.port),
        "https.proxyHost": proxy.host,
        "https.proxyPort": str(proxy.port),
        "http.nonProxyHosts": _java_hosts(direct),
        "javax.net.ssl.trustStore": str(trust.java_store),
        "javax.net.ssl.trustStoreType": "PKCS12",
        "javax.net.ssl.trustStorePassword": TRUST_STORE_PASSWORD,
    }
    ours = (_quoted(f"-D{name}={value}") for name, value in properties.items())
    return " ".join([*([before] if before else []), *ours])


def _java_hosts(no_proxy: str) -> str:
    """`localhost,.example.com,::1` → `localhost|*.example.com|[::1]`. Ports and networks have no form in Java."""
    hosts = [entry.strip() for entry in no_proxy.split(",") if entry.strip()]
    return "|".join(_java_host(host) for host in hosts)


def _java_host(host: str) -> str:
    if host.startswith("."):
        return f"*{host}"
    return f"[{host}]" if re.fullmatch(r"[0-9A-Fa-f.]*:[0-9A-Fa-f:.]+", host) else host


def _quoted(option: str) -> str:
    """The Java launcher splits at white space, outside of quotes."""
    return f'"{option}"' if re.search(r"\s", option) else option


def _both_cases(variables: Mapping[str, str]) -> dict[str, str]:
    """curl reads `http_proxy` in lower case only, others only the upper case."""
    return {**variables, **{name.lower(): value for name, value in variables.items()}}


def _first(*values: str | None) -> str:
    return next(value for value in values if value is not None)


def _has_more(parts: SplitResult) -> bool:
    return parts.path not in ("", "/") or bool(parts.query or parts.fragment)
