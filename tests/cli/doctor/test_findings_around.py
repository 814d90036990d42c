"""Proxy, certificates and RPC servers: each check where all is well, and where it is not."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from egress.reach import fence as fence_of_egress
from keyd.cli.doctor.findings import Level
from keyd.cli.doctor.network import (
    FENCE_TABLE,
    MAX_ANSWER,
    Server,
    check_ca,
    check_fence,
    check_keyd_up,
    check_link,
    check_networks,
    check_proxy,
    check_servers,
    judge_server,
    servers,
)
from keyd.cli.subprocesses import Done
from tests.cli.json_rpc import answering
from tests.loopback import refusing_port

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
BASE = Server("eip155:8453", "https://rpc.example.com/v2/secret-key")


def levels(findings):
    return [finding.level for finding in findings]


# -- proxy ------------------------------------------------------------------------------------------------


def test_a_proxy_that_listens_is_well_and_one_that_does_not_is_a_fault():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert levels(check_proxy("127.0.0.1", port)) == [Level.OK]
    with refusing_port() as port:
        (finding,) = check_proxy("127.0.0.1", port)
    assert finding.level is Level.FAULT
    assert finding.remedy == "systemctl start osmoda-egress; journalctl -u osmoda-egress"


def test_egress_and_keyd_must_mean_the_same_socket_and_know_each_other():
    assert list(check_link("/run/a", "/run/a", ["osmoda-egress"])) == []
    assert levels(check_link("/run/a", "/run/b", ["osmoda-egress"])) == [Level.FAULT]
    (finding,) = check_link("/run/a", "/run/a", [])
    assert "[peers]" in (finding.remedy or "")


@contextmanager
def metrics(text: str) -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("# TYPE osmoda_egress_keyd_up gauge\nosmoda_egress_keyd_up 1.0\n", Level.OK),
        ('osmoda_egress_keyd_up{worker="1"} 1.0\nosmoda_egress_keyd_up{worker="2"} 0.0\n', Level.FAULT),
        ("osmoda_egress_keyd_up 0.0\n", Level.FAULT),
        ("something else", Level.FAULT),
    ],
)
def test_egress_itself_says_whether_keyd_answers_it(text, level):
    with metrics(text) as listen:
        assert levels(check_keyd_up(listen)) == [level]


def test_without_metrics_nobody_asks_egress_and_metrics_that_do_not_answer_are_noted():
    assert list(check_keyd_up(None)) == []
    with refusing_port() as port:
        assert levels(check_keyd_up(f"127.0.0.1:{port}")) == [Level.NOTE]


def fence(answer, *, is_root=True, users=("robot",)):
    return list(check_fence(users, lambda command: answer, is_root=is_root))


def test_the_fence_is_up_or_it_is_a_fault():
    assert levels(fence(Done(0, "table inet osmoda_fence", ""))) == [Level.OK]
    for answer in (Done(1, "", "No such file or directory"), None):
        assert levels(fence(answer)) == [Level.FAULT]
    assert levels(fence(None, is_root=False)) == [Level.SKIPPED]
    assert fence(None, users=()) == []


def test_the_fence_that_is_looked_for_is_the_one_that_egress_makes():
    assert FENCE_TABLE == fence_of_egress.TABLE


# -- certificate authority --------------------------------------------------------------------------------


@pytest.fixture
def authority(tmp_path):
    def make(days: int = 365, name: str = "ca-cert.pem"):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mitmproxy")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(NOW - timedelta(days=400))
            .not_valid_after(NOW + timedelta(days=days))
            .sign(key, hashes.SHA256())
        )
        path = tmp_path / name
        path.write_bytes(certificate.public_bytes(Encoding.PEM))
        return path

    return make


def test_an_authority_in_the_systems_bundle_is_trusted(authority, tmp_path):
    ours, other, bundle = authority(), authority(name="other.pem"), tmp_path / "bundle.crt"
    bundle.write_bytes(other.read_bytes() + ours.read_bytes())
    assert levels(check_ca(ours, bundle, NOW)) == [Level.OK]
    bundle.write_bytes(other.read_bytes())
    (finding,) = check_ca(ours, bundle, NOW)
    assert finding.level is Level.NOTE
    assert "keyctl x402 run" in (finding.remedy or "")
    assert levels(check_ca(ours, None, NOW)) == [Level.NOTE]


def test_an_authority_that_is_missing_void_or_nonsense_is_a_fault(authority, tmp_path):
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("-----BEGIN CERTIFICATE-----\n")
    for path in (tmp_path / "none.pem", authority(days=-1), nonsense):
        assert levels(check_ca(path, None, NOW)) == [Level.FAULT]


def test_an_authority_that_ends_soon_is_noted(authority):
    assert "expires in 10 days" in next(check_ca(authority(days=10), None, NOW)).message


# -- chain ------------------------------------------------------------------------------------------------


def test_networks_without_a_server_are_noted():
    assert list(check_networks(["eip155:8453"], [BASE])) == []
    (finding,) = check_networks(["eip155:8453", "eip155:1"], [BASE])
    assert finding.level is Level.NOTE
    assert "eip155:1 " in finding.message


def test_the_servers_of_a_reconcile_toml_are_found():
    table = {"networks": [{"network": "eip155:1", "rpc": ["https://a", "https://b"]}]}
    assert [server.url for server in servers(table)] == ["https://a", "https://b"]
    assert servers({}) == []


@pytest.mark.parametrize(
    ("chain_id", "age_s", "level"),
    [
        (8453, 2, Level.OK),
        (1, 2, Level.FAULT),
        (8453, 121, Level.NOTE),
        (8453, -121, Level.FAULT),
    ],
)
def test_a_server_is_of_the_right_network_and_agrees_with_the_clock(chain_id, age_s, level):
    (finding,) = judge_server(BASE, chain_id, age_s)
    assert finding.level is level
    assert "secret-key" not in f"{finding}"


def base(question) -> str:
    results = {
        "eth_chainId": "0x2105",
        "eth_getBlockByNumber": {"timestamp": hex(int(NOW.timestamp()) - 2)},
    }
    return json.dumps({"jsonrpc": "2.0", "id": question["id"], "result": results[question["method"]]})


def test_a_server_that_answers_is_well():
    with answering(base) as url:
        (finding,) = check_servers([Server("eip155:8453", url)], NOW)
    assert (finding.level, finding.message) == (Level.OK, "127.0.0.1 answers for eip155:8453")


@pytest.mark.parametrize(
    "answer",
    [
        "no JSON",
        "[]",
        '{"error": {"code": -32000}}',
        '{"result": null}',
        '{"result": "0x"}',
        '{"result": {"timestamp": "x"}}',
        '{"result": "' + "0" * MAX_ANSWER + '"}',
    ],
)
def test_a_server_that_answers_nonsense_is_a_fault_and_its_url_is_not_shown(answer):
    with answering(lambda question: answer) as url:
        (finding,) = check_servers([Server("eip155:8453", url)], NOW)
    assert (finding.level, finding.message) == (Level.FAULT, "127.0.0.1 does not answer as an RPC server")
    assert "secret-key" not in f"{finding}"


def test_a_server_that_is_not_there_is_a_fault():
    with refusing_port() as port:
        url = f"http://127.0.0.1:{port}/secret-key"
        (finding,) = check_servers([Server("eip155:8453", url)], NOW)
    assert finding.level is Level.FAULT
    assert "secret-key" not in f"{finding}"
