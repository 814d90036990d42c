"""Sessions: a budget for one task, nested in all others, and a token that nobody but its owner can use."""

from __future__ import annotations

import asyncio
import csv
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyd import api
from keyd.core import policy
from keyd.core.evidence import RELEASE_MARGIN_S
from keyd.core.policy import Deny
from keyd.core.whatif import replay
from keyd.peer import Peer
from keyd.reasons import Reason
from keyd.record.sessions import MAX_OPEN_OF_CALLER, OPENINGS_PER_MINUTE, Sessions
from keyd.service import Authorized
from ledger.export import Period, export_file
from ledger.verify import verify
from tests.keyd.conftest import EGRESS, PAYER, POLICY, Clock, Entropy, Rig, offer

ALICE = Peer(pid=2, uid=1000, gid=1000)
BOB = Peer(pid=3, uid=1001, gid=1001)


@pytest.fixture
def sessions(rig: Rig) -> Sessions:
    return Sessions(rig.ledger, rig.service.entropy)


def digest_of(opened: api.SessionOpened) -> str:
    """What egress makes of the token in the proxy's credentials."""
    return hashlib.sha256(opened.token.encode()).hexdigest()


async def opened(
    sessions: Sessions, budget: str = "0.01", peer: Peer = ALICE, **members: Any
) -> api.SessionOpened:
    request = api.SessionOpen(label="research", budget_usd=budget, **members)
    found = await sessions.open(peer, request)
    assert isinstance(found, api.SessionOpened), found
    return found


async def denied(sessions: Sessions, peer: Peer = ALICE) -> Deny:
    found = await sessions.open(peer, api.SessionOpen(label="research", budget_usd="1.00"))
    assert isinstance(found, Deny)
    return found


async def test_a_payment_in_a_session_is_recorded_as_one_of_it(rig: Rig, sessions: Sessions) -> None:
    session = await opened(sessions)
    await rig.paid(session=digest_of(session))
    await rig.paid(what=1)
    attempt, other_attempt = rig.entries("x402.payment.attempt")
    inside, outside = rig.entries("x402.payment.signed")
    assert attempt.data["session"] == session.session.id
    assert inside.data["session"] == {"id": session.session.id, "label": "research"}
    assert other_attempt.data["session"] is None
    assert "session" not in outside.data
    spend = rig.views.spend(api.SpendBy.SESSION, "2026-11-21")
    named = f"research/{session.session.id}"
    assert [(row.key, row.usd, row.calls) for row in spend.rows] == [("-", "0.001", 1), (named, "0.001", 1)]
    assert spend.total == rig.views.spend(api.SpendBy.DAY, "2026-11-21").total == "0.002"


async def test_the_token_is_in_no_file_and_no_text_of_ours(rig: Rig, sessions: Sessions) -> None:
    session = await opened(sessions)
    await rig.paid(session=digest_of(session))
    files = [path.read_bytes() for path in rig.path.glob("ledger.sqlite3*") if path.is_file()]
    assert any(digest_of(session).encode() in content for content in files)
    assert not any(session.token.encode() in content for content in files)
    assert session.token not in f"{session!r} {session}"


@pytest.mark.parametrize("how", ["never was", "expired", "closed", "of another user"])
async def test_a_session_that_the_caller_may_not_use_pays_nothing(
    rig: Rig, sessions: Sessions, how: str
) -> None:
    session = await opened(sessions, expires_in=60)
    digest, caller = digest_of(session), {"uid": 1000}
    assert isinstance(await rig.pay(session=digest), Authorized)
    if how == "never was":
        digest = "0" * 64
    elif how == "expired":
        rig.clock.advance(60)
    elif how == "closed":
        await sessions.close(ALICE, session.session.id, of_anybody=False)
    else:
        caller = {"uid": 1001}
    for what in (0, 1):  # the repeat of an open payment is none of its business either
        denial = await rig.refused(what=what, session=digest, caller=caller)
        assert denial.reason is Reason.SESSION_INVALID
    assert rig.entries("x402.payment.rejected")[-1].data["code"] == "session_invalid"
    assert len(rig.entries("x402.payment.signed")) == 1


async def test_a_name_that_a_proxy_token_proves_has_no_sessions(rig: Rig, sessions: Sessions) -> None:
    session = await opened(sessions)
    denial = await rig.refused(session=digest_of(session), caller={"name": "ci"})
    assert denial.reason is Reason.SESSION_INVALID


async def test_the_budget_of_a_session_binds_to_the_last_unit(rig: Rig, sessions: Sessions) -> None:
    session = await opened(sessions, "0.003")
    for what in range(3):
        await rig.paid(what=what, session=digest_of(session))
    denial = await rig.refused(offer("1"), what=3, session=digest_of(session))
    assert denial.reason is Reason.BUDGET_SESSION
    assert "0.003 of 0.003 USD are spent in session research" in denial.detail
    assert rig.entries("x402.budget.exceeded")[-1].data["code"] == "budget_session"
    await rig.paid(what=3)  # the user's own budget is not used up
    assert [s.spent for s in sessions.list(ALICE, 0, of_anybody=False).sessions] == ["0.003"]


async def test_a_session_never_widens_the_budgets_around_it(rig: Rig, sessions: Sessions) -> None:
    rig.policy(daily_budget_per_caller=2_000)
    session = await opened(sessions, "500.00")
    await rig.paid(offer("2000"), session=digest_of(session))
    denial = await rig.refused(offer("1"), what=1, session=digest_of(session))
    assert denial.reason is Reason.BUDGET_CALLER


async def test_parallel_payments_share_the_budget_of_one_session(rig: Rig, sessions: Sessions) -> None:
    session = await opened(sessions, "0.005")
    paying = [rig.pay(what=what, session=digest_of(session)) for what in range(40)]
    results = await asyncio.gather(*paying)
    assert sum(isinstance(result, Authorized) for result in results) == 5
    assert {r.reason for r in results if isinstance(r, Deny)} == {Reason.BUDGET_SESSION}


async def test_two_runs_with_one_label_are_two_sessions(rig: Rig, sessions: Sessions) -> None:
    first, second = await opened(sessions, "0.001"), await opened(sessions, "0.001")
    assert first.session.id != second.session.id
    assert first.token != second.token
    await rig.paid(session=digest_of(first))
    await rig.paid(what=1, session=digest_of(second))
    assert (await rig.refused(what=2, session=digest_of(second))).reason is Reason.BUDGET_SESSION
    assert [row.usd for row in rig.views.spend(api.SpendBy.SESSION, "2026-11-21").rows] == ["0.001"] * 2


async def test_what_the_chain_releases_comes_back_to_the_session(rig: Rig, sessions: Sessions) -> None:
    session = await opened(sessions, "0.001")
    payment = (await rig.paid(session=digest_of(session))).payment
    rig.clock.advance(60 + RELEASE_MARGIN_S + 1)
    assert (await rig.refused(what=1, session=digest_of(session))).reason is Reason.BUDGET_SESSION
    proof = api.ChainEvidence(
        payment_id=payment.payment_id,
        used=False,
        block_number=1,
        block_hash="0x" + "00" * 32,
        block_timestamp=payment.authorization.valid_before + RELEASE_MARGIN_S + 1,
        sources=1,
    )
    assert await rig.service.record_evidence(EGRESS, proof) == "released"
    await rig.paid(what=1, session=digest_of(session))
    assert [row.usd for row in rig.views.spend(api.SpendBy.SESSION, "2026-11-21").rows] == ["0.001"]


async def test_a_restart_forgets_no_session_and_nothing_it_spent(
    rig: Rig, sessions: Sessions, make_rig: Callable[..., Rig]
) -> None:
    session = await opened(sessions, "0.001")
    await rig.paid(session=digest_of(session))
    rig.ledger.close()
    again = make_rig(clock=rig.clock, entropy=Entropy(iter(range(1000, 2000))))
    assert (await again.refused(what=1, session=digest_of(session))).reason is Reason.BUDGET_SESSION
    assert verify(again.ledger.path).ok


async def test_only_the_owner_and_administrators_see_and_close_a_session(
    rig: Rig, sessions: Sessions
) -> None:
    mine = (await opened(sessions)).session
    now_s = rig.clock() // 1_000_000
    assert sessions.list(BOB, now_s, of_anybody=False).sessions == []
    refused = await sessions.close(BOB, mine.id, of_anybody=False)
    assert isinstance(refused, Deny)
    assert refused.reason is Reason.SESSION_UNKNOWN
    assert sessions.list(BOB, now_s, of_anybody=True).sessions == [mine]
    assert await sessions.close(BOB, mine.id, of_anybody=True) == mine
    again = await sessions.close(BOB, mine.id, of_anybody=True)
    assert isinstance(again, Deny)
    assert rig.entries("x402.session.closed")[-1].data["spent_usd_micros"] == 0


async def test_openings_are_bounded_by_the_minute_and_by_what_is_open(rig: Rig, sessions: Sessions) -> None:
    for _ in range(OPENINGS_PER_MINUTE):
        await opened(sessions)
    assert (await denied(sessions)).reason is Reason.RATE_LIMIT
    await opened(sessions, peer=BOB)
    rig.clock.advance(61)
    for _ in range(MAX_OPEN_OF_CALLER - OPENINGS_PER_MINUTE):
        await opened(sessions)
    assert (await denied(sessions)).reason is Reason.POLICY_LIMIT
    rig.clock.advance(24 * 3600)  # all have expired, and the next opening clears them away
    await opened(sessions)
    assert len(sessions.list(ALICE, 0, of_anybody=True).sessions) == 1


async def test_the_number_of_payments_of_a_session_is_bounded(
    rig: Rig, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "MAX_SESSION_PAYMENTS", 2)
    session = await opened(sessions, "1.00")
    await rig.paid(session=digest_of(session))
    await rig.paid(what=1, session=digest_of(session))
    denial = await rig.refused(what=2, session=digest_of(session))
    assert (denial.reason, "made 2 payments" in denial.detail) == (Reason.BUDGET_SESSION, True)


STEPS = st.lists(
    st.tuples(st.sampled_from(["none", "a", "b", "bob"]), st.integers(1, 700), st.booleans()),
    min_size=1,
    max_size=25,
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS, budgets=st.tuples(*[st.integers(0, 2_000)] * 5))
async def test_no_sequence_of_payments_exceeds_any_of_the_nested_budgets(
    steps: list[tuple[str, int, bool]],
    budgets: tuple[int, ...],
    make_rig: Callable[..., Rig],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    of_all, of_caller, *of_sessions = budgets
    rules = replace(POLICY, daily_budget=of_all, daily_budget_per_caller=of_caller, pin=False)
    rig = make_rig(policy=rules, clock=Clock(), folder=tmp_path_factory.mktemp("session"))
    sessions = Sessions(rig.ledger, rig.service.entropy)
    owners = {"a": ALICE, "b": ALICE, "bob": BOB}
    tokens = {
        name: await opened(sessions, f"0.{budget:06}", owners[name])
        for (name, budget) in zip(owners, of_sessions, strict=True)
    }
    spent: dict[str, int] = dict.fromkeys(["all", "uid:1000", "uid:1001", *owners], 0)
    limits = {"all": of_all, "uid:1000": of_caller, "uid:1001": of_caller}
    limits |= dict(zip(owners, of_sessions, strict=True))
    for what, (name, amount, foreign) in enumerate(steps):
        uid = {"none": 1000, "a": 1000, "b": 1000, "bob": 1001}[name]
        uid = 2001 - uid if foreign and name != "none" else uid
        digest = None if name == "none" else digest_of(tokens[name])
        result = await rig.pay(offer(str(amount)), what=what, session=digest, caller={"uid": uid})
        counted = ["all", f"uid:{uid}", *([name] if name != "none" else [])]
        if isinstance(result, Authorized):
            assert not (foreign and name != "none")
            for key in counted:
                spent[key] += amount
                assert spent[key] <= limits[key]
        elif not (foreign and name != "none"):  # refused for want of budget alone
            assert any(spent[key] + amount > limits[key] for key in counted), result
    rig.ledger.close()


async def test_who_must_be_in_a_session_pays_nothing_outside_of_one(rig: Rig, sessions: Sessions) -> None:
    rig.policy(session_required=frozenset({"uid:1000"}))
    session = await opened(sessions)
    assert (await rig.refused(what=1)).reason is Reason.SESSION_REQUIRED
    await rig.paid(what=2, session=digest_of(session))
    await rig.paid(what=3, caller={"uid": 1001})
    rig.policy(session_required=frozenset({"*"}))
    assert (await rig.refused(what=4, caller={"uid": 1001})).reason is Reason.SESSION_REQUIRED


async def test_a_replay_knows_who_was_in_a_session(rig: Rig, sessions: Sessions) -> None:
    session = await opened(sessions)
    await rig.paid(session=digest_of(session))
    await rig.paid(what=1)
    stricter = replace(POLICY, session_required=frozenset({"*"}))
    found = replay(rig.entries(), stricter, PAYER)
    assert [(d.was.code, d.would_be.code) for d in found.differences] == [(None, "session_required")]


async def test_the_export_names_the_session(rig: Rig, sessions: Sessions) -> None:
    session = await opened(sessions)
    await rig.paid(session=digest_of(session))
    await rig.paid(what=1)
    named = f"research/{session.session.id}"
    lines = "".join(export_file(rig.ledger.path, "csv", Period())).splitlines()
    inside, outside = csv.DictReader(lines)
    assert (inside["session"], outside["session"]) == (named, "")
    assert "".join(export_file(rig.ledger.path, "beancount", Period())).count(f'session: "{named}"') == 1


async def test_a_replay_leaves_refusals_of_sessions_as_they_were(rig: Rig, sessions: Sessions) -> None:
    session = await opened(sessions, "0.001")
    await rig.paid(session=digest_of(session))
    await rig.refused(what=1, session=digest_of(session))
    await rig.refused(what=2, session="0" * 64)
    generous = replace(POLICY, daily_budget=10**9)
    result = replay(rig.entries(), generous, PAYER)
    assert (result.was.paid, result.was.refused, result.differences) == (1, 2, [])
