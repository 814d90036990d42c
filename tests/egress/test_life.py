"""egress as a process: it starts or says why not, keeps its secrets, and stops without cutting streams off."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import stat
from pathlib import Path
from typing import Any

import pytest

from keyd import api
from tests.egress.conftest import Pki, RunEgress, WriteConfig
from tests.egress.support.client import App
from tests.egress.support.keyd import SIGNATURE, FakeKeyd, refusal
from tests.egress.support.process import EgressProcess, egress_process
from tests.egress.support.upstream import Connection, selling, serving
from tests.egress.support.wire import paid_answer, payment_required, response

SELLER = selling(lambda _: paid_answer(), lambda _: payment_required())


async def refusal_to_start(config: Path) -> str:
    async with egress_process(config, until_ready=False) as egress:
        assert await egress.stopped() == 2
    *_, error, hint = egress.log.splitlines()
    assert error.startswith("osmoda-egress: error: ")
    assert hint.startswith("osmoda-egress: hint: ")
    assert "Traceback" not in egress.log
    return error


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"listn": "127.0.0.1:0"}, "unknown key 'listn', did you mean 'listen'? (known: allow_private, "),
        ({"listen": "19999"}, "write for example `127.0.0.1:19999`"),
        ({"intercept": "some"}, "intercept: "),
        ({"allow_private": ["10.0.0.0/8"]}, "write a host or an address"),
        ({"upstream_ca_file": "/nonexistent.pem"}, "cannot read upstream_ca_file /nonexistent.pem"),
        ({"state_dir": "/proc/nothing"}, "cannot use state_dir"),
        ({"max_request_body": -1}, "max_request_body: "),
    ],
)
async def test_a_wrong_configuration_is_named_with_the_way_out(
    config: WriteConfig, overrides: dict[str, Any], message: str
) -> None:
    assert message in await refusal_to_start(config(**overrides))


async def test_more_than_one_paid_repeat_cannot_be_configured(config: WriteConfig) -> None:
    file = config()
    file.write_text(file.read_text() + "[x402]\nmax_retries = 2\n")
    assert "x402.max_retries: " in await refusal_to_start(file)


async def test_a_port_in_use_is_named(config: WriteConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = await refusal_to_start(config(listen=f"127.0.0.1:{port}"))
    assert f"127.0.0.1:{port}" in message
    assert "address already in use" in message


async def test_an_authority_that_others_can_read_is_not_used(config: WriteConfig, tmp_path: Path) -> None:
    file = config()
    async with egress_process(file):
        pass
    (tmp_path / "state/ca/mitmproxy-ca.pem").chmod(0o640)
    assert "is open to other users" in await refusal_to_start(file)


async def test_the_authority_is_made_once_and_only_its_certificate_is_public(
    config: WriteConfig, tmp_path: Path
) -> None:
    file, state = config(), tmp_path / "state"
    async with egress_process(file, umask=0):
        first = (state / "ca-cert.pem").read_bytes()
    async with egress_process(file, umask=0o077):
        assert (state / "ca-cert.pem").read_bytes() == first
    assert stat.S_IMODE((state / "ca-cert.pem").stat().st_mode) == 0o644
    assert stat.S_IMODE((state / "ca").stat().st_mode) == 0o700
    assert {path.name for path in state.iterdir()} == {"ca", "ca-cert.pem"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (state / "ca").iterdir()} == {0o600}
    assert b"PRIVATE" not in first


async def test_no_secret_reaches_the_log(config: WriteConfig, keyd: FakeKeyd) -> None:
    async def refuse(_: api.SignRequest) -> Any:
        return refusal("budget_daily")

    async with serving(SELLER) as upstream, egress_process(config()) as egress:
        async with App(egress.address, upstream) as app:
            await app.send("/a?token=hidden", Authorization="Bearer hidden")
            assert (await app.answer()).status == 200
            await egress.event("egress.outcome.reported")
            assert (await app.get("/key?token=hidden", X_402_Key="0xhidden")).status == 402
            assert (await egress.event("egress.key_in_header"))["level"] == "warning"
            await egress.event("egress.rejected")
            keyd.sign = refuse
            await app.get("/b?token=hidden")
            assert (await egress.event("egress.rejected"))["reason"] == "budget_daily"
        egress.terminate()
        assert await egress.stopped() == 0
    payment = upstream.requests[1].get("PAYMENT-SIGNATURE")
    assert payment is not None
    for secret in ("hidden", payment, SIGNATURE):
        assert secret not in egress.log
    for line in egress.log.splitlines():
        assert {"event", "level", "timestamp"} <= json.loads(line).keys()


class SlowStream:
    """Answers at once with one half of a body; the other half follows when `more` is set."""

    def __init__(self) -> None:
        self.more = asyncio.Event()

    async def __call__(self, connection: Connection) -> None:
        await connection.request()
        await connection.send(response(200, {"Content-Length": "8"}, length=False) + b"half")
        await self.more.wait()
        await connection.send(b"rest")
        await connection.reader.read()  # the connection stays open


async def refused(egress: EgressProcess) -> bool:
    try:
        _, writer = await asyncio.open_connection(*egress.address)
    except ConnectionError:  # refused, or reset if the port was closed under it
        return True
    writer.close()
    return False


async def test_sigterm_lets_a_stream_finish_and_accepts_nothing_new(config: WriteConfig) -> None:
    slow = SlowStream()
    async with (
        serving(slow) as upstream,
        egress_process(config()) as egress,
        App(egress.address, upstream) as app,
    ):
        await app.send()
        await app.answer(head_only=True)
        assert await app.reader.readexactly(4) == b"half"
        egress.terminate()
        assert (await egress.event("egress.draining"))["live"] == 1
        while not await refused(egress):
            pass  # the log line comes just before the port is closed
        slow.more.set()
        assert await app.reader.readexactly(4) == b"rest"
        assert (await egress.event("egress.drained"))["cut_off"] == 0
        assert await egress.stopped() == 0


@pytest.mark.parametrize("tunnelled", [False, True], ids=["request", "tunnel"])
async def test_however_often_it_looks_what_is_under_way_is_not_cut_off(
    run_egress: RunEgress, keyd: FakeKeyd, pki: Pki, monkeypatch: pytest.MonkeyPatch, tunnelled: bool
) -> None:
    monkeypatch.setattr("egress.proxy._DRAIN_POLL_S", 0.001)
    monkeypatch.setattr("egress.proxy._TUNNEL_QUIET_S", 300.0)
    keyd.allowed_domains = []
    trusting = ssl.create_default_context(cafile=str(pki.upstream_ca)) if tunnelled else None
    slow, looked = SlowStream(), asyncio.Semaphore(0)
    async with (
        serving(slow, pki.server if tunnelled else None) as upstream,
        run_egress() as egress,
        App(egress.address, upstream, trusting) as app,
    ):
        busy = egress._busy

        def look() -> bool:
            looked.release()
            return busy()

        monkeypatch.setattr(egress, "_busy", look)
        await app.send()
        await app.answer(head_only=True)
        egress.drain()
        async with asyncio.timeout(60):
            for _ in range(5):
                await looked.acquire()
        slow.more.set()
        assert await app.reader.readexactly(8) == b"halfrest"


async def test_sigterm_waits_for_a_stream_no_longer_than_configured(config: WriteConfig) -> None:
    slow = SlowStream()
    async with (
        serving(slow) as upstream,
        egress_process(config(drain_seconds=0.2)) as egress,
        App(egress.address, upstream) as app,
    ):
        await app.send()
        await app.answer(head_only=True)
        egress.terminate()
        assert (await egress.event("egress.drained"))["cut_off"] == 1
        assert await egress.stopped() == 0
        slow.more.set()


async def test_sigterm_waits_for_a_busy_tunnel_but_not_for_an_idle_one(
    config: WriteConfig, keyd: FakeKeyd, pki: Pki
) -> None:
    keyd.allowed_domains = []
    trusting = ssl.create_default_context(cafile=str(pki.upstream_ca))
    slow = SlowStream()
    async with (
        serving(slow, pki.server) as upstream,
        egress_process(config()) as egress,
        App(egress.address, upstream, trusting) as app,
    ):
        await app.send()
        await app.answer(head_only=True)
        egress.terminate()
        assert (await egress.event("egress.draining"))["live"] == 0  # no request is seen inside a tunnel
        slow.more.set()
        assert await app.reader.readexactly(8) == b"halfrest"
        await egress.event("egress.drained")  # although application and server keep the tunnel open
        assert await egress.stopped() == 0


SILENT_RESOLVER = """
import socket, sys, threading
answer = socket.getaddrinfo
def getaddrinfo(host, *rest, **options):
    if host != "silent.example":
        return answer(host, *rest, **options)
    print('{"event": "asked"}', file=sys.stderr, flush=True)
    threading.Event().wait()
socket.getaddrinfo = getaddrinfo
"""


async def test_sigterm_does_not_wait_for_a_name_server(config: WriteConfig, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SILENT_RESOLVER)
    environment = {"PYTHONPATH": str(tmp_path)}
    async with egress_process(config(drain_seconds=0.1), environment=environment) as egress:
        _, writer = await asyncio.open_connection(*egress.address)
        writer.write(b"GET http://silent.example/ HTTP/1.1\r\nHost: silent.example\r\n\r\n")
        await egress.event("asked")
        egress.terminate()
        async with asyncio.timeout(10):
            assert await egress.stopped() == 0
        writer.close()


async def test_a_second_sigterm_stops_at_once(config: WriteConfig) -> None:
    slow = SlowStream()
    async with (
        serving(slow) as upstream,
        egress_process(config()) as egress,
        App(egress.address, upstream) as app,
    ):
        await app.send()
        await app.answer(head_only=True)
        egress.terminate()
        await egress.event("egress.draining")
        egress.terminate()
        assert await egress.stopped() == 0
        slow.more.set()


async def test_a_report_that_is_under_way_is_delivered_before_the_stop(
    config: WriteConfig, keyd: FakeKeyd
) -> None:
    keyd.outcome_gate.clear()
    async with serving(SELLER) as upstream, egress_process(config()) as egress:
        async with App(egress.address, upstream) as app:
            assert (await app.get()).status == 200
        egress.terminate()
        await egress.event("egress.drained")
        keyd.outcome_gate.set()
        assert await egress.stopped() == 0
    assert (await keyd.outcomes.get()).http_status == 200
    assert "egress.outcome.reported" in egress.log
