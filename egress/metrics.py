"""What egress tells Prometheus: traffic, payments by outcome, times, what it keeps. No host, path or caller."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import version
from typing import Final

from mitmproxy import http
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

from egress.paying.exchange import EGRESS_HEADER, Exchange
from keyd.reasons import Reason

CONNECT_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
FIRST_BYTE_BUCKETS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Models think for minutes before they say a word."""
KEYD_BUCKETS_S: Final = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""keyd answers in milliseconds; after ten seconds egress stops waiting."""

_DONE: Final = re.compile(r"([a-z]+)(?:; reason=([a-z_]+))?")
_KNOWN: Final = frozenset(Reason)


class Metrics:
    """Counts for as long as the process lives; `addon` is what counts traffic."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        Info("osmoda_egress_build", "The version that runs.", registry=self._registry).info(
            {"version": version("osmoda-x402")}
        )
        ProcessCollector(registry=self._registry)
        self.answers = self._counter(
            "answers", "Answers to requests that egress can read, by status: 2xx, 4xx, …", "status"
        )
        self.payments = self._counter(
            "payments",
            "What came of requests for payment: paid, unknown or rejected, and why.",
            *("outcome", "reason"),
        )
        self.reports_lost = self._counter("reports_lost", "Outcomes of payments that keyd was not told of.")
        self.sign = self._histogram(
            "keyd_sign_seconds", "From the question to keyd to its answer.", KEYD_BUCKETS_S
        )
        self.connect = self._histogram(
            "connect_seconds",
            "From the look-up of a server's name to its connection, without TLS.",
            CONNECT_BUCKETS_S,
        )
        self.first_byte = self._histogram(
            "first_byte_seconds",
            "From the end of a request to the answer's first byte; of a paid one with its 402 and the payment.",
            FIRST_BYTE_BUCKETS_S,
            "paid",
        )

    def gauge(self, name: str, meaning: str, read: Callable[[], float]) -> None:
        """A figure that is read when somebody asks."""
        Gauge(f"osmoda_egress_{name}", meaning, registry=self._registry).set_function(read)

    async def exposition(self) -> bytes:
        """In the text format of Prometheus."""
        return generate_latest(self._registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"osmoda_egress_{name}", meaning, labels, registry=self._registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"osmoda_egress_{name}", meaning, labels, buckets=buckets, registry=self._registry)


class MetricsAddon:
    """mitmproxy addon. Comes after the one that pays, whose header on the answer says what was done."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def server_connected(self, data: ServerConnectionHookData) -> None:
        began, connected = data.server.timestamp_start, data.server.timestamp_tcp_setup
        if began is not None and connected is not None:
            self._metrics.connect.observe(max(0.0, connected - began))

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        assert flow.response is not None
        self._metrics.answers.labels(f"{flow.response.status_code // 100}xx").inc()
        payment = Exchange.of(flow).payment
        paid = "yes" if payment is not None and payment.sent else "no"
        if flow.request.timestamp_end is not None:
            waited = flow.response.timestamp_start - flow.request.timestamp_end
            self._metrics.first_byte.labels(paid).observe(max(0.0, waited))
        if done := _DONE.match(flow.response.headers.get(EGRESS_HEADER, "")):
            reason = done[2] or ""
            # Bounded, whatever a newer keyd may say.
            self._metrics.payments.labels(
                done[1], reason if not reason or reason in _KNOWN else "other"
            ).inc()
