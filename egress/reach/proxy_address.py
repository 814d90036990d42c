"""`upstream_proxy` of egress.toml: where the other proxy is, and what it wants to see."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self
from urllib.parse import unquote, urlsplit

from keyd.configfile import ConfigError

_FORM: Final = "write `http://host:port`, or `http://user:password@host:port`"


@dataclass(frozen=True, slots=True)
class ProxyAddress:
    """Where the upstream proxy is, and the credential it wants."""

    host: str
    port: int
    credential: str | None = field(default=None, repr=False)
    """`user:password`."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """`http://host:port` or `http://user:password@host:port`. Raises ValueError, which quotes no password."""
        try:
            url = urlsplit(text)
            port = url.port
        except ValueError:
            raise ValueError(_FORM) from None
        if (
            url.scheme != "http"
            or not url.hostname
            or not port
            or url.path.strip("/")
            or url.query
            or url.fragment
        ):
            raise ValueError(_FORM)
        credential = None
        if url.username is not None:
            credential = f"{unquote(url.username)}:{unquote(url.password or '')}"
        return cls(url.hostname, port, credential)

    def with_credential_of(self, file: Path) -> Self:
        """Raises ConfigError if `file` holds none."""
        return replace(self, credential=_read_credential(file))

    @property
    def authorization(self) -> str | None:
        """The value of Proxy-Authorization (RFC 7617)."""
        if self.credential is None:
            return None
        return "Basic " + base64.b64encode(self.credential.encode()).decode()


def _read_credential(file: Path) -> str:
    """`user:password` from the first line of `file`. Raises ConfigError."""
    try:
        if file.stat().st_mode & 0o007:
            raise ConfigError(f"{file} can be read by everybody", f"run `chmod 600 {file}`")
        credential = file.read_text().strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        fault = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigError(
            f"cannot read upstream_proxy_credential_file {file}: {fault}",
            "name a file that the user of osmoda-egress can read, with one line `user:password`",
        ) from None
    if ":" not in credential or not credential.isprintable():
        raise ConfigError(f"{file} holds no credential", "write one line `user:password` into it")
    return credential
