"""Changes of policy at run time: who may widen, what goes on record, what a restart finds."""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Callable
from itertools import batched
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd import api
from keyd.admin import AGENT_CHANGES_PER_MINUTE, MAX_OVERRIDES
from keyd.api import Role
from keyd.core.overrides import Limits, Overrides, apply, beyond, wider
from keyd.core.policy import Deny, Policy
from keyd.domains import DomainPattern
from keyd.peer import Peer
from keyd.reasons import Reason
from keyd.record import facts
from keyd.record.facts import Kind
from keyd.record.policies import Policies
from ledger import jsonl
from ledger.export import Period, export_file
from tests.keyd.conftest import POLICY, Rig, offer

ADMIN, AGENT = frozenset({Role.ADMIN}), frozenset({Role.AGENT})
ROOT, BOT = Peer(1, 0, 0), Peer(2, 2000, 2000)


async def change(rig: Rig, roles: frozenset[Role] = ADMIN, **members: Any) -> api.PolicyChanged:
    changed = await rig.admin.change(ROOT if roles == ADMIN else BOT, roles, api.PolicyPatch(**members))
    assert isinstance(changed, api.PolicyChanged), changed
    return changed


async def test_an_administrators_change_takes_effect_at_once_and_is_recorded_with_before_and_after(
    rig: Rig,
) -> None:
    assert (await rig.refused(offer("200000"))).reason is Reason.CAP_PER_PAYMENT
    assert (await change(rig, max_payment_usd="0.50")).applied
    await rig.paid(offer("200000"))
    entry = rig.entries("x402.policy.changed")[-1]
    assert (entry.data["before"], entry.data["after"]) == ({}, {"max_payment_usd": "0.50"})
    assert entry.actor == "uid:0"


async def test_the_overrides_are_written_to_a_private_toml_file(rig: Rig) -> None:
    await change(rig, daily_budget_usd="2.50", deny=["evil.example.com"], payments_per_minute=30)
    path = rig.path / "overrides.toml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert tomllib.loads(path.read_text()) == {
        "daily_budget_usd": "2.50",
        "deny": ["evil.example.com"],
        "payments_per_minute": 30,
    }
    path.write_text('daily_budget_usd = "1000.00"')
    rig.admin.write_file()
    assert tomllib.loads(path.read_text())["daily_budget_usd"] == "2.50"
    assert rig.view().daily_budget == "2.50"


async def test_a_restart_keeps_overrides_even_if_their_file_is_lost(make_rig: Callable[..., Rig]) -> None:
    before = make_rig()
    await change(before, deny=["api.example.com"])
    before.ledger.close()
    (before.path / "overrides.toml").unlink()
    after = make_rig(clock=before.clock)
    assert (await after.refused()).reason is Reason.DOMAIN_DENIED


@pytest.mark.parametrize(
    ("tighter", "reason"),
    [
        ({"max_payment_usd": "0.0005"}, Reason.CAP_PER_PAYMENT),
        ({"daily_budget_usd": "0.0005"}, Reason.BUDGET_DAILY),
        ({"deny": ["api.example.com"]}, Reason.DOMAIN_DENIED),
        ({"only": ["other.example.com"]}, Reason.DOMAIN_NOT_ALLOWED),
        ({"enable": False}, Reason.X402_DISABLED),
        ({"approve_above_usd": "0"}, Reason.APPROVAL_REQUIRED),
        ({"payments_per_minute": 0}, Reason.RATE_LIMIT),
        ({"budgets": [api.BudgetChange(domain="api.example.com", daily_usd="0.0005")]}, Reason.BUDGET_DOMAIN),
    ],
)
async def test_an_agent_may_tighten_by_itself(rig: Rig, tighter: dict[str, Any], reason: Reason) -> None:
    changed = await change(rig, AGENT, **tighter)
    assert changed.applied
    assert changed.wider == []
    assert (await rig.refused()).reason is reason


@pytest.mark.parametrize(
    "members",
    [
        {"max_payment_usd": "5.00"},
        {"daily_budget_usd": "5.00"},
        {"allow": ["evil.example.com"]},
        {"allow": ["*"]},
        {"max_payment_usd": "0.01", "daily_budget_usd": "5.00"},
    ],
)
async def test_an_agents_widening_is_only_a_proposal_until_an_administrator_approves(
    rig: Rig, members: dict[str, Any]
) -> None:
    before = rig.view()
    changed = await change(rig, AGENT, **members)
    assert not changed.applied
    assert changed.proposal is not None
    unchanged = rig.view()
    assert (unchanged.daily_budget, unchanged.max_payment) == (before.daily_budget, before.max_payment)
    assert unchanged.allowed_domains == before.allowed_domains
    assert [p.id for p in unchanged.pending] == [changed.proposal.id]
    assert rig.entries("x402.policy.proposed")[-1].data["wider"] == changed.wider
    assert isinstance(await rig.admin.decide(ROOT, changed.proposal.id, approve=True), api.Decided)
    now = rig.view()
    assert (now.daily_budget, now.max_payment, now.allowed_domains) != (
        before.daily_budget,
        before.max_payment,
        before.allowed_domains,
    )
    assert now.pending == []


async def test_an_agent_cannot_take_back_what_an_administrator_tightened(rig: Rig) -> None:
    await change(rig, deny=["api.example.com"], only=["a.example.com"], enable=False)
    for members in ({"allow": ["api.example.com"]}, {"only": ["b.example.com"]}, {"enable": True}):
        assert not (await change(rig, AGENT, **members)).applied


async def test_limits_of_the_base_bind_administrators_too(make_rig: Callable[..., Rig]) -> None:
    limits = Limits(
        daily_budget=2_000_000, max_payment=100_000, domains=(DomainPattern.parse("api.example.com"),)
    )
    rig = make_rig(limits=limits)
    for members in ({"daily_budget_usd": "2.01"}, {"max_payment_usd": "0.11"}, {"allow": ["b.example.com"]}):
        denied = await rig.admin.change(ROOT, ADMIN, api.PolicyPatch.model_validate(members))
        assert isinstance(denied, Deny)
        assert denied.reason is Reason.POLICY_LIMIT
    assert (await change(rig, daily_budget_usd="2.00")).applied


async def test_what_cannot_be_read_changes_nothing(rig: Rig) -> None:
    denied = await rig.admin.change(ROOT, ADMIN, api.PolicyPatch(allow=["https://x.org/path"]))
    assert isinstance(denied, Deny)
    assert denied.reason is Reason.REQUEST_MALFORMED
    assert rig.entries() == []


async def test_approving_an_old_proposal_does_not_undo_what_was_tightened_since(rig: Rig) -> None:
    wide = {"allow": ["good.example.com"], "daily_budget_usd": "1.00", "max_payment_usd": "0.10"}
    filed = await change(rig, AGENT, **wide)
    assert filed.proposal is not None
    assert filed.proposal.summary == "allows good.example.com"
    await change(rig, daily_budget_usd="0.05")
    stale = await rig.admin.decide(ROOT, filed.proposal.id, approve=True)
    assert isinstance(stale, Deny)
    assert stale.reason is Reason.PROPOSAL_STALE
    assert rig.view().daily_budget == "0.05"


async def test_a_proposal_says_all_of_it_or_is_not_filed(rig: Rig) -> None:
    names = [f"{'x' * 60}{n}.example.com" for n in range(99)]
    denied = await rig.admin.change(BOT, AGENT, api.PolicyPatch(allow=[*names, "*"]))
    assert isinstance(denied, Deny)
    assert rig.view().pending == []
    filed = await change(rig, AGENT, allow=[*names[:6], "*"])
    assert filed.proposal is not None
    assert filed.proposal.summary.endswith("allows *")


async def test_a_change_that_changes_nothing_is_no_entry(rig: Rig) -> None:
    await change(rig, daily_budget_usd="0.50")
    before = rig.ledger.head().seq
    for roles in (ADMIN, AGENT):
        assert (await change(rig, roles)).applied
        assert (await change(rig, roles, daily_budget_usd="0.50")).applied
    assert rig.ledger.head().seq == before


async def test_an_agent_in_a_loop_is_stopped_and_an_administrator_is_not(rig: Rig) -> None:
    for n in range(AGENT_CHANGES_PER_MINUTE):
        await change(rig, AGENT, daily_budget_usd=f"0.{99 - n}")
    looping = await rig.admin.change(BOT, AGENT, api.PolicyPatch(daily_budget_usd="0.01"))
    assert isinstance(looping, Deny)
    assert looping.reason is Reason.RATE_LIMIT
    await change(rig, daily_budget_usd="0.02")


async def test_overrides_stay_few(rig: Rig) -> None:
    for n in range(MAX_OVERRIDES // 100):
        await change(rig, deny=[f"h{n}-{k}.example.com" for k in range(100)])
    denied = await rig.admin.change(ROOT, ADMIN, api.PolicyPatch(deny=["one.more.example.com"]))
    assert isinstance(denied, Deny)
    assert denied.reason is Reason.POLICY_LIMIT


async def test_a_tightening_is_never_refused_for_what_the_base_exceeds(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(limits=Limits(daily_budget=10))
    assert (await change(rig, deny=["evil.example.com"])).applied


async def test_a_change_counts_even_if_its_file_cannot_be_written(rig: Rig) -> None:
    (rig.path / "overrides.toml").mkdir()
    assert (await change(rig, max_payment_usd="0.0001")).applied
    assert (await rig.refused()).reason is Reason.CAP_PER_PAYMENT


async def test_a_budget_that_could_never_bind_is_refused(rig: Rig) -> None:
    for domain, caller in (("*.example.com", None), ("*", "uid:1"), (None, None)):
        budget = api.BudgetChange(domain=domain, caller=caller, daily_usd="0.01")
        denied = await rig.admin.change(ROOT, ADMIN, api.PolicyPatch(budgets=[budget]))
        assert isinstance(denied, Deny)
        assert denied.reason is Reason.REQUEST_MALFORMED


async def test_a_budget_binds_however_its_domain_is_spelled(rig: Rig) -> None:
    await change(rig, budgets=[api.BudgetChange(domain="https://API.example.com:443", daily_usd="0.0005")])
    assert (await rig.refused()).reason is Reason.BUDGET_DOMAIN


async def test_an_agents_proposals_do_not_hide_a_held_payment(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyd.record.proposals.MAX_PENDING", 2)
    rig.policy(approve_above=0)
    for n in range(2):
        await change(rig, AGENT, daily_budget_usd=f"{n + 5}.00")
    crowded = await rig.admin.change(BOT, AGENT, api.PolicyPatch(daily_budget_usd="9.00"))
    assert isinstance(crowded, Deny)
    await rig.refused()
    assert [p.kind for p in rig.view().pending].count("payment") == 1


async def test_limits_do_not_turn_the_base_against_itself(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(limits=Limits(domains=(DomainPattern.parse("other.example.com"),)))
    assert (await change(rig, max_payment_usd="0.01")).applied


async def test_after_a_host_with_many_prices_is_reset_an_export_still_verifies(
    rig: Rig, tmp_path: Path
) -> None:
    """One entry that forgot them all would be longer than a line that a reader of exports takes."""
    paths = [f"/{n}" + "x" * 2000 for n in range(2500)]
    for some in batched(paths, 100):
        prices = [facts.put(Kind.PRICE, facts.price_key("api.example.com", "GET", path), 1) for path in some]
        rig.ledger.transact(
            lambda tx, prices=prices: tx.append("test.paid", "test", {"facts": prices})
        ).result()
    await rig.admin.reset(ROOT, "api.example.com")
    assert rig.ledger.read(lambda db: facts.every(db, Kind.PRICE)) == {}
    export = tmp_path / "export.jsonl"
    export.write_text("".join(export_file(rig.ledger.path, "jsonl", Period())))
    assert jsonl.verify(export).problems == []


def test_a_decision_gets_its_own_policy_while_another_thread_looks_at_an_older_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Decisions and views share what was computed last. A view of the moment before a change must not undo it."""
    policies, older = Policies(POLICY), [{}]

    class Document(dict[str, Any]):
        """Lets the other thread run between the look at what is kept and the answer."""

        def __eq__(self, other: object) -> bool:
            if older:
                assert policies.in_force(older.pop()).max_payment == POLICY.max_payment  # type: ignore[arg-type]
            return super().__eq__(other)

        __hash__ = None  # type: ignore[assignment]

    monkeypatch.setattr(facts, "get", lambda document, *_: document)
    tightened = {"max_payment_usd": "0.01"}
    policies.in_force(tightened)  # type: ignore[arg-type]
    assert policies.in_force(Document(tightened)).max_payment == 10_000  # type: ignore[arg-type]
    assert not older


async def test_reset_returns_to_the_base(rig: Rig) -> None:
    await change(rig, max_payment_usd="0.0001", deny=["api.example.com"])
    await rig.admin.reset(ROOT, None)
    await rig.paid()
    assert rig.view().overrides == {}


async def test_shadow_mode_pays_what_the_base_allows_and_records_what_would_be_refused(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(enforce=False)
    await change(rig, max_payment_usd="0.0005")
    await rig.paid()
    assert rig.entries("x402.payment.signed")[-1].data["would_refuse"]["code"] == "cap_per_payment"
    assert (await rig.refused(offer("200000"), what=1)).reason is Reason.CAP_PER_PAYMENT  # the base holds
    await rig.admin.freeze(ROOT, "")
    assert (await rig.refused(what=2)).reason is Reason.FROZEN


async def test_shadow_mode_counts_payments_for_a_rate_that_only_the_overrides_have(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(enforce=False)
    await change(rig, payments_per_minute=1)
    first, second = await rig.paid(what=1), await rig.paid(what=2)
    recorded = [entry.data.get("would_refuse") for entry in rig.entries("x402.payment.signed")]
    assert first.payment.payment_id != second.payment.payment_id
    assert recorded == [None, {"code": "rate_limit", "detail": "1 payments in the last minute"}]


async def test_a_changed_base_goes_on_record_once(rig: Rig) -> None:
    for document in ({"a": 1}, {"a": 1}, {"a": 2}):
        await rig.admin.record_base(document)
    changes = [(e.data["before"], e.data["after"]) for e in rig.entries("x402.policy.changed")]
    assert changes == [(None, {"a": 1}), ({"a": 1}, {"a": 2})]


async def test_the_story_of_a_payment_runs_from_the_offer_to_the_proof(rig: Rig) -> None:
    paid = await rig.paid(caller={"uid": 5})
    await rig.report(paid, http_status=502)
    payment_id = paid.payment.payment_id
    story = rig.views.story(payment_id)
    assert story is not None
    assert [e.type.rpartition(".")[2] for e in story.entries] == ["attempt", "signed", "unknown"]
    assert (story.payment.state, story.payment.caller, story.payment.amount) == ("unknown", "uid:5", "0.001")
    assert rig.views.story("0" * 32) is None
    listed = rig.views.payments(state="unknown", domain="api.example.com", limit=5).payments
    assert [p.payment_id for p in listed] == [payment_id]
    assert rig.views.payments(state="settled", domain=None, limit=5).payments == []


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        (api.SpendBy.DOMAIN, ["api.example.com"]),
        (api.SpendBy.CALLER, ["uid:5", "uid:6"]),
        (api.SpendBy.DAY, ["2026-11-21"]),
        (api.SpendBy.ASSET, ["USDC@eip155:84532"]),
    ],
)
async def test_spending_is_added_up_by(rig: Rig, by: api.SpendBy, keys: list[str]) -> None:
    await rig.paid(offer("2000"), what=1, caller={"uid": 5})
    await rig.paid(offer("1000"), what=2, caller={"uid": 6})
    spend = rig.views.spend(by, "2026-11-21")
    assert [row.key for row in spend.rows] == keys
    assert spend.total == "0.003"
    assert rig.views.spend(by, "2026-11-22").rows == []


# -- properties -----------------------------------------------------------------------------------------------

USD = st.integers(0, 10_000_000)
DOMAINS = st.lists(st.sampled_from(["a.org", "*.b.org", "http://c.org", "*"]), max_size=3, unique=True).map(
    tuple
)
OVERRIDES = st.builds(
    Overrides,
    enabled=st.none() | st.booleans(),
    daily_budget=st.none() | USD,
    max_payment=st.none() | USD,
    payments_per_minute=st.none() | st.integers(0, 100),
    approve_above=st.none() | USD,
    allow=DOMAINS,
    deny=DOMAINS,
    only=st.none() | DOMAINS,
)


@given(OVERRIDES)
def test_overrides_survive_the_round_trip_through_the_record(overrides: Overrides) -> None:
    assert Overrides.from_document(overrides.as_document()) == overrides


@given(OVERRIDES, OVERRIDES)
def test_a_change_without_widenings_permits_nothing_new(before: Overrides, after: Overrides) -> None:
    old, new = apply(POLICY, before), apply(POLICY, after)
    if wider(old, new):
        return
    assert new.daily_budget <= old.daily_budget
    assert new.max_payment <= old.max_payment
    assert old.enabled or not new.enabled
    origins = [
        api.Origin(scheme=scheme, host=host, port=port)
        for scheme, port in (("https", 443), ("http", 80))
        for host in ("a.org", "x.b.org", "c.org", "api.example.com")
    ]
    assert all(_payable(old, origin) for origin in origins if _payable(new, origin))


def _payable(policy: Policy, origin: api.Origin) -> bool:
    def match(patterns: tuple[DomainPattern, ...]) -> bool:
        return any(pattern.matches(origin) for pattern in patterns)

    only = policy.only_domains is None or match(policy.only_domains)
    return match(policy.allowed_domains) and only and not match(policy.denied_domains)


@given(OVERRIDES)
def test_nothing_is_beyond_limits_that_are_not_set(overrides: Overrides) -> None:
    assert beyond(apply(POLICY, overrides), POLICY, Limits()) == []
