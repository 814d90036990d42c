"""keyd itself: who answers, what may be paid, whether the record holds together and agrees with the clock."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import Final

from keyd import api
from keyd.cli.doctor.findings import Finding, fault, good, note, skipped
from keyd.cli.render import usd
from keyd.cli.subprocesses import Runner
from ledger import chain, entry
from ledger.errors import CanonicalError, LedgerError

LOOKED_AT: Final = 200
"""Newest entries whose chain is checked: at once. `keyctl ledger verify` checks them all."""
CLOCK_SLACK_S: Final = 5
MADE_AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""No machine that runs this can be earlier."""


def check_health(health: api.Health, version: str) -> Iterator[Finding]:
    """keyd answers; is it the keyd that belongs to this keyctl, and who does it think is asking?"""
    roles = ", ".join(health.roles) or "none"
    yield good("keyd", f"keyd {health.version} answers; your roles: {roles}")
    if health.version != version:
        what = f"keyd is {health.version}, keyctl is {version}"
        yield note("keyd", what, "systemctl restart osmoda-keyd osmoda-egress")
    for problem in health.problems:
        if problem.startswith(api.LEDGER_WRITE_FAILED):  # the others are a matter of policy, and found there
            yield fault(
                "ledger",
                problem,
                "make room on its file system, or mend that; keyctl ledger verify finds damage (docs/runbook.md)",
            )


def check_last_words(run: Runner) -> Iterator[Finding]:
    """Why a keyd that does not answer has ended, in its own words, if this user may read the journal."""
    done = run(["journalctl", "--unit=osmoda-keyd", "--boot", "--output=cat", "--lines=50"])
    if done is None or done.code != 0:
        return
    _, _, since_it_was_ready = done.out.rpartition('"event": "keyd.ready"')
    error, hint = words_of("osmoda-keyd", since_it_was_ready)
    if error:
        yield fault("keyd", f"its last words: {error}", hint or "journalctl -u osmoda-keyd")


def words_of(program: str, text: str) -> tuple[str, str]:
    """The last `PROGRAM: error: …` and `PROGRAM: hint: …` that a daemon wrote; empty if there is none."""
    said = dict(re.findall(rf"^{re.escape(program)}: (error|hint): (.+)$", text, re.MULTILINE))
    return said.get("error", ""), said.get("hint", "")


def check_policy(view: api.PolicyView) -> Iterator[Finding]:
    """Could anything be paid at all?"""
    findings = list(_obstacles(view))
    domains = ", ".join(view.allowed_domains[:3]) + (", …" if len(view.allowed_domains) > 3 else "")
    said = f"pays {domains}, {usd(view.left_today)} of {usd(view.daily_budget)} left today"
    yield from findings or [good("policy", said)]


def _obstacles(view: api.PolicyView) -> Iterator[Finding]:
    if not view.enabled:
        yield fault("policy", "payments are switched off", "enable = true below [x402] in keyd.toml")
    if view.frozen.frozen:
        yield fault(
            "policy",
            f"payments are frozen: {view.frozen.reason or 'no reason given'}",
            "keyctl x402 unfreeze",
        )
    if not view.allowed_domains:
        yield fault(
            "policy", "no domain may be paid", "allowed_domains in keyd.toml, or keyctl x402 allow DOMAIN"
        )
    if not view.callers:
        yield fault("policy", "no caller may pay", 'callers = ["*"] in keyd.toml, or a list of users')
    if not view.assets:
        yield fault("policy", "no token may be paid in", "networks and allowed_assets in keyd.toml")
    if view.wallet is None:
        label = view.default_wallet_label
        yield fault(
            "policy", f"there is no wallet {label!r}", f"keyctl wallet create {label}, or wallet import"
        )
    if Decimal(view.max_payment) == 0:
        yield fault("policy", "a payment may cost $0.00 at the most", "keyctl x402 cap AMOUNT")
    if Decimal(view.left_today) == 0:
        spent = f"{usd(view.spent_today)} of {usd(view.daily_budget)} spent on {view.day}"
        yield note(
            "policy",
            f"today's budget is used up: {spent}",
            "keyctl x402 budget AMOUNT, or wait for midnight UTC",
        )
    if view.pending:
        waiting = f"{len(view.pending)} waiting for a decision"
        yield note("policy", waiting, "keyctl x402 pending")


def check_chain(entries: Sequence[api.LedgerEntry], head: api.LedgerHead) -> Iterator[Finding]:
    """Do the newest entries follow from each other, up to the head?"""
    if not entries:
        yield (
            good("ledger", "no entries yet")
            if head.seq == 0
            else fault(
                "ledger", f"keyd gives no entry, but says that there are {head.seq}", "keyctl ledger verify"
            )
        )
        return
    for before, after in pairwise(entries):
        if not _follows(before, after):
            remedy = "keyctl ledger verify; docs/runbook.md says what to do with a damaged ledger"
            yield fault("ledger", f"entry {after.seq} does not follow from entry {before.seq}", remedy)
            return
    if (entries[-1].seq, entries[-1].hash) != (head.seq, head.hash):
        yield fault("ledger", "the newest entry is not the head", "keyctl ledger verify")
        return
    yield good("ledger", f"{head.seq} entries, head {head.hash[:16]}…, the newest {len(entries)} are whole")


def _follows(before: api.LedgerEntry, after: api.LedgerEntry) -> bool:
    try:
        encoded = entry.encode(after.seq, after.ts, after.type, after.actor, after.data)
    except (CanonicalError, LedgerError):
        return False
    linked = chain.link(bytes.fromhex(before.hash), encoded).hex() == after.hash
    return after.seq == before.seq + 1 and linked


def check_clock(now: datetime, newest_entry: str | None, run: Runner) -> Iterator[Finding]:
    """A wrong clock makes authorizations that sellers refuse, and days that end at the wrong time.

    `newest_entry`: time of the ledger's last entry, if it could be read.
    """
    remedy = "set the clock, and let systemd-timesyncd or chrony keep it"
    if now < MADE_AT:
        yield fault("clock", f"this machine believes it is {now:%Y-%m-%d}", remedy)
        return
    if newest_entry is not None:
        ahead = datetime.fromisoformat(newest_entry) - now
        if ahead.total_seconds() > CLOCK_SLACK_S:
            what = f"the ledger's last entry is {int(ahead.total_seconds())} s in the future: the clock was set back"
            yield fault("clock", what, remedy + "; what is recorded for later days counts as spent today")
            return
    done = run(["timedatectl", "show", "--property=NTPSynchronized", "--value"])
    if done is None or done.code != 0:
        yield skipped("clock", "systemd-timedated does not answer; is the clock kept by anything?")
    elif done.out.strip() == "yes":
        yield good("clock", "synchronised")
    else:
        yield note("clock", "the clock is not synchronised", "timedatectl set-ntp true, or chrony")
