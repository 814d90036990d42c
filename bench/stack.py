"""keyd with a wallet and a budget that no bench can spend, and the SDK that it is measured against."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.process import Worker, resident_mb
from bench.signing import DOMAIN, NETWORK, SELLER
from demo.programs import Program, ProgramFailed
from demo.stack import Egress, Keyd

ROOT = Path(__file__).resolve().parents[1]
PRODUCT_BIN = ROOT / ".cache/bench/venv-product/bin"
"""osmoda-x402 as users have it, without the tools of development."""
SDK_PYTHON = ROOT / ".cache/bench/venv-sdk/bin/python"
SDK_SCRIPT = ROOT / "bench/peers/sdk.py"
START_TIMEOUT_S = 30.0
X402: Mapping[str, Any] = {
    "daily_budget_usd": "1000000.00",
    "max_payment_usd": "0.10",
    "networks": [NETWORK],
    "allowed_domains": [DOMAIN],
    "quarantine_after": 0,  # what is only signed for a figure is never delivered
}


@contextmanager
def keyd_with_wallet(folder: Path, **x402: Any) -> Iterator[Keyd]:
    """A running keyd that pays `bench.signing.DOMAIN`. `x402` overrides settings."""
    folder.mkdir(parents=True, exist_ok=True)
    keyd = Keyd(folder, {**X402, **x402})
    keyd.program = Program("keyd", [product("osmoda-keyd"), "--config", keyd.config], keyd.log)
    keyctl(keyd, "init")
    keyd.start()
    try:
        keyctl(keyd, "wallet", "create", "default")
        yield keyd
    finally:
        keyd.stop()


def start_and_stop(keyd: Keyd) -> tuple[float, float]:
    """Seconds from exec of a keyd that is stopped to READY=1 (sd_notify), and MB resident then."""
    address = keyd.folder / "notify"
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(address))
        notified.settimeout(START_TIMEOUT_S)
        began = time.perf_counter()
        process = subprocess.Popen(
            [product("osmoda-keyd"), "--config", keyd.config],
            env={**os.environ, "NOTIFY_SOCKET": str(address)},
            stderr=subprocess.DEVNULL,
        )
        try:
            while not notified.recv(4096).startswith(b"READY=1"):
                pass
            return time.perf_counter() - began, resident_mb(process.pid)
        finally:
            process.terminate()
            process.wait(START_TIMEOUT_S)


def keyctl(keyd: Keyd, *arguments: str) -> str:
    done = keyd.keyctl(*arguments)
    if done.returncode != 0:
        raise ProgramFailed(f"keyctl {' '.join(arguments)}: {done.stderr}")
    return done.stdout


@contextmanager
def egress_for(keyd: Keyd) -> Iterator[Egress]:
    """A running egress beside `keyd`. Sellers are on loopback, which the guard otherwise keeps programs away from."""
    egress = Egress(keyd.folder, keyd.socket, {"allow_private": ["127.0.0.1"]})
    egress.program = Program("egress", [product("osmoda-egress"), "--config", egress.config], egress.log)
    egress.start()
    try:
        yield egress
    finally:
        egress.stop()


@contextmanager
def seller(folder: Path, name: str = "seller", *, away_ms: float = 0) -> Iterator[str]:
    """URL of a running bench/peers/seller.py, whose answers take `away_ms` longer, as through a network."""
    command = [sys.executable, "-m", "bench.peers.seller", "--pay-to", SELLER, "--away-ms", str(away_ms)]
    program = Program("seller", command, folder / f"{name}.log")
    try:
        yield str(program.start()["url"])
    finally:
        program.stop()


def product(command: str) -> Path:
    """One of our commands. Raises FileNotFoundError if they are not installed."""
    if not (path := PRODUCT_BIN / command).exists():
        raise FileNotFoundError(f"{path} is missing: run `make bench`")
    return path


def sdk(*, coincurve: bool = True) -> Worker:
    """The official SDK. Raises FileNotFoundError if it is not installed.

    `coincurve`: with the package that eth_account signs fast with if it finds it. No package asks for it: after
    `pip install "x402[evm,httpx]"` eth_account signs in Python.
    """
    if not SDK_PYTHON.exists():
        raise FileNotFoundError("the peers of the benches are not installed: run `make bench`")
    backend = "CoinCurveECCBackend" if coincurve else "NativeECCBackend"
    return Worker([SDK_PYTHON, SDK_SCRIPT], {"ECC_BACKEND_CLASS": f"eth_keys.backends.{backend}"})


def sdk_versions() -> dict[str, str]:
    with sdk() as worker:
        versions: dict[str, str] = worker.ask({"versions": None})
        return versions
