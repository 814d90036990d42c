"""Replays: under the policy that was in force they repeat the record; under another they say what would differ."""

from __future__ import annotations

import asyncio
import itertools
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd import api
from keyd.core.evidence import RELEASE_MARGIN_S
from keyd.core.intent import Intent
from keyd.core.policy import BudgetRule, Deny, Policy
from keyd.core.whatif import NOT_REPLAYED, RATE_WINDOW_S, REPEATS, Totals, Verdict, intent_of, replay
from keyd.domains import DomainPattern
from keyd.reasons import Reason
from keyd.record.policies import Policies
from keyd.record.standing import RATE_WINDOW_S as RATE_WINDOW_OF_KEYD
from keyd.service import Authorized
from ledger.entry import Entry
from tests.keyd.conftest import EGRESS, PAYER, POLICY, SELLER, Clock, Entropy, Rig, assemble, intent, offer

VERDICTS = ("x402.payment.signed", "x402.payment.rejected")
SETTLED = {"success": True, "transaction": "0x" + "ab" * 32, "network": "eip155:84532", "payer": PAYER}
_transactions = itertools.count(1)


def delivered() -> dict[str, Any]:
    """What egress reports of an answer with a receipt; each time of another transaction."""
    return {"http_status": 200, "settlement": SETTLED | {"transaction": f"0x{next(_transactions):064x}"}}


OTHER_SELLER = "0x857b06519E91e3A54538791bDbb0E22373e36b66"
HOSTS = ["api.example.com", "other.example.com"]
STRICT = replace(
    POLICY,
    allowed_domains=(*POLICY.allowed_domains, DomainPattern.parse("other.example.com")),
    max_payment=40_000,
    daily_budget=100_000,
    daily_budget_per_domain=70_000,
    budgets=(BudgetRule(None, "uid:1", 50_000),),
    payments_per_minute=4,
    approve_above=30_000,
    quarantine_after=2,
)


@contextmanager
def keyd(policy: Policy) -> Iterator[Rig]:
    """A rig of its own for every example of a property."""
    with tempfile.TemporaryDirectory(prefix="osmoda-whatif-") as folder:
        path, clock, entropy = Path(folder), Clock(), Entropy()
        rig = assemble(path, Policies(policy), clock, entropy)
        try:
            yield rig
        finally:
            rig.ledger.close()


def steps(seed: int, count: int) -> list[tuple[Any, ...]]:
    """A long life that meets every rule: mostly purchases, mostly of the same things, mostly in good order."""
    chance = random.Random(seed)
    made: list[tuple[Any, ...]] = []
    for what in range(count):
        price = chance.choice([9_000, 9_000, 9_000, 12_000, 17_000, 20_000, 31_000, 41_000])
        recipient = chance.choice([SELLER] * 12 + [OTHER_SELLER])
        pay = ("pay", chance.choice(HOSTS), max(0, what - chance.choice([0, 0, 0, 1, 2])), price, recipient)
        report = (
            "report",
            chance.choice(
                [*[delivered()] * 5, {"http_status": 402}, {"failure": "timeout"}, {"failure": "hung_up"}]
            ),
        )
        person = [
            *[("approve",)] * 3,
            ("freeze",),
            *[("unfreeze",)] * 3,
            *[("reset", host) for host in HOSTS],
        ]
        seconds = chance.choice([1, 20, *[61] * 8, 200, 3_700, 40_000, 86_400, -30, -86_400])
        made += [
            (*pay, chance.choice([1, 2])),
            report,
            *([("advance", seconds)] if chance.random() < 0.7 else []),
            *([("prove", chance.randrange(1, 5), chance.random() < 0.3)] if chance.random() < 0.3 else []),
            *([chance.choice(person)] if chance.random() < 0.5 else []),
        ]
    return made


async def live(rig: Rig, steps: list[tuple[Any, ...]]) -> None:
    """What programs, sellers, the chain and a person do to one keyd."""
    paid: list[Authorized] = []
    held: tuple[Any, ...] | None = None
    for step, *values in steps:
        if step == "pay":
            outcome = await buy(rig, *values)
            paid += [outcome] if isinstance(outcome, Authorized) else []
            held = tuple(values) if isinstance(outcome, Deny) and "approval id" in outcome.detail else held
        elif step == "report" and paid:
            await rig.report(paid[-1], **values[0])
        elif step == "prove" and paid:
            await prove(rig, paid[-values[0] % len(paid)], used=values[1])
        elif step == "advance":
            rig.clock.advance(values[0])
        elif step == "approve" and held is not None and rig.view().pending:
            await rig.admin.decide(EGRESS, rig.view().pending[-1].id, approve=True)
            for another in range(2):  # the program's next try is paid; one more purchase is held again
                host, what, *rest = held
                outcome = await buy(rig, host, what + 1_000 * another, *rest)
                paid += [outcome] if isinstance(outcome, Authorized) else []
        elif step == "freeze":
            await rig.admin.freeze(EGRESS, "")
        elif step == "unfreeze":
            await rig.admin.unfreeze(EGRESS)
        elif step == "reset":
            await rig.admin.reset(EGRESS, values[0])


async def buy(
    rig: Rig, host: str, what: int, price: int, recipient: str, uid: int | None
) -> Authorized | Deny:
    return await rig.pay(
        offer(str(price), payTo=recipient),
        what=what,
        path=f"/{what % 2}",
        origin={"scheme": "https", "host": host, "port": 443},
        caller={"uid": uid},
    )


async def prove(rig: Rig, payment: Authorized, *, used: bool) -> None:
    """The chain's word at a block late enough to release what was not used."""
    late = payment.payment.authorization.valid_before + RELEASE_MARGIN_S + 1
    found = api.ChainEvidence(
        payment_id=payment.payment.payment_id,
        used=used,
        block_number=1,
        block_hash="0x" + "11" * 32,
        block_timestamp=late,
        sources=1,
    )
    await rig.service.record_evidence(EGRESS, found)


@pytest.fixture(scope="module")
def lives() -> list[list[Entry]]:
    """The ledgers of some lives under STRICT."""

    def ledger(seed: int) -> list[Entry]:
        with keyd(STRICT) as rig:
            asyncio.run(live(rig, steps(seed, 120)))
            return rig.entries()

    return [ledger(seed) for seed in range(6)]


def test_a_replay_under_the_policy_that_was_in_force_repeats_the_record(lives: list[list[Entry]]) -> None:
    for entries in lives:
        result = replay(entries, STRICT, PAYER)
        assert result.differences == []
        assert result.other_reason == 0
        assert result.was == result.would_be
        verdicts = [entry for entry in entries if entry.type in VERDICTS]
        assert result.was.paid + result.was.refused + result.repeats == len(verdicts)
        assert result.was.paid > 10


def test_the_lives_that_are_replayed_meet_every_rule(lives: list[list[Entry]]) -> None:
    rules = (
        "approval_required budget_caller budget_daily budget_domain cap_per_payment frozen host_quarantined"
    )
    codes = {entry.data.get("code") for entries in lives for entry in entries}
    assert {*rules.split(), "pin_pay_to", "pin_price", "rate_limit"} <= codes
    types = {entry.type for entries in lives for entry in entries}
    assert {"x402.payment.released", "x402.policy.approved", "x402.policy.changed"} <= types


@pytest.mark.parametrize("budget", [0, 9_999, 31_500])
def test_a_replay_never_spends_more_in_a_day_than_its_policy_allows(budget: int) -> None:
    one_day = [step for step in steps(budget, 120) if step[0] not in ("advance", "prove")]
    with keyd(replace(STRICT, payments_per_minute=None)) as rig:
        asyncio.run(live(rig, one_day))
        entries = rig.entries()
    result = replay(entries, replace(STRICT, payments_per_minute=None, daily_budget=budget), PAYER)
    assert result.was.usd_micros > budget
    assert result.would_be.usd_micros <= budget


async def entries_of(rig: Rig, *amounts: str) -> list[Entry]:
    """One delivered payment, or refusal, for each amount; each another request."""
    for what, amount in enumerate(amounts):
        outcome = await rig.pay(offer(amount), what=what, path=f"/{what}")
        if isinstance(outcome, Authorized):
            await rig.report(outcome, **delivered())
    return rig.entries()


async def test_a_looser_cap_would_have_paid_what_was_refused(rig: Rig) -> None:
    entries = await entries_of(rig, "1000", "150000")
    result = replay(entries, replace(POLICY, max_payment=200_000), PAYER)
    assert result.was == Totals(paid=1, refused=1, usd_micros=1_000)
    assert result.would_be == Totals(paid=2, refused=0, usd_micros=151_000)
    (found,) = result.differences
    assert (found.domain, found.caller) == ("api.example.com", "uid:1000")
    assert (found.was, found.would_be) == (Verdict("cap_per_payment", 0), Verdict(None, 150_000))
    assert [e.type for e in entries if e.seq == found.seq] == ["x402.payment.attempt"]


async def test_a_smaller_budget_would_have_refused_what_came_last(rig: Rig) -> None:
    entries = await entries_of(rig, "1000", "1000", "1000")
    result = replay(entries, replace(POLICY, daily_budget=2_000), PAYER)
    assert [str(found.would_be) for found in result.differences] == ["budget_daily"]
    assert result.differences[0].seq == [e.seq for e in entries if e.type == "x402.payment.attempt"][2]
    assert (result.was.paid, result.would_be.paid, result.would_be.usd_micros) == (3, 2, 2_000)


async def test_the_same_policy_would_have_differed_in_nothing(rig: Rig) -> None:
    result = replay(await entries_of(rig, "1000", "150000"), POLICY, PAYER)
    assert (result.differences, result.other_reason, result.was == result.would_be) == ([], 0, True)


async def test_a_refusal_for_another_reason_is_counted_and_no_difference(rig: Rig) -> None:
    result = replay(await entries_of(rig, "150000"), replace(POLICY, enabled=False), PAYER)
    assert (result.differences, result.other_reason) == ([], 1)


async def test_a_policy_that_asks_a_person_pays_only_what_a_person_approved(rig: Rig) -> None:
    rig.policy(approve_above=5_000)
    held = await rig.refused(offer("6000"), what=1)
    assert held.reason is Reason.APPROVAL_REQUIRED
    await rig.admin.decide(EGRESS, rig.view().pending[0].id, approve=True)
    await rig.paid(offer("6000"), what=1)
    await rig.report(await rig.paid(offer("4000"), what=2, path="/other"), **delivered())
    result = replay(rig.entries(), replace(POLICY, approve_above=3_000), PAYER)
    assert [(str(f.was), str(f.would_be)) for f in result.differences] == [("paid", "approval_required")]
    assert result.would_be.usd_micros == 6_000


async def test_an_approval_pays_once_in_a_replay_too(rig: Rig) -> None:
    rig.policy(approve_above=5_000)
    await rig.refused(offer("6000"))
    await rig.admin.decide(EGRESS, rig.view().pending[0].id, approve=True)
    await rig.report(await rig.paid(offer("6000")), **delivered())
    await rig.refused(offer("6000"))
    result = replay(rig.entries(), replace(POLICY, approve_above=4_000), PAYER)
    assert (result.differences, result.would_be) == ([], Totals(paid=1, refused=2, usd_micros=6_000))


async def test_a_freeze_holds_whatever_the_policy_says(rig: Rig) -> None:
    rig.policy(enabled=False)
    await rig.admin.freeze(EGRESS, "")
    await rig.refused(what=1)
    await rig.admin.unfreeze(EGRESS)
    await rig.refused(what=2)
    result = replay(rig.entries(), POLICY, PAYER)
    assert [str(found.would_be) for found in result.differences] == ["paid"]
    assert result.other_reason == 1


@pytest.mark.parametrize("reason", sorted(NOT_REPLAYED))
def test_a_refusal_that_cannot_be_judged_again_stands(reason: Reason) -> None:
    attempt = entry(1, "attempt", intent().record() | {"repeat_of": None})
    rejected = entry(2, "rejected", {"attempt": 1, "code": reason.value})
    result = replay([attempt, rejected], POLICY, PAYER)
    assert (result.differences, result.would_be) == ([], Totals(refused=1))
    assert replay(
        [attempt, entry(2, "rejected", {"attempt": 1, "code": "cap_per_payment"})], POLICY, PAYER
    ).differences


@pytest.mark.parametrize("reason", sorted(REPEATS))
def test_the_refusal_of_a_repeat_is_no_purchase(reason: Reason) -> None:
    attempt = entry(1, "attempt", intent().record() | {"repeat_of": None})
    rejected = entry(2, "rejected", {"attempt": 1, "code": reason.value})
    result = replay([attempt, rejected], POLICY, PAYER)
    assert (result.repeats, result.would_be) == (1, Totals())


def test_a_guess_that_keyd_refused_is_no_purchase_either() -> None:
    attempt = entry(1, "attempt", intent(prepaid=True).record() | {"repeat_of": None})
    rejected = entry(2, "rejected", {"attempt": 1, "code": Reason.PREPAY_NOT_ALLOWED.value})
    assert replay([attempt, rejected], POLICY, PAYER).would_be == Totals()
    asked = entry(1, "attempt", intent().record() | {"repeat_of": None})
    assert replay([asked, rejected], POLICY, PAYER).would_be.paid == 1


async def test_only_days_from_since_on_are_counted_but_earlier_ones_set_pins(rig: Rig) -> None:
    await rig.report(await rig.paid(offer("1000"), what=1), **delivered())
    rig.clock.advance(86_400)
    await rig.refused(offer("2001"), what=2)
    for since, refused in [("2026-11-22", 1), ("2026-11-23", 0)]:
        result = replay(rig.entries(), POLICY, PAYER, since=since)
        assert result.would_be == Totals(refused=refused)
    assert replay(rig.entries(), POLICY, PAYER, since="2026-11-21").would_be.paid == 1
    assert replay(rig.entries(), replace(POLICY, pin=False), PAYER, since="2026-11-22").would_be.paid == 1


async def test_a_ledger_without_attempts_replays_to_nothing(rig: Rig) -> None:
    await rig.service.record("keyd", "keyd.started", {})
    result = replay(rig.entries(), POLICY, PAYER)
    assert (result.was, result.would_be, result.repeats) == (Totals(), Totals(), 0)


@given(
    scheme=st.sampled_from(["http", "https"]),
    host=st.from_regex(r"[a-z0-9._-]{1,20}", fullmatch=True)
    | st.sampled_from(["127.0.0.1", "::1", "fe80::1"]),
    port=st.integers(1, 65535) | st.sampled_from([80, 443]),
)
def test_the_recorded_domain_gives_the_origin_back(scheme: str, host: str, port: int) -> None:
    asked = intent(origin={"scheme": scheme, "host": host, "port": port})
    assert intent_of(asked.record()).origin == asked.origin


def test_the_record_gives_the_question_back() -> None:
    asked = intent(
        offer("1000"), {"scheme": "exact"}, caller={"uid": 7}, intent="k", resource_url="https://x/y"
    )
    again = intent_of(asked.record())
    same = ["origin", "method", "path", "caller", "fingerprint", "key", "x402_version", "resource_url"]
    assert [getattr(again, name) for name in same] == [getattr(asked, name) for name in same]
    assert again.intent_key == asked.intent_key
    assert again.offers == asked.offers
    assert {
        field for field in Intent.__dataclass_fields__ if getattr(again, field) != getattr(asked, field)
    } == set()


def test_the_minute_of_the_rate_limit_is_keyds() -> None:
    assert RATE_WINDOW_S == RATE_WINDOW_OF_KEYD


def entry(seq: int, what: str, data: dict[str, Any]) -> api.LedgerEntry:
    ts = "2026-11-21T12:00:00.000000Z"
    return api.LedgerEntry(
        seq=seq, ts=ts, type=f"x402.payment.{what}", actor="uid:991", data=data, hash="0" * 64
    )
