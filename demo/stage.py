"""What a demo stands on: a folder, commands shown as a person would type them, and the three programs."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from demo.programs import BIN, Program, ProgramFailed
from demo.stack import Egress, Keyd

SELLER_ADDRESS = "0x90F79bf6EB2c4f870365E785982E1f101E93b906"
"""One of the public development addresses that every local test chain has."""
X402 = {"daily_budget_usd": "1.00", "max_payment_usd": "0.10", "networks": ["eip155:84532"]}


class StepFailed(Exception):
    """A step of the demo did not show what it should."""


class Stage:
    """Runs commands in the demo's folder and shows them as a person would type them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            # no proxy of the machine's own may stand in between, and curl must not skip ours for loopback
            **{k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")},
            "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "OSMODA_KEYD_SOCKET": str(folder / "keyd.sock"),
        }

    def headline(self, text: str) -> None:
        print(f"\n{_bold(text)}", flush=True)

    def show(self, command: str) -> None:
        print(f"  $ {command}", flush=True)

    def run(self, command: str) -> str:
        """Shows and runs `command`; its output. Raises StepFailed with its errors."""
        self.show(command)
        return self.output(command)

    def output(self, command: str, *, with_errors: bool = False) -> str:
        """The same without showing it. No shell takes part. `with_errors`: what it says on stderr too, at the end."""
        done = subprocess.run(
            shlex.split(command),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise StepFailed(f"`{command}` ended with {done.returncode}: {done.stdout}{done.stderr.strip()}")
        return done.stdout + done.stderr if with_errors else done.stdout

    def say(self, text: str) -> None:
        for line in text.strip().splitlines():
            print(f"    {line}", flush=True)


def perform(play: Callable[[Stage, ExitStack], None]) -> int:
    """Plays in a temporary folder, and leaves nothing of it. Exit code 0 only if every step showed what it should."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="osmoda-demo-") as folder, ExitStack() as running:
            play(Stage(Path(folder)), running)
    except (StepFailed, ProgramFailed, subprocess.TimeoutExpired) as error:
        print(f"\ndemo: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: interrupted; everything is stopped and removed.", file=sys.stderr)
        return 130
    print("\nNothing is left running, and nothing on disk.")
    return 0


def start_seller(stage: Stage, running: ExitStack) -> str:
    command = [sys.executable, "-m", "demo.seller", "--pay-to", SELLER_ADDRESS]
    seller = Program("seller", command, stage.folder / "seller.log")
    stage.show(f"python -m demo.seller --pay-to {SELLER_ADDRESS} &")
    running.callback(seller.stop)
    return str(seller.start()["url"])


def start_keyd(stage: Stage, running: ExitStack, api: str) -> Keyd:
    keyd = Keyd(stage.folder, {**X402, "allowed_domains": [api]})
    stage.run("keyctl --config keyd.toml init")
    stage.show("osmoda-keyd --config keyd.toml &")
    running.callback(keyd.stop)
    keyd.start()
    stage.say(stage.run("keyctl wallet create default"))
    stage.say(
        f"keyd.toml allows {api}, ${X402['max_payment_usd']} a payment, ${X402['daily_budget_usd']} a day"
    )
    return keyd


def start_egress(stage: Stage, running: ExitStack, keyd: Keyd) -> Egress:
    # The guard keeps programs away from private addresses; the demo's API is on one.
    egress = Egress(stage.folder, keyd.socket, {"allow_private": ["127.0.0.1"]})
    stage.show("osmoda-egress --config egress.toml &")
    running.callback(egress.stop)
    egress.start()
    return egress


def _bold(text: str) -> str:
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
