"""keyd with a funded wallet, egress in front of it, and what a test asks them."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.stack import Egress, Keyd

NETWORK = "eip155:84532"
OUTCOMES_WITHIN_S = 90.0
"""Egress reports within milliseconds, and tries again for some seconds if keyd does not answer: this ends what hangs."""


class Payer:
    """One keyd, one egress, one wallet. Start it with `with`."""

    def __init__(
        self,
        folder: Path,
        origins: Sequence[str],
        private_key: str,
        upstream_ca: Path | None = None,
        egress: Mapping[str, Any] | None = None,
        **x402: object,
    ) -> None:
        """`origins` are the entries of allowed_domains; `x402` overrides settings of keyd's [x402], `egress`
        those of egress.toml."""
        self.folder = folder
        self._private_key = private_key
        limits = {"daily_budget_usd": "10.00", "max_payment_usd": "0.10"}
        self.keyd = Keyd(folder, {**limits, "networks": [NETWORK], "allowed_domains": list(origins), **x402})
        self._egress_settings: dict[str, Any] = {
            "allow_private": ["127.0.0.1", "localhost"],
            **(egress or {}),
        }
        if upstream_ca:
            self._egress_settings["upstream_ca_file"] = str(upstream_ca)
        self.egress = self.another_egress(folder)

    def __enter__(self) -> Payer:
        try:
            self.start_keyd()
            self.egress.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.egress.stop()
        self.keyd.stop()

    def another_egress(self, folder: Path) -> Egress:
        """One more proxy in front of the same keyd, with its state in `folder`; not started."""
        return Egress(folder, self.keyd.socket, self._egress_settings)

    def start_keyd(self) -> None:
        """Makes keyd's state, starts keyd, and imports the wallet as `default`."""
        self.succeed("init")
        self.keyd.start()
        key_file = self.folder / "key.hex"
        key_file.write_text(self._private_key)
        key_file.chmod(0o600)
        self.succeed("wallet", "import", "default", "--key-file", key_file)
        key_file.unlink()

    def succeed(self, *arguments: str | Path) -> str:
        """The output of `keyctl ARGUMENTS`, which must succeed."""
        done = self.keyd.keyctl(*arguments)
        assert done.returncode == 0, f"keyctl {arguments}: {done.stderr}"
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        """All that an unmodified program is told: where the proxy is, and whose certificates to trust."""
        ca = str(self.egress.ca_certificate)
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), self.egress.url)
        authorities = dict.fromkeys(("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"), ca)
        return {**os.environ, **proxies, **authorities}

    def entries(self, *types: str) -> list[dict[str, Any]]:
        """The ledger's entries of these types, oldest first, read from the file: keyd may be dead or busy."""
        with closing(sqlite3.connect(f"file:{self.keyd.ledger}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT entry FROM entries ORDER BY seq").fetchall()
        entries = [json.loads(entry) for (entry,) in rows]
        return [entry for entry in entries if entry["type"] in types]

    def signed(self) -> dict[str, int]:
        """payment_id → atomic units, of every payment that was signed."""
        return {
            entry["data"]["payment_id"]: int(entry["data"]["authorization"]["value"])
            for entry in self.entries("x402.payment.signed")
        }

    def settled(self) -> int:
        """Atomic units of all payments that the ledger calls settled, once each has its outcome on record: egress
        reports behind the program's back, so a program can be done before its payment is."""
        deadline = time.monotonic() + OUTCOMES_WITHIN_S
        while unreported := self.signed().keys() - self._with_outcome():
            assert time.monotonic() < deadline, f"no outcome of {unreported}"
            time.sleep(0.02)
        return self.settled_so_far()

    def settled_so_far(self) -> int:
        """The same, without waiting for what is still to be reported."""
        signed = self.signed()
        return sum(signed[entry["data"]["payment_id"]] for entry in self.entries("x402.payment.settled"))

    def _with_outcome(self) -> set[str]:
        kinds = (f"x402.payment.{state}" for state in ("settled", "refused", "unknown"))
        return {entry["data"]["payment_id"] for entry in self.entries(*kinds)}

    def policy(self) -> dict[str, Any]:
        view: dict[str, Any] = json.loads(self.succeed("x402", "policy", "--json"))
        return view


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below `folder`, while programs go on writing there."""
    found = {}
    for file in sorted(folder.rglob("*")):
        with suppress(FileNotFoundError):  # a draft that has meanwhile been renamed
            if file.is_file():
                found[file] = file.read_bytes()
    return found


@dataclass(frozen=True)
class LedgerCheck:
    ok: bool
    text: str


def verify_offline(keyd: Keyd) -> LedgerCheck:
    """`python -m ledger verify`, as somebody who has nothing but the file would run it."""
    done = subprocess.run(
        [sys.executable, "-m", "ledger", "verify", str(keyd.ledger)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return LedgerCheck(done.returncode == 0, done.stdout + done.stderr)
