"""What lies around keyd: the proxy, its certificate authority, and the servers that know the chain."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from keyd.cli.doctor.accounts import EGRESS
from keyd.cli.doctor.files import AS_ROOT
from keyd.cli.doctor.findings import Finding, fault, good, note, skipped
from keyd.cli.subprocesses import Runner

CONNECT_LIMIT_S: Final = 3.0
ANSWER_LIMIT_S: Final = 10.0
MAX_METRICS: Final = 1024 * 1024  # every series of a proxy with many workers
MAX_ANSWER: Final = 64 * 1024  # a block header without its transactions is below 4 KB
CLOCK_APART_S: Final = 120
"""keyd's margin after `validBefore`. The newest block of the networks in use is seconds old."""
_DIRECTLY: Final = build_opener(ProxyHandler({}))
"""Past the proxy that this very shell may be set up for."""
FENCE_TABLE: Final = "inet osmoda_fence"
"""As egress.fence names it."""
EXPIRES_SOON_DAYS: Final = 30


def check_proxy(host: str, port: int) -> Iterator[Finding]:
    """Does somebody listen where programs will look for egress?"""
    try:
        socket.create_connection((host, port), timeout=CONNECT_LIMIT_S).close()
    except OSError as error:
        what = f"nothing answers at {host}:{port} ({(error.strerror or 'no answer').lower()})"
        yield fault("egress", what, "systemctl start osmoda-egress; journalctl -u osmoda-egress")
    else:
        yield good("egress", f"listens on {host}:{port}")


def check_link(egress_socket: str, keyd_socket: str, peers: Sequence[str | int]) -> Iterator[Finding]:
    """Do the two configurations mean the same socket, and does keyd take egress's user for egress?"""
    if egress_socket != keyd_socket:
        what = f"egress asks {egress_socket}, keyd listens on {keyd_socket}"
        yield fault(
            "egress", what, "write the same path as keyd_socket in egress.toml and socket in keyd.toml"
        )
    if EGRESS not in peers:
        remedy = f'egress = ["{EGRESS}"] below [peers] in keyd.toml, then restart keyd'
        yield fault("egress", f"keyd gives the user {EGRESS} no right to ask for payments", remedy)


def check_keyd_up(metrics_listen: str | None) -> Iterator[Finding]:
    """What egress itself says of its link to keyd, if it was asked to say it (docs/metrics.md)."""
    if metrics_listen is None:
        return
    try:
        with _DIRECTLY.open(f"http://{metrics_listen}/metrics", timeout=CONNECT_LIMIT_S) as answer:
            text = answer.read(MAX_METRICS).decode("utf-8", "replace")
    except (OSError, ValueError, HTTPException) as error:
        what = f"egress's metrics do not answer at {metrics_listen} ({type(error).__name__})"
        yield note("egress", what, "systemctl restart osmoda-egress")
        return
    values = re.findall(r"^osmoda_egress_keyd_up(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE)
    if values and all(float(value) == 1 for value in values):
        yield good("egress", "says that keyd answers it")
    else:
        remedy = "is keyd up? Otherwise journalctl -u osmoda-egress, and [peers] egress in keyd.toml"
        yield fault("egress", "says that keyd does not answer it: nothing is paid", remedy)


def check_fence(users: Sequence[str], run: Runner, *, is_root: bool) -> Iterator[Finding]:
    """Are the rules loaded that let `users` out through egress alone?"""
    if not users:
        return
    if not is_root:
        yield skipped("fence", "only root can see the packet filter", AS_ROOT)
        return
    done = run(["nft", "list", "table", *FENCE_TABLE.split()])
    if done is None:
        yield fault("fence", "nft is missing, and nobody is fenced in", "apt-get install nftables")
    elif done.code != 0:
        what = f"{', '.join(users)} can reach the network past egress"
        yield fault(
            "fence",
            what,
            "systemctl enable --now osmoda-fence, or restart it if another tool took its rules away",
        )
    else:
        yield good("fence", f"{', '.join(users)} reach the network through egress alone")


def check_ca(certificate: Path, bundle: Path | None, now: datetime) -> Iterator[Finding]:
    """Is egress's authority there and valid, and does the whole system trust it? `bundle`: the system's."""
    try:
        ours = x509.load_pem_x509_certificate(certificate.read_bytes())
    except FileNotFoundError:
        yield fault("ca", f"{certificate} is missing", "systemctl restart osmoda-egress, which makes it")
        return
    except OSError as error:
        yield skipped("ca", f"{certificate}: {(error.strerror or 'unreadable').lower()}")
        return
    except ValueError:
        yield fault("ca", f"{certificate} holds no certificate", "systemctl restart osmoda-egress")
        return
    days = (ours.not_valid_after_utc - now).days
    renew = (
        "stop osmoda-egress, move /var/lib/osmoda-egress/ca away, and start it: it makes a new one to trust"
    )
    if days < 0 or now < ours.not_valid_before_utc:
        yield fault("ca", f"{certificate} is not valid now", renew)
        return
    if days < EXPIRES_SOON_DAYS:
        yield note("ca", f"{certificate} expires in {days} days", renew)
    if _trusted(ours, bundle):
        yield good("ca", "the whole system trusts it")
    else:
        remedy = "start programs with keyctl x402 run, or keyctl ca install for all of them"
        yield note("ca", "programs that do not know egress's authority refuse its certificates", remedy)


def _trusted(ours: x509.Certificate, bundle: Path | None) -> bool:
    """Compared as text: some authorities of a bundle are too odd to be parsed."""
    try:
        text = b"" if bundle is None else bundle.read_bytes()
    except OSError:
        return False
    lines = ours.public_bytes(Encoding.PEM).split(b"\n")[1:-2]
    return b"".join(lines) in text.replace(b"\r", b"").replace(b"\n", b"")


@dataclass(frozen=True, slots=True)
class Server:
    """An RPC server of reconcile.toml. Only its host may be shown: path or password are often a key."""

    network: str
    url: str

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "?"


def servers(reconcile: Mapping[str, Any]) -> list[Server]:
    """Those of a reconcile.toml that `osmoda-reconcile --check` has found sound."""
    return [
        Server(table["network"], url)
        for table in reconcile.get("networks", [])
        for url in table.get("rpc", [])
    ]


def check_networks(paid: Sequence[str], listed: Sequence[Server]) -> Iterator[Finding]:
    """Is there a server for each network that payments are made on?"""
    for network in sorted(set(paid) - {server.network for server in listed}):
        remedy = f"a [[networks]] table for {network} in reconcile.toml"
        yield note("chain", f"payments on {network} are never looked for on the chain", remedy)


def check_servers(listed: Sequence[Server], now: datetime) -> list[Finding]:
    """Asks all servers at once for chain id and newest block."""

    async def ask() -> list[list[Finding]]:
        limit = aiohttp.ClientTimeout(total=ANSWER_LIMIT_S)
        async with aiohttp.ClientSession(timeout=limit) as session:
            return await asyncio.gather(*(_ask(session, server, now) for server in listed))

    return [finding for findings in asyncio.run(ask()) for finding in findings]


async def _ask(session: aiohttp.ClientSession, server: Server, now: datetime) -> list[Finding]:
    try:
        chain_id = int(await _call(session, server.url, "eth_chainId"), 16)
        block = await _call(session, server.url, "eth_getBlockByNumber", "latest", False)
        made = datetime.fromtimestamp(int(block["timestamp"], 16), UTC)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        remedy = "is this machine online? Otherwise name another server in reconcile.toml"
        return [fault("chain", f"{server.host} does not answer ({type(error).__name__})", remedy)]
    except (ValueError, TypeError, KeyError, OverflowError):
        remedy = "correct the URL in reconcile.toml, or name another server"
        return [fault("chain", f"{server.host} does not answer as an RPC server", remedy)]
    return list(judge_server(server, chain_id, (now - made).total_seconds()))


def judge_server(server: Server, chain_id: int, age_s: float) -> Iterator[Finding]:
    """Is it the right network, and do its newest block and this clock agree? Pure."""
    if server.network != f"eip155:{chain_id}":
        what = f"{server.host} is of eip155:{chain_id}, and is listed for {server.network}"
        yield fault("chain", what, "correct reconcile.toml")
    elif age_s < -CLOCK_APART_S:
        what = f"the newest block of {server.network} is {int(-age_s)} s in the future of this clock"
        yield fault("chain", what, "set the clock, and let systemd-timesyncd or chrony keep it")
    elif age_s > CLOCK_APART_S:
        what = f"the newest block that {server.host} knows of {server.network} is {int(age_s)} s old"
        yield note("chain", what, "compare the clock (timedatectl) and another server")
    else:
        yield good("chain", f"{server.host} answers for {server.network}")


async def _call(session: aiohttp.ClientSession, url: str, method: str, *params: object) -> Any:
    """The result of one JSON-RPC call. Raises ValueError or KeyError for what is none."""
    question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    text = bytearray()
    async with session.post(url, json=question, allow_redirects=False) as response:
        async for part in response.content.iter_any():
            text += part
            if len(text) > MAX_ANSWER:
                raise ValueError("an answer without end")
    return json.loads(text)["result"]
