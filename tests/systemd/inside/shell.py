"""What the other programs in this folder share: commands and their results, units, files, and what is paid."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROXY = "http://127.0.0.1:19999"
SELLER_PORT = 4021
STATE = Path("/var/lib/osmoda-keyd")
LIMIT_S = 300.0
"""For one command or one change; only what hangs takes so long, however slow the machine."""


def done(*command: str | Path) -> dict[str, Any]:
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    return {"code": result.returncode, "out": result.stdout, "err": result.stderr}


def run(*command: str | Path, check: bool = True) -> None:
    result = done(*command)
    if check and result["code"] != 0:
        raise RuntimeError(f"{command}: {result}")


def output(*command: str | Path) -> str:
    text: str = done(*command)["out"]
    return text


def journal(*options: str) -> str:
    """What the journal holds of this boot, everything that was said until now included."""
    run("journalctl", "--sync")
    return output("journalctl", "-b", *options)


def restart(*units: str) -> None:
    """Anew. On a fast machine this is more often than systemd lets a unit start by itself (StartLimitBurst=)."""
    for unit in units:
        run("systemctl", "reset-failed", unit, check=False)
    run("systemctl", "restart", *units)


def show(unit: str, name: str) -> str:
    return output("systemctl", "show", "--value", "-p", name, unit).strip()


def main_pid(unit: str) -> int:
    return int(show(unit, "MainPID"))


def keyd_pid() -> int:
    return main_pid("osmoda-keyd")


def proxy_listens() -> bool:
    return bool(done("curl", "-s", "-x", PROXY, "http://127.0.0.1:1/")["code"] == 0)


def policy() -> dict[str, Any]:
    view: dict[str, Any] = json.loads(output("osmoda-keyctl", "x402", "policy", "--json"))
    return view


def spent() -> str:
    return str(policy()["spent_today"])


def callers() -> list[str]:
    """Whom the ledger names as having paid."""
    return [entry["caller"] for entry in policy()["by_caller"]]


def replace(file: str, pattern: str, text: str) -> None:
    path = Path(file)
    new, count = re.subn(pattern, text, path.read_text(), flags=re.MULTILINE)
    if not count:
        raise RuntimeError(f"{file} has no {pattern}")
    path.write_text(new)


def wait_for_proxy() -> None:
    wait_for(lambda: done("curl", "-s", "-x", PROXY, "http://127.0.0.1:1/")["code"] == 0)


def wait_for(true: Callable[[], bool]) -> None:
    """systemd tells nobody outside D-Bus of a unit's changes, so this asks, ten times a second."""
    deadline = time.monotonic() + LIMIT_S
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError("waited in vain")
        time.sleep(0.1)


def doctor() -> dict[str, Any]:
    """What keyctl doctor finds, asked by root; there is no chain in this machine."""
    return done("osmoda-keyctl", "doctor", "--json", "--offline")


def pay(user: str, path: str) -> dict[str, Any]:
    """What plain curl of an ordinary user gets through the proxy."""
    return done(
        *(
            "runuser",
            "-u",
            user,
            "--",
            "curl",
            "-sS",
            "-i",
            "-x",
            PROXY,
            f"http://127.0.0.1:{SELLER_PORT}{path}",
        )
    )


@contextmanager
def changed(file: str, pattern: str, text: str) -> Iterator[None]:
    """A configuration file that says something else, for a while."""
    path = Path(file)
    before = path.read_text()
    replace(file, pattern, text)
    try:
        yield
    finally:
        path.write_text(before)
