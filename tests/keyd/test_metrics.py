"""`GET /metrics`: read by Prometheus's own parser, and held against what keyd really did."""

from __future__ import annotations

import time

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from keyd import api
from keyd.client import KeydClient, KeydRefused
from ledger.errors import LedgerUnavailable
from tests.keyd.conftest import NOON_US, Keyd, Rig, offer, sign_request
from tests.metrics import documented, exposed

DAY_S = 86_400


class Figures:
    """One scrape."""

    def __init__(self, families: list[Metric]) -> None:
        self.names = {family.name for family in families}
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        return self._samples.get((f"osmoda_keyd_{name}", frozenset(labels.items())))


async def scrape(keyd: Keyd) -> Figures:
    status, answer = await keyd.raw("GET", "/metrics")
    assert status == 200
    return Figures(list(text_string_to_metric_families(answer["text"])))


async def test_payments_and_budget_are_those_of_the_record(keyd: Keyd, client: KeydClient) -> None:
    before = await scrape(keyd)
    assert before("budget_left_micro_usd", domain="", caller="") == 1_000_000
    assert before("payments_today", state="signed", proven="no") == 0
    reply = await client.sign(sign_request(offer("1000")))
    await client.sign(sign_request(offer("2500"), what=1, path="/map"))
    after = await scrape(keyd)
    assert after("budget_micro_usd", domain="", caller="") == 1_000_000
    assert after("budget_left_micro_usd", domain="", caller="") == 996_500
    assert after("payments_today", state="signed", proven="no") == 2
    assert after("open_payments") == 2
    assert after("ledger_entries") == (await client.ledger_head()).seq
    await client.outcome(api.OutcomeReport(payment_id=reply.payment_id, http_status=402))
    refused = await scrape(keyd)
    assert refused("payments_today", state="refused", proven="no") == 1
    assert refused("budget_left_micro_usd", domain="", caller="") == 996_500  # no claim gives budget back


async def test_a_budget_of_a_domain_has_its_own_figure(keyd: Keyd, client: KeydClient) -> None:
    await client.policy_change(
        api.PolicyPatch(budgets=[api.BudgetChange(domain="api.example.com", daily_usd="0.01")])
    )
    await client.sign(sign_request(offer("1000")))
    figures = await scrape(keyd)
    assert figures("budget_micro_usd", domain="api.example.com", caller="") == 10_000
    assert figures("budget_left_micro_usd", domain="api.example.com", caller="") == 9_000
    assert figures("budget_left_micro_usd", domain="", caller="") == 999_000


async def test_a_new_day_has_its_budget_again_and_open_payments_stay(keyd: Keyd, client: KeydClient) -> None:
    await client.sign(sign_request())
    keyd.rig.clock.now_us = NOON_US + DAY_S * 1_000_000
    figures = await scrape(keyd)
    assert figures("budget_left_micro_usd", domain="", caller="") == 1_000_000
    assert figures("payments_today", state="signed", proven="no") == 0
    assert figures("open_payments") == 1


async def test_refusals_are_counted_by_their_reason_and_decisions_timed(
    keyd: Keyd, client: KeydClient
) -> None:
    began = time.perf_counter()
    await client.sign(sign_request())
    with pytest.raises(KeydRefused):
        await client.sign(sign_request(offer("200000"), what=1))
    lasted = time.perf_counter() - began
    figures = await scrape(keyd)
    assert figures("answers_total", endpoint="sign", code="ok") == 1
    assert figures("answers_total", endpoint="sign", code="cap_per_payment") == 1
    assert figures("sign_seconds_count", code="ok") == 1
    assert figures("sign_seconds_count", code="cap_per_payment") == 1
    assert figures("sign_seconds_bucket", code="ok", le="+Inf") == 1
    measured = figures("sign_seconds_sum", code="ok")
    assert measured is not None
    assert 0 < measured < lasted


async def test_freeze_and_questions_are_seen(keyd: Keyd, client: KeydClient) -> None:
    figures = await scrape(keyd)
    assert (figures("frozen"), figures("enabled"), figures("pending")) == (0, 1, 0)
    await client.freeze(api.Freeze(reason="test"))
    await client.policy_change(
        api.PolicyPatch(max_payment_usd="0.50"), as_agent=True
    )  # wider: becomes a proposal
    figures = await scrape(keyd)
    assert (figures("frozen"), figures("pending")) == (1, 1)


async def test_without_a_ledger_the_scrape_fails_instead_of_telling_old_figures(
    keyd: Keyd,
    rig: Rig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_: object) -> None:
        raise LedgerUnavailable("the disk is gone", "look at it")

    monkeypatch.setattr(rig.ledger, "read", broken)
    status, answer = await keyd.raw("GET", "/metrics")
    assert (status, answer["code"]) == (503, "ledger_unavailable")


async def test_no_name_of_a_caller_host_wallet_or_payment_is_told(keyd: Keyd, client: KeydClient) -> None:
    reply = await client.sign(sign_request())
    _, answer = await keyd.raw("GET", "/metrics")
    for name in ("uid:", "example.com", reply.payment_id, reply.wallet_address, reply.signature):
        assert name not in answer["text"]


async def test_the_page_names_every_metric_with_its_type_and_labels(keyd: Keyd, client: KeydClient) -> None:
    await client.sign(sign_request())
    _, answer = await keyd.raw("GET", "/metrics")
    assert documented("osmoda_keyd_") == exposed("osmoda_keyd_", answer["text"])
