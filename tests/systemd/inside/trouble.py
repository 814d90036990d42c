"""On the booted machine one thing after the other goes wrong: who is told, and does doctor find it?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shell import STATE, changed, doctor, done, journal, pay, replace, restart, run


def alerts() -> dict[str, Any]:
    """What a command that is to be told of things got in each pass, while one thing after the other goes wrong."""
    told = Path("/var/lib/osmoda-reconcile/told")
    replace("/etc/osmoda/reconcile.toml", "^# \\[alerts\\]", "[alerts]")
    replace("/etc/osmoda/reconcile.toml", "^# command = .*", f'command = ["/usr/bin/tee", "-a", "{told}"]')
    seen: dict[str, Any] = {}

    def look(when: str) -> None:
        told.unlink(missing_ok=True)
        # More than five starts in ten seconds, as here on a fast machine, are otherwise too many for systemd.
        run("systemctl", "reset-failed", "osmoda-reconcile", check=False)
        run("systemctl", "start", "osmoda-reconcile", check=False)
        seen[when] = told.read_text() if told.exists() else ""

    run("osmoda-keyctl", "x402", "budget", "1.00")
    look("nothing is wrong")
    run("osmoda-keyctl", "x402", "budget", "0.0025")  # of which 0.002 are spent
    look("80 % is spent")
    run("osmoda-keyctl", "x402", "budget", "0.002")
    look("all is spent")
    run("osmoda-keyctl", "x402", "budget", "1.00")
    run("osmoda-keyctl", "x402", "freeze", "for the alert")
    look("frozen")
    look("still frozen")
    run("osmoda-keyctl", "x402", "unfreeze")
    with changed("/etc/osmoda/keyd.toml", "^\\[x402\\]", '[x402]\napprove_above_usd = "0.0005"'):
        start_keyd()
        pay("alice", "/item/31")
        look("a payment is held")
    with state_on_a_small_disk():
        ballast = STATE / "ballast"
        done("dd", "if=/dev/zero", f"of={ballast}", "bs=4k")
        seen["paid on a full disk"] = pay("alice", "/item/32")
        seen["doctor of a full disk"] = doctor()
        look("the disk is full")
        ballast.unlink()
        seen["paid when there is room"] = pay("alice", "/item/33")
    run("systemctl", "stop", "osmoda-keyd.socket", "osmoda-keyd")
    look("keyd and its socket are down")
    seen["doctor of keyd down"] = doctor()
    start_keyd()
    run("osmoda-keyctl", "x402", "reset", "--yes")
    replace("/etc/osmoda/reconcile.toml", "^\\[alerts\\]\ncommand = .*", "")
    return seen


@contextmanager
def state_on_a_small_disk() -> Iterator[None]:
    """keyd's state, and what is spent, as it is now; on the way back all that is forgotten."""
    services = ("osmoda-keyd.socket", "osmoda-keyd")
    aside = Path("/root/state")
    run("systemctl", "stop", *services)
    run("cp", "-a", STATE, aside)
    run("mount", "-t", "tmpfs", "-o", "size=3M,mode=0700", "tmpfs", STATE)
    run("cp", "-a", f"{aside}/.", STATE)
    start_keyd()
    try:
        yield
    finally:
        run("systemctl", "stop", *services)
        run("umount", STATE)
        shutil.rmtree(aside)
        start_keyd()


def start_keyd() -> None:
    restart("osmoda-keyd.socket", "osmoda-keyd.service")


def another_key() -> dict[str, Any]:
    """What doctor finds when keyd cannot start, since the credential holds a key that opens no wallet."""
    credential = Path("/etc/osmoda/kek.cred")
    before = credential.read_bytes()
    seal = "head -c 32 /dev/urandom | systemd-creds encrypt --name=kek - /etc/osmoda/kek.cred"
    run("sh", "-c", seal)
    run("systemctl", "restart", "osmoda-keyd", check=False)
    run("journalctl", "--sync")  # doctor looks there for its last words
    seen = doctor()
    credential.write_bytes(before)
    credential.chmod(0o600)
    start_keyd()
    return seen


def logs() -> list[dict[str, str]]:
    """What the journal holds of keyd and egress."""
    fields = "--output-fields=MESSAGE,PRIORITY,_SYSTEMD_UNIT"
    lines = journal(
        "-o",
        "json",
        fields,
        "_SYSTEMD_UNIT=osmoda-keyd.service",
        "+",
        "_SYSTEMD_UNIT=osmoda-egress.service",
    )
    return [json.loads(line) for line in lines.splitlines()]
