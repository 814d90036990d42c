"""Figures for Prometheus, read by its own parser: of one egress, and of workers as one."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from egress.scrape import answering
from tests.egress.conftest import RunEgress, WriteConfig
from tests.egress.support.client import App
from tests.egress.support.keyd import FakeKeyd, refusal
from tests.egress.support.process import EgressProcess, egress_process
from tests.egress.support.upstream import selling, serving
from tests.egress.support.wire import paid_answer, payment_required, response
from tests.egress.test_workers import workers
from tests.metrics import PAGE, documented, exposed

SELLER = selling(lambda _: paid_answer(), lambda _: payment_required())
FREE = selling(lambda _: b"", lambda _: response(200, {}, b"free"))
OF_WORKERS = {"osmoda_egress_workers_ready", "osmoda_egress_worker_restarts_total"}


async def scrape(egress: EgressProcess) -> str:
    """What is told on the port that it has named before it was ready."""
    said = [json.loads(line) for line in egress.log.splitlines()]
    (port,) = [line["port"] for line in said if line["event"] == "egress.metrics.ready"]
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.status == 200
        return await answer.text()


def value(text: str, name: str, **labels: str) -> float:
    """The sum of the samples that have these labels, among others."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"osmoda_egress_{name}" and labels.items() <= sample.labels.items()
    )


async def test_payments_and_refusals_are_counted_by_outcome_and_reason(
    run_egress: RunEgress, keyd: FakeKeyd
) -> None:
    async def refuse(_: Any) -> Any:
        return refusal("budget_daily")

    async def refuse_as_nobody_knows(_: Any) -> Any:
        return refusal("code_of_a_newer_keyd")

    async with (
        serving(SELLER) as upstream,
        run_egress(metrics_listen="127.0.0.1:1") as egress,
        App(egress.address, upstream) as app,
    ):
        assert (await app.get("/a")).status == 200
        for number, script in enumerate((refuse, refuse, refuse_as_nobody_knows)):
            keyd.sign = script
            assert (await app.get(f"/{number}")).status == 402
        text = (await egress.metrics.exposition()).decode()
    assert value(text, "payments_total", outcome="paid", reason="") == 1
    assert value(text, "payments_total", outcome="rejected", reason="budget_daily") == 2
    assert value(text, "payments_total", outcome="rejected", reason="other") == 1
    assert (
        value(text, "answers_total", status="2xx") == 1
    )  # what the application saw: the held 402 is none of it
    assert value(text, "answers_total", status="4xx") == 3
    assert value(text, "keyd_sign_seconds_count") == 4
    assert value(text, "first_byte_seconds_count", paid="yes") == 1
    assert value(text, "first_byte_seconds_count", paid="no") == 3
    assert value(text, "connect_seconds_count") == 1
    assert value(text, "connections") == 1
    assert value(text, "keyd_up") == 1
    assert value(text, "kept_bytes") == 0


async def test_a_report_that_keyd_never_got_is_counted(
    run_egress: RunEgress, keyd: FakeKeyd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egress.paying.payer.REPORT_RETRY_DELAYS_S", ())
    keyd.outcome_failures = 1
    async with serving(SELLER) as upstream, run_egress() as egress:
        async with App(egress.address, upstream) as app:
            assert (await app.get()).status == 200
        await egress._payer.drain(5)
        assert value((await egress.metrics.exposition()).decode(), "reports_lost_total") == 1


async def test_a_port_of_its_own_answers_and_tells_no_host(config: WriteConfig) -> None:
    async with (
        serving(SELLER) as upstream,
        egress_process(config(metrics_listen="127.0.0.1:0")) as egress,
    ):
        async with App(egress.address, upstream) as app:
            assert (await app.get("/secret")).status == 200
        text = await scrape(egress)
    assert value(text, "payments_total", outcome="paid") == 1
    assert "secret" not in text
    assert "127.0.0.1" not in text
    assert documented("osmoda_egress_").keys() - exposed("osmoda_egress_", text).keys() == OF_WORKERS


async def test_workers_are_told_of_as_one(config: WriteConfig) -> None:
    async with (
        serving(SELLER) as upstream,
        workers(config(workers=2, metrics_listen="127.0.0.1:0")) as (egress, _),
    ):
        for _ in range(6):
            async with App(egress.address, upstream) as app:
                assert (await app.get()).status == 200
        text = await scrape(egress)
        assert value(text, "payments_total", outcome="paid") == 6
        assert value(text, "workers_ready") == 2
        assert {
            sample.labels.get("worker")
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "osmoda_egress_keyd_up"
        } == {"0", "1"}
    found = exposed("osmoda_egress_", text)
    assert documented("osmoda_egress_") == {
        name: (kind, labels - {"worker"}) for name, (kind, labels) in found.items()
    }


@pytest.mark.parametrize("listen", ["0.0.0.0:19998", "[::]:1", "192.168.1.1:1", "example.com:1"])
async def test_figures_are_told_on_loopback_alone(config: WriteConfig, listen: str) -> None:
    async with egress_process(config(metrics_listen=listen), until_ready=False) as egress:
        assert await egress.stopped() == 2
    assert "metrics_listen: " in egress.log
    assert "is not on loopback" in egress.log


async def test_a_metrics_port_in_use_is_named(config: WriteConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        async with egress_process(config(metrics_listen=listen), until_ready=False) as egress:
            assert await egress.stopped() == 2
    assert "see `metrics_listen` in egress.toml" in egress.log


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(
            (host, 200)
            for host in ("127.0.0.1:1", "127.8.9.1", "localhost:19998", "LOCALHOST", "[::1]:19998")
        ),
        *((host, 403) for host in ("evil.example:1", "127.0.0.1.evil.example", "192.168.1.1", "[::1", "")),
    ],
)
async def test_a_page_that_names_this_machine_as_its_own_host_reads_nothing(host: str, status: int) -> None:
    """DNS rebinding: a browser on this machine believes evil.example to be at 127.0.0.1, and says so in Host."""

    async def exposition() -> bytes:
        return b"figures"

    listener = socket.create_server(("127.0.0.1", 0))
    async with answering(listener, exposition), aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"
        async with session.get(url, headers={"Host": host}) as answer:
            assert answer.status == status
            assert (await answer.read() == b"figures") is (status == 200)


def test_the_alerts_name_metrics_that_exist() -> None:
    alerts = PAGE.partition("## Alerts")[2]
    names = set(re.findall(r"osmoda_\w+?(?=_bucket\b|\W)", alerts)) - {"osmoda"}
    known = documented("osmoda_").keys()
    assert len(names) > 8
    assert {name for name in names if name not in known} == set()
