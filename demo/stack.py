"""keyd and egress, each with a configuration file and a state folder of its own, for one user with every role."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from demo.programs import BIN, Program


class Keyd:
    """osmoda-keyd below `folder`. `x402` is the [x402] section of its configuration."""

    def __init__(self, folder: Path, x402: Mapping[str, Any]) -> None:
        self.folder = folder
        self.config = folder / "keyd.toml"
        self.socket = folder / "keyd.sock"
        self.state = folder / "keyd"
        self.ledger = self.state / "ledger.sqlite3"
        self.log = folder / "keyd.log"
        self._x402 = dict(x402)
        self._peers = {role: [os.getuid()] for role in ("egress", "admin", "agent", "reconciler")}
        self.configure()
        self.program = Program("keyd", [BIN / "osmoda-keyd", "--config", self.config], self.log)

    def configure(self, **x402: Any) -> None:
        """Writes keyd.toml, with `x402` on top of what was set before; a running keyd does not see it."""
        self._x402 |= x402
        settings = {
            "socket": str(self.socket),
            "state_dir": str(self.state),
            "kek_file": str(self.folder / "kek"),
            "peers": self._peers,
            "x402": self._x402,
        }
        self.config.write_text(tomli_w.dumps(settings))

    def take_away(self, *roles: str) -> None:
        """From this user; a running keyd does not see it."""
        self._peers |= {role: [] for role in roles}
        self.configure()

    def start(self) -> None:
        self.program.start()

    def stop(self) -> None:
        self.program.stop()

    def keyctl(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Runs keyctl against this keyd."""
        return subprocess.run(
            [BIN / "keyctl", "--config", self.config, *arguments],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OSMODA_KEYD_SOCKET": str(self.socket)},
            timeout=60,
            check=False,
        )


class Egress:
    """osmoda-egress below `folder`. `settings` are top-level keys of its configuration."""

    def __init__(self, folder: Path, keyd_socket: Path, settings: Mapping[str, Any]) -> None:
        self.config = folder / "egress.toml"
        self.state = folder / "egress"
        self.ca_certificate = self.state / "ca-cert.pem"
        self.log = folder / "egress.log"
        self.url = ""
        """Of the proxy, once it is started."""
        always = {"listen": "127.0.0.1:0", "keyd_socket": str(keyd_socket), "state_dir": str(self.state)}
        self.config.write_text(tomli_w.dumps({**always, **settings}))
        self.program = Program("egress", [BIN / "osmoda-egress", "--config", self.config], self.log)

    def start(self) -> None:
        ready = self.program.start()
        self.url = f"http://{ready['host']}:{ready['port']}"

    def stop(self) -> None:
        self.program.stop()
