"""What administrators are told of: each condition, once, and in harmless words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyd import api
from reconcile.alerts import MAX_TEXT, Alert, conditions, printable
from tests.cli.views import POLICY, PROPOSAL, WIDER

HEALTH = api.Health(status="ok", api_version=1, version="0.1.0", ledger_entries=7, problems=[])


def found(problems: list[str] | None = None, **changes: object) -> list[Alert]:
    health = HEALTH.model_copy(update={"problems": problems or []})
    return conditions(POLICY.model_copy(update=changes), health)


def ids(alerts: list[Alert]) -> list[str]:
    return [alert.id for alert in alerts]


def test_a_keyd_that_pays_within_its_budgets_is_nothing_to_tell() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("spent", "percents"),
    [
        ("0.79", []),
        ("0.799999", []),
        ("0.80", [80]),
        ("0.999999", [80]),
        ("1.00", [80, 100]),
        ("1.20", [80, 100]),
    ],
)
def test_a_budget_is_told_at_80_and_at_100_percent(spent: str, percents: list[int]) -> None:
    alerts = found(spent_today=spent)
    assert ids(alerts) == [f"budget:2026-11-21:{percent}:all" for percent in percents]
    assert [alert.kind for alert in alerts] == [f"budget_{percent}" for percent in percents]


def test_the_budget_of_a_domain_or_a_caller_is_told_by_its_name() -> None:
    budgets = [
        api.BudgetView(domain="api.example.com", caller=None, daily="0.10", spent_today="0.09"),
        api.BudgetView(domain=None, caller="uid:1000", daily="0.10", spent_today="0.01"),
    ]
    (alert,) = found(budgets=budgets)
    assert alert.id == "budget:2026-11-21:80:api.example.com"
    assert "api.example.com is spent: 0.09 of 0.10 USD" in alert.text


def test_another_day_is_another_alert() -> None:
    assert ids(found(spent_today="0.90")) != ids(found(spent_today="0.90", day="2026-11-22"))


def test_a_budget_of_nothing_is_never_used_up() -> None:
    assert found(daily_budget="0.00", spent_today="0.00") == []


def test_a_freeze_is_told_once_with_who_and_why() -> None:
    frozen = api.Frozen(frozen=True, by="uid:1001", reason="odd prices", since=1795262400)
    (alert,) = found(problems=["payments are frozen (`osmoda-keyctl x402 unfreeze`)"], frozen=frozen)
    assert (alert.id, alert.kind) == ("frozen:1795262400", "frozen")
    assert alert.text == "payments were frozen by uid:1001: odd prices"


def test_what_waits_for_a_decision_is_told_with_the_command_that_decides() -> None:
    held, proposed = found(pending=[PROPOSAL, WIDER])
    assert (held.kind, proposed.kind) == ("payment_held", "proposal")
    assert "keyctl x402 approve a1b2c3d4e5f6" in held.text


def test_what_keeps_keyd_from_paying_is_told() -> None:
    ledger, other, wallet = found(
        problems=[f"{api.LEDGER_WRITE_FAILED}: disk is full", "no wallet", "wallet 'ledger': broken"]
    )
    assert [alert.kind for alert in (ledger, other, wallet)] == ["ledger_failure", "cannot_pay", "cannot_pay"]
    assert len({ledger.id, other.id, wallet.id}) == 3
    assert "disk is full" in ledger.text


@given(st.text(max_size=2 * MAX_TEXT))
def test_whatever_somebody_wrote_becomes_one_printable_line(text: str) -> None:
    proposal = PROPOSAL.model_copy(update={"summary": text})
    (alert,) = found(pending=[proposal])
    assert alert.text.isprintable()
    assert len(printable(text)) <= 6 * MAX_TEXT
