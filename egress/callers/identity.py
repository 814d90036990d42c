"""Who asks: for each connection the user that the kernel names, or the name that goes with a proxy token.

keyd pays for nobody whom it does not know. The kernel knows the programs of this machine; a container or
another host has to say who it is (`Proxy-Authorization: Basic`, RFC 7617), and then that counts, because the
kernel would only name the program that forwards its connections.

A program may also show the token of a session (`session:TOKEN`), which its user opened at keyd. That proves nothing
here: keyd is told the token's SHA-256 beside the user that the kernel names, and compares.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from mitmproxy import http
from mitmproxy.connection import Client

from egress.callers import netlink, processes
from egress.callers.netlink import NetlinkUnavailable, Owner
from keyd import api

PROXY_AUTHORIZATION: Final = "Proxy-Authorization"
_CHALLENGE: Final = 'Basic realm="osmoda-egress", charset="UTF-8"'
_CREDENTIALS: Final = "osmoda.credentials"
_SESSION_TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]{43}")
"""32 bytes in base64url, as keyd makes them."""
_NOBODY: Final = bytes(hashlib.sha256().digest_size)
"""The digest of no token that anybody knows: an unknown name takes as long as a wrong token."""

_log = structlog.get_logger("egress.identity")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a request said of itself in Proxy-Authorization, without the token."""

    name: str | None = None
    """Proved by its token."""
    session: str | None = None
    """SHA-256 (hex) of a session's token; whose it is, keyd knows."""


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for a payment, as keyd is told."""

    caller: api.Caller | None
    session: str | None = None
    """SHA-256 (hex) of a session's token."""


class Identity:
    """mitmproxy addon, in front of the one that pays: it refuses wrong tokens before anything else happens."""

    def __init__(self, tokens: Mapping[str, bytes], *, look_for_process: bool) -> None:
        """`tokens`: name → SHA-256 of its token; none: of credentials only those of sessions are looked at."""
        self._tokens = tokens
        self._look_for_process = look_for_process
        self._overflow_uid = overflow_uid()
        self._owners: dict[str, Owner] = {}
        self._users: dict[str, api.Caller] = {}
        """Connection → what was said of its owner when it was first asked for."""
        self._tunnels: dict[str, Credentials] = {}
        """Connection → the credentials of its CONNECT; they hold for all that runs inside."""
        self._said_unavailable = False

    async def asker(self, flow: http.HTTPFlow) -> Asker:
        """Who made this request, and the session that it is said to be made in."""
        return Asker(await self.caller(flow), self._credentials(flow).session)

    async def caller(self, flow: http.HTTPFlow) -> api.Caller | None:
        """Who made this request; None: nobody can say, so keyd will not pay for it."""
        connection = flow.client_conn.id
        if (name := self._credentials(flow).name) is not None:
            return api.Caller(name=name)
        owner = self._owners.get(connection)
        if owner is None:
            return None
        if (known := self._users.get(connection)) is not None:
            return known
        caller = await self._user(owner)
        if connection in self._owners:  # it may have ended meanwhile, and would never be forgotten
            self._users[connection] = caller
        return caller

    def told_apart(self, flow: http.HTTPFlow) -> tuple[str, Credentials]:
        """Different for the requests of any two callers; at once, and without the process."""
        return self.owner(flow.client_conn), self._credentials(flow)

    def _credentials(self, flow: http.HTTPFlow) -> Credentials:
        own = flow.metadata.get(_CREDENTIALS)
        return own if own is not None else self._tunnels.get(flow.client_conn.id, Credentials())

    def owner(self, client: Client) -> str:
        """Whom an open connection counts for: a user of this machine, else the host that it comes from."""
        owner = self._owners.get(client.id)
        return str(client.peername[0]) if owner is None else f"uid:{owner.uid}"

    async def _user(self, owner: Owner) -> api.Caller:
        found = None
        if self._look_for_process:
            found = await asyncio.to_thread(processes.find_process, owner.uid, owner.inode)
        if found is None:
            return api.Caller(uid=owner.uid)
        return api.Caller(uid=owner.uid, pid=found.pid, unit=found.unit)

    # -- connections ----------------------------------------------------------------------------------------

    def client_connected(self, client: Client) -> None:
        """Ask now: later another user's connection attempt may have taken the place of one that is closed."""
        owner = self._owner(client)
        if owner is not None:
            self._owners[client.id] = owner

    def client_disconnected(self, client: Client) -> None:
        for known in (self._owners, self._users, self._tunnels):
            known.pop(client.id, None)

    def _owner(self, client: Client) -> Owner | None:
        try:
            owner = netlink.socket_owner(client.peername[:2], client.sockname[:2])
        except (NetlinkUnavailable, ValueError) as error:
            if not self._said_unavailable:
                _log.error("egress.identity.unavailable", error=str(error))
            self._said_unavailable = True
            return None
        if owner is None or owner.uid == self._overflow_uid:
            return None
        return owner

    # -- tokens ---------------------------------------------------------------------------------------------

    def http_connect(self, flow: http.HTTPFlow) -> None:
        credentials = self._authenticate(flow)
        if flow.response is None:
            self._tunnels[flow.client_conn.id] = credentials

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        if flow.client_conn.id not in self._tunnels:  # inside a tunnel the header is not meant for us
            flow.metadata[_CREDENTIALS] = self._authenticate(flow)

    def _authenticate(self, flow: http.HTTPFlow) -> Credentials:
        """What the request shows. A wrong proof is answered here, and goes no further."""
        header = flow.request.headers.get(PROXY_AUTHORIZATION)
        if header is None:
            return Credentials()
        if (session := session_digest(header)) is not None:
            return Credentials(session=session)
        if not self._tokens and _basic(header)[0] != api.SESSION_USER:
            return Credentials()
        name = verified_name(header, self._tokens)
        if name is None:
            flow.response = _refusal()
            _log.warning("egress.identity.token_refused", peer=flow.client_conn.peername[0])
        return Credentials(name=name)


def verified_name(header: str, tokens: Mapping[str, bytes]) -> str | None:
    """The name in a `Basic` header if its token is right, in a time that says nothing about the token."""
    name, token = _basic(header)
    right = hmac.compare_digest(hashlib.sha256(token).digest(), tokens.get(name, _NOBODY))
    return name if right else None


def session_digest(header: str) -> str | None:
    """SHA-256 (hex) of the token in a `Basic` header whose user name is `session`."""
    name, token = _basic(header)
    if name != api.SESSION_USER or _SESSION_TOKEN.fullmatch(token) is None:
        return None
    return hashlib.sha256(token).hexdigest()


def _basic(header: str) -> tuple[str, bytes]:
    """User name and password (RFC 7617); an empty name, which nobody has, for what is none."""
    scheme, _, encoded = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return "", b""
    try:
        name, colon, token = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (name.decode("utf-8"), token) if colon else ("", b"")
    except ValueError:  # not base64, not even ASCII, or a name that is no UTF-8
        return "", b""


def overflow_uid(proc: Path = Path("/proc")) -> int | None:
    """The uid that stands for every user whom our user namespace does not know (user_namespaces(7)).

    None in the first user namespace, which knows all: there it is a user like any other, mostly `nobody`.
    """
    try:
        if (proc / "self/uid_map").read_text().split() == ["0", "0", "4294967295"]:
            return None
        return int((proc / "sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return 65534


def _refusal() -> http.Response:
    return http.Response.make(
        407,
        b"osmoda-egress: the name or token in Proxy-Authorization is wrong ([[callers]] in egress.toml)\n",
        {"Content-Type": "text/plain; charset=utf-8", "Proxy-Authenticate": _CHALLENGE},
    )
