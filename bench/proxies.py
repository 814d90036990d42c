"""The proxies that are measured: ours, mitmdump of the same version, and tinyproxy if the machine has it."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from mitmproxy import certs

from bench.client import Route
from bench.harness import Stage
from demo.programs import BIN, Program
from demo.stack import Egress

PEERS = Path(__file__).parent / "peers"


@dataclass(frozen=True, slots=True)
class Authority:
    """What the origin shows over https."""

    ca: Path
    certificate: Path
    """With its key."""


def make_authority(folder: Path) -> Authority:
    key, ca = certs.create_ca("bench", "bench CA", 2048)
    leaf = certs.dummy_cert(key, ca, "127.0.0.1", [x509.IPAddress(ip_address("127.0.0.1"))])
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    made = Authority(folder / "ca.pem", folder / "origin.pem")
    made.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    made.certificate.write_bytes(pem + leaf.to_pem())
    return made


class Running:
    """A proxy that listens; `trust` verifies what its clients see of an https origin."""

    def __init__(self, name: str, port: int, pid: int, trust: Path) -> None:
        self.name, self.port, self.pid = name, port, pid
        self._trust = ssl.create_default_context(cafile=str(trust))

    def route(self, origin: int, *, tls: bool) -> Route:
        return Route(origin, self._trust if tls else None, self.port)


def origin(stage: Stage, authority: Authority | None = None) -> int:
    """A running origin's port."""
    scheme = "https" if authority else "http"
    command: list[str | Path] = [BIN / "python", PEERS / "origin.py"]
    if authority:
        command += ["--certificate", authority.certificate]
    program = Program("origin", command, stage.folder / f"{scheme}.log")
    port: int = program.start()["port"]
    stage.cleanup.callback(program.stop)
    return port


def quick_origin(stage: Stage) -> int:
    """The port of one that takes next to nothing of the processor."""
    program = Program(
        "quick_origin", [BIN / "python", PEERS / "quick_origin.py"], stage.folder / "quick_origin.log"
    )
    port: int = program.start()["port"]
    stage.cleanup.callback(program.stop)
    return port


def egress(stage: Stage, authority: Authority, *, intercept: bool = True, workers: int = 1) -> Running:
    """Ours. Without a keyd: what is not paid never asks it. `intercept`: look into TLS, or tunnel it."""
    name = f"{'intercepting' if intercept else 'tunnelling'}-{workers}-{len(list(stage.folder.iterdir()))}"
    program = egress_program(stage, authority, name, intercept=intercept, workers=workers)
    program.start()
    stage.cleanup.callback(program.stop)
    port = int(program.url.rpartition(":")[2])
    trust = program.ca_certificate if intercept else authority.ca
    return Running("egress", port, program.program.pid, trust)


def egress_program(
    stage: Stage, authority: Authority, name: str, *, intercept: bool = True, workers: int = 1
) -> Egress:
    """Not started."""
    folder = stage.folder / name
    folder.mkdir()
    settings = {
        "intercept": "all" if intercept else "payable",
        "allow_private": ["127.0.0.1"],
        "upstream_ca_file": str(authority.ca),
        "workers": workers,
    }
    return Egress(folder, folder / "none.sock", settings)


def mitmdump(stage: Stage, authority: Authority, *, intercept: bool = True) -> Running:
    """Stock, and quiet: nothing is printed for a flow."""
    folder, port = stage.folder / f"mitmdump-{intercept}", free_port()
    options: dict[str, object] = {
        "confdir": folder,
        "ssl_verify_upstream_trusted_ca": authority.ca,
        "flow_detail": 0,
    }
    command: list[object] = [BIN / "mitmdump", "-q", "--listen-host", "127.0.0.1", "--listen-port", port]
    command += [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
    if not intercept:
        command += ["--ignore-hosts", ".*"]
    pid = _start(stage, command, port)
    trust = folder / "mitmproxy-ca-cert.pem" if intercept else authority.ca
    return Running("mitmdump --ignore-hosts" if not intercept else "mitmdump", port, pid, trust)


def tinyproxy(stage: Stage, authority: Authority) -> Running | None:
    """Debian's; None if it is not installed."""
    if shutil.which("tinyproxy") is None:
        return None
    port, config = free_port(), stage.folder / "tinyproxy.conf"
    config.write_text(f"Port {port}\nListen 127.0.0.1\nTimeout 600\nMaxClients 200\nLogLevel Error\n")
    return Running("tinyproxy", port, _start(stage, ["tinyproxy", "-d", "-c", config], port), authority.ca)


def free_port() -> int:
    """These peers cannot choose one by themselves and say which."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _start(stage: Stage, command: Sequence[object], port: int) -> int:
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    stage.cleanup.callback(process.wait)
    stage.cleanup.callback(process.kill)
    _wait_for(port, process)
    return process.pid


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.01)
    raise TimeoutError(f"{process.args!r} does not listen")
