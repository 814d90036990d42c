"""Changes of policy on a real keyd: they take effect at once, survive a restart, and are on record."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyd import api
from keyd.client import KeydClient, KeydRefused

KEY = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"  # public, holds nothing
USDC = "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
SELLER = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
AGENT_UID = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become an agent")


class RealKeyd:
    """keyd as a process of its own; this user is its administrator and its egress."""

    def __init__(self, folder: Path, keyctl) -> None:
        self.folder = folder
        self.socket = folder / "keyd.sock"
        self.config = folder / "keyd.toml"
        self.overrides = folder / "state" / "overrides.toml"
        self._keyctl = keyctl
        self._requests = 0
        self.config.write_text(
            f'socket = "{self.socket}"\nsocket_mode = "0666"\n'
            f'state_dir = "{folder}/state"\nkek_file = "{folder}/kek"\n'
            f"[peers]\nadmin = [{os.geteuid()}]\negress = [{os.geteuid()}]\nagent = [{AGENT_UID}]\n"
            '[x402]\nallowed_domains = ["api.example.com"]\napprove_above_usd = "0.08"\n'
            '[x402.limits]\ndaily_budget_usd = "5.00"\n'
        )
        assert self("init").code == 0
        self.process = self.start()

    def __call__(self, *arguments):
        return self._keyctl("--config", self.config, *arguments)

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "keyd", "--config", str(self.config)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        assert any("keyd.ready" in line for line in process.stderr)
        return process

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=240)

    def restart(self) -> None:
        self.stop()
        self.process = self.start()

    def pay(self, usd_micros: int, *, host: str = "api.example.com", uid: int = 1000) -> str:
        """Another purchase each time: "paid", or the code of the refusal."""
        self._requests += 1
        terms = {
            "scheme": "exact",
            "network": "eip155:8453",
            "amount": str(usd_micros),
            "asset": USDC,
            "payTo": SELLER,
            "maxTimeoutSeconds": 60,
        }
        request = api.SignRequest(
            origin=api.Origin(scheme="https", host=host, port=443),
            method="GET",
            path=f"/{usd_micros}",
            fingerprint=f"{self._requests:064x}",
            caller=api.Caller(uid=uid),
            x402_version=2,
            offers=[terms],
        )

        async def sign() -> str:
            async with KeydClient(str(self.socket)) as keyd:
                try:
                    await keyd.sign(request)
                except KeydRefused as refused:
                    return refused.refusal.code
                return "paid"

        return asyncio.run(sign())

    def as_agent(self, *arguments):
        """keyctl run by a user that is an agent and nothing else."""
        os.seteuid(AGENT_UID)
        try:
            return self._keyctl("--socket", self.socket, *arguments)
        finally:
            os.seteuid(0)


@pytest.fixture
def real(keyctl) -> Iterator[RealKeyd]:
    with tempfile.TemporaryDirectory(prefix="osmoda-keyctl-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the agent must reach the socket
        keyd = RealKeyd(folder, keyctl)
        key_file = folder / "key"
        key_file.touch(0o600)
        key_file.write_text(KEY)
        assert keyd("wallet", "import", "default", "--key-file", key_file).code == 0
        yield keyd
        keyd.stop()


def test_domains_are_allowed_and_denied_at_once_and_after_a_restart(real):
    assert real.pay(1_000, host="new.example.com") == "domain_not_allowed"
    allowed = real("x402", "allow", "new.example.com")
    assert (allowed.code, allowed.err) == (0, "")
    assert allowed.out == (
        "allowed domains: + new.example.com\nThis permits more than before: allows new.example.com.\n"
    )
    assert real.pay(1_000, host="new.example.com") == "paid"

    assert real("x402", "deny", "api.example.com").out == "denied domains: + api.example.com\n"
    assert real.pay(1_000) == "domain_denied"
    real.restart()
    assert real.pay(1_001, host="new.example.com") == "paid"
    assert real.pay(1_000) == "domain_denied"

    assert real("x402", "reset", "--yes").code == 0
    assert real.pay(1_002, host="new.example.com") == "domain_not_allowed"
    assert real.pay(1_000) == "paid"


def test_budgets_and_caps_bind_at_once_and_after_a_restart(real):
    assert real("x402", "budget", "0.05", "--domain", "https://API.example.com").code == 0
    assert real("x402", "budget", "0.02", "--caller", "1001").code == 0
    assert real.pay(21_000, uid=1001) == "budget_caller"
    assert real.pay(40_000) == "paid"
    assert real.pay(11_000) == "budget_domain"
    shown = real("x402", "policy").out
    assert "budget           $0.04 of $0.05 spent today at api.example.com\n" in shown
    assert "budget           $0.00 of $0.02 spent today by uid:1001\n" in shown

    assert real("x402", "cap", "0.005").out == "per payment: $0.10 → $0.005\n"
    real.restart()
    assert real.pay(5_001) == "cap_per_payment"
    assert real.pay(11_000) == "cap_per_payment"
    assert real("x402", "cap", "0.10").code == 0
    assert real.pay(11_000) == "budget_domain"
    assert real("x402", "budget", "--remove", "--domain", "api.example.com").code == 0
    assert real.pay(11_000) == "paid"

    assert real("x402", "budget", "0.06").out == "daily budget: $1.00 → $0.06\n"
    assert real.pay(10_000) == "budget_daily"
    beyond = real("x402", "budget", "5.01")
    assert (beyond.code, beyond.out) == (1, "")
    assert "daily budget 5.01 USD > 5.00 USD (policy_limit)" in beyond.err


def test_a_freeze_stops_every_payment_until_it_is_lifted(real):
    assert real("x402", "freeze", "strange", "prices").code == 0
    assert real.pay(1_000) == "frozen"
    real.restart()
    assert real.pay(1_000) == "frozen"
    assert real("x402", "policy").out.startswith("Payments are frozen since ")
    assert f"by uid:{os.geteuid()}: strange prices.\n" in real("x402", "policy").out
    assert real("health").code == 1
    assert real("x402", "unfreeze").out == "payments are not frozen\n"
    assert real.pay(1_000) == "paid"


def test_a_held_payment_goes_through_once_after_a_person_said_yes(real):
    assert real.pay(90_000) == "approval_required"
    (held,) = json.loads(real("x402", "pending", "--json").out)
    assert (held["kind"], held["code"]) == ("payment", "approval_required")
    assert held["id"] in real("x402", "pending").out
    assert real("x402", "policy").out.endswith("1 waits for approval: `keyctl x402 pending` shows what.\n")
    assert "A payment is held (approval_required)" in real("x402", "explain", held["id"]).out

    assert "The program's next try within an hour is paid, once.\n" in real("x402", "approve", held["id"]).out
    real.restart()
    assert real.pay(90_000) == "paid"
    assert real.pay(90_000) == "approval_required"
    (again,) = json.loads(real("x402", "pending", "--json").out)
    assert real("x402", "reject", again["id"]).code == 0
    assert real("x402", "pending").out == "nothing waits for approval\n"
    assert "(proposal_unknown)" in real("x402", "approve", again["id"]).err
    assert real.pay(90_000) == "approval_required"


@needs_root
def test_an_agent_tightens_at_once_and_only_proposes_to_widen(real):
    tightened = real.as_agent("x402", "budget", "0.50")
    assert (tightened.code, tightened.out) == (0, "daily budget: $1.00 → $0.50\n")
    proposed = real.as_agent("x402", "allow", "new.example.com")
    assert (proposed.code, proposed.err) == (3, "")
    assert proposed.out.startswith(
        "Not in force: an agent may not permit more than before (allows new.example.com)."
    )
    assert real.pay(1_000, host="new.example.com") == "domain_not_allowed"

    (waiting,) = json.loads(real.as_agent("x402", "pending", "--json").out)
    by_itself = real.as_agent("x402", "approve", waiting["id"])
    assert (by_itself.code, by_itself.out) == (1, "")
    assert "(role_insufficient)" in by_itself.err

    real.restart()
    approved = real("x402", "approve", waiting["id"])
    assert approved.out == "approved: allows new.example.com\nallowed domains: + new.example.com\n"
    assert real.pay(1_000, host="new.example.com") == "paid"
    assert real.as_agent("x402", "freeze").code == 0
    assert real.as_agent("x402", "unfreeze").code == 1
    assert real.pay(1_001) == "frozen"


def test_overrides_are_in_a_file_that_the_record_rules(real):
    assert real("x402", "budget", "0.50").code == 0
    assert stat.S_IMODE(real.overrides.stat().st_mode) == 0o600
    assert tomllib.loads(real.overrides.read_text()) == {"daily_budget_usd": "0.50"}

    real.stop()
    real.overrides.write_text('daily_budget_usd = "1000.00"\n')
    real.overrides.chmod(0o644)
    real.process = real.start()
    assert json.loads(real("x402", "policy", "--json").out)["daily_budget"] == "0.50"
    assert tomllib.loads(real.overrides.read_text()) == {"daily_budget_usd": "0.50"}
    assert stat.S_IMODE(real.overrides.stat().st_mode) == 0o600

    changes = [json.loads(line) for line in real("ledger", "tail", "--json").out.splitlines()]
    (change,) = [e["data"] for e in changes if e["data"].get("source") == "overrides"]
    assert (change["before"], change["after"]) == ({}, {"daily_budget_usd": "0.50"})
    assert real("ledger", "verify").code == 0


def test_spending_and_the_story_of_a_payment_are_told(real):
    assert real.pay(1_000) == "paid"
    assert real.pay(2_000, uid=1001) == "paid"
    assert "api.example.com  $0.003      2\n" in real("x402", "spend").out
    assert "uid:1001  $0.002      1\n" in real("x402", "spend", "--by", "caller", "--since", "1d").out
    assert "USDC@eip155:8453  $0.003      2\n" in real("x402", "spend", "--by", "asset").out
    newest = json.loads(real("x402", "payments", "--json", "--limit", "1").out)["payments"][0]
    assert (newest["caller"], newest["state"]) == ("uid:1001", "signed")
    assert real("x402", "payments", "--state", "settled").out == "no such payments\n"
    shown = real("x402", "show", newest["payment_id"][:12])
    assert (shown.code, shown.err) == (0, "")
    assert "attempt   GET /2000 of api.example.com, asked for by uid:1001\n" in shown.out
    assert f"signed    2000 atomic units of USDC to {SELLER}, valid until " in shown.out
    assert "Nothing was reported about it" in real("x402", "explain", newest["payment_id"][:12]).out
    assert "(payment_unknown)" in real("x402", "show", "0" * 32).err


def test_the_past_is_judged_under_another_configuration(real):
    assert real.pay(1_000) == "paid"
    assert real.pay(2_000, host="new.example.com") == "domain_not_allowed"
    other = real.folder / "other.toml"
    other.write_text('[x402]\nallowed_domains = ["new.example.com"]\n')
    result = real("x402", "policy", "test", other)
    assert (result.code, result.err) == (0, "")
    lines = [line.split() for line in result.out.splitlines()[4:7]]
    assert lines == [
        ["DOMAIN", "ATTEMPTS", "USD", "WAS", "WOULD", "BE"],
        ["new.example.com", "1", "$0.002", "domain_not_allowed", "paid"],
        ["api.example.com", "1", "$0.001", "paid", "domain_not_allowed"],
    ]
    same = real("x402", "policy", "test", real.config)
    assert "The same offers would have been paid and refused.\n" in same.out
