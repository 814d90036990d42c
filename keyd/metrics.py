"""What keyd tells Prometheus: figures. The only names are those that policy has a budget for.

Counters begin at 0 with the process. Everything about money is read from the record when somebody asks, at one moment.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from keyd.record import payments, proposals, standing
from keyd.record.policies import Policies
from ledger.log import Ledger
from ledger.states import State

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
ANSWERED: Final = "ok"
"""The `code` of what was not refused."""
SIGN_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Around the 5 ms that a decision with its fsync should take at most; egress gives up after 10 s."""

_PAYMENTS_OF_DAY: Final = "SELECT state, proven, COUNT(*) FROM payments WHERE day >= ? GROUP BY state, proven"
_UNPROVEN: Final = "SELECT COUNT(*) FROM payments WHERE proven = 0"


class Metrics:
    """Counts what the server answers, and reads the rest from ledger and policy."""

    def __init__(self, ledger: Ledger, policies: Policies, clock: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._answers = Counter(
            "osmoda_keyd_answers",
            "Answers on the socket; code is ok or a reason code.",
            ["endpoint", "code"],
            registry=self._registry,
        )
        self._signing = Histogram(
            "osmoda_keyd_sign_seconds",
            "From a request for payment to its answer: decision, durable entry, signature.",
            ["code"],
            buckets=SIGN_BUCKETS_S,
            registry=self._registry,
        )
        Info("osmoda_keyd_build", "The version that runs.", registry=self._registry).info(
            {"version": version("osmoda-x402")}
        )
        ProcessCollector(registry=self._registry)
        self._registry.register(_Record(ledger, policies, clock))

    def answered(self, endpoint: str, code: str, seconds: float) -> None:
        self._answers.labels(endpoint, code).inc()
        if endpoint == "sign":
            self._signing.labels(code).observe(seconds)

    def exposition(self) -> bytes:
        """In the text format of Prometheus. Raises LedgerError. Counting payments may take a while: not for the loop."""
        return generate_latest(self._registry)


class _Record(Collector):
    """Policy in force, budget and payments."""

    def __init__(self, ledger: Ledger, policies: Policies, clock: Callable[[], int]) -> None:
        self._ledger = ledger
        self._policies = policies
        self._clock = clock

    def describe(self) -> list[Metric]:
        return []  # said without a look at the ledger, which may not be readable yet

    def collect(self) -> list[Metric]:
        now_us = self._clock()
        return self._ledger.read(lambda db: list(self._figures(db, now_us)))

    def _figures(self, db: sqlite3.Connection, now_us: int) -> Iterator[Metric]:
        policy, day = self._policies.in_force(db), payments.budget_day(now_us)
        yield GaugeMetricFamily(
            "osmoda_keyd_ledger_entries",
            "Place of the newest entry of the ledger.",
            db.execute("SELECT head_seq FROM meta").fetchone()[0],
        )
        yield GaugeMetricFamily(
            "osmoda_keyd_enabled", "1 if policy permits payments at all.", int(policy.enabled)
        )
        yield GaugeMetricFamily(
            "osmoda_keyd_frozen", "1 if payments are frozen.", int(standing.is_frozen(db))
        )
        yield GaugeMetricFamily(
            "osmoda_keyd_pending",
            "Payments and changes of policy that wait for a person.",
            len(proposals.waiting(db, now_us // 1_000_000)),
        )
        yield from _payments(db, day)
        rules = [("", "", policy.daily_budget)]
        rules += [(rule.domain or "", rule.caller or "", rule.daily) for rule in policy.budgets]
        yield from _budgets(db, day, rules)


def _payments(db: sqlite3.Connection, day: str) -> Iterator[Metric]:
    of_day = GaugeMetricFamily(
        "osmoda_keyd_payments_today",
        "Payments of the budget's day (UTC) by state; proven by the chain or not.",
        labels=["state", "proven"],
    )
    counts = {(state, proven): n for state, proven, n in db.execute(_PAYMENTS_OF_DAY, (day,))}
    for state in State:
        for proven in (0, 1):
            of_day.add_metric([state.value, ("no", "yes")[proven]], counts.get((state.value, proven), 0))
    yield of_day
    yield GaugeMetricFamily(
        "osmoda_keyd_open_payments",
        "Payments of any day whose end the chain has not proven.",
        db.execute(_UNPROVEN).fetchone()[0],
    )


def _budgets(db: sqlite3.Connection, day: str, rules: list[tuple[str, str, int]]) -> Iterator[Metric]:
    """`rules`: domain and caller ("" for all), micro-USD a day."""
    labels = ["domain", "caller"]
    daily = GaugeMetricFamily(
        "osmoda_keyd_budget_micro_usd",
        "Daily budget in millionths of a USD; empty labels: of all.",
        labels=labels,
    )
    left = GaugeMetricFamily("osmoda_keyd_budget_left_micro_usd", "What is left of it today.", labels=labels)
    for domain, caller, limit in rules:
        spent = payments.spent_on(db, day, domain=domain or None, caller=caller or None)
        daily.add_metric([domain, caller], limit)
        left.add_metric([domain, caller], max(0, limit - spent))
    yield daily
    yield left
