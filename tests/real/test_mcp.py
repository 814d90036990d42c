"""The official MCP client calls tools of the official paid MCP server, and money moves for what was sold."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.support import counterparts
from tests.real.support.authority import Authority
from tests.real.support.counterparts import ROOT, Chain
from tests.real.support.payer import Payer, verify_offline

pytestmark = pytest.mark.real

PRICE = 1_000
"""Of a paid tool, in atomic units."""
CLIENT = ROOT / "tests/real/programs/with_mcp.py"
MCP_PYTHON = ROOT / ".cache/programs/venv/bin/python"


@pytest.fixture(scope="module")
def server(
    chain: Chain,
    facilitator: str,
    authority: Authority,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """URL of the official paid MCP server, over TLS."""
    folder = tmp_path_factory.mktemp("mcp")
    program = counterparts.server_program("mcp", chain, facilitator, folder, authority)
    yield program.start()["url"]
    program.stop()


@pytest.fixture(scope="module")
def shopper(
    server: str, chain: Chain, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Payer]:
    folder = tmp_path_factory.mktemp("shopper")
    with Payer(folder, [server], chain.keys["payer"], upstream_ca=authority.ca) as running:
        yield running


def call(payer: Payer, url: str, *calls: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [MCP_PYTHON, CLIENT, url],
        input=json.dumps(calls),
        env=payer.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def tool_calls(payer: Payer, url: str) -> list[dict[str, Any]]:
    """The calls of tools that have reached the server."""
    done = subprocess.run(
        ["curl", "-sS", f"{url}/seen"], env=payer.environment, capture_output=True, check=True, timeout=60
    )
    return [seen for seen in json.loads(done.stdout) if seen["method"] == "tools/call"]


@pytest.mark.parametrize("transport", ["events", "json"])
def test_a_paid_tool_answers_a_client_that_knows_nothing_of_payments(
    transport: str, server: str, shopper: Payer, chain: Chain
) -> None:
    before, settled = chain.balance("payer"), shopper.settled()

    (answer,) = call(shopper, f"{server}/{transport}/mcp", ("weather", {"city": f"Bern {transport}"}))

    assert json.loads(answer["text"]) == {"city": f"Bern {transport}", "weather": "sunny"}
    assert not answer["error"]
    assert answer["meta"]["x402/payment-response"]["success"] is True
    assert before - chain.balance("payer") == PRICE == shopper.settled() - settled
    assert verify_offline(shopper.keyd).ok


@pytest.mark.parametrize("transport", ["events", "json"])
def test_the_paid_call_has_an_id_of_its_own(transport: str, server: str, shopper: Payer) -> None:
    known = len(tool_calls(shopper, server))
    call(shopper, f"{server}/{transport}/mcp", ("weather", {"city": f"Genf {transport}"}))
    first, second = tool_calls(shopper, server)[known:]
    assert first["id"] != second["id"]
    assert second["params"]["_meta"].pop("x402/payment")["x402Version"] == 2
    assert (first["params"].get("_meta") or {}) == second["params"]["_meta"]
    assert first["params"]["arguments"] == second["params"]["arguments"]


@pytest.mark.parametrize("transport", ["events", "json"])
def test_many_calls_in_one_session_get_each_its_own_answer(
    transport: str, server: str, shopper: Payer, chain: Chain
) -> None:
    before = chain.balance("payer")
    cities = [f"{transport} {number}" for number in range(5)]
    calls = [("weather", {"city": city}) for city in cities] + [("free", {"city": city}) for city in cities]

    answers = call(shopper, f"{server}/{transport}/mcp", *calls)

    assert [json.loads(answer["text"])["city"] for answer in answers[:5]] == cities
    assert [answer["text"] for answer in answers[5:]] == [f"free {city}" for city in cities]
    assert before - chain.balance("payer") == 5 * PRICE


def test_progress_of_a_tool_arrives(server: str, shopper: Payer) -> None:
    (answer,) = call(shopper, f"{server}/events/mcp", ("slow", {"steps": 3}))
    assert (answer["text"], answer["progress"]) == ("done", [0, 1, 2])


@pytest.mark.parametrize("transport", ["events", "json"])
def test_a_tool_whose_content_imitates_terms_is_not_paid(
    transport: str, server: str, shopper: Payer, chain: Chain
) -> None:
    signed = shopper.signed()
    (answer,) = call(shopper, f"{server}/{transport}/mcp", ("imitate", {}))
    assert json.loads(answer["text"])["accepts"]
    assert shopper.signed() == signed


def test_a_tool_beyond_the_limit_is_refused_in_its_own_words(
    server: str, chain: Chain, authority: Authority, tmp_path: Path
) -> None:
    with Payer(
        tmp_path, [server], chain.keys["payer"], upstream_ca=authority.ca, max_payment_usd="0.0001"
    ) as poor:
        (answer,) = call(poor, f"{server}/events/mcp", ("weather", {"city": "Chur"}))
        assert answer["error"]
        assert json.loads(answer["text"])["accepts"][0]["amount"] == str(PRICE)
        assert poor.signed() == {}
        (entry,) = poor.entries("x402.payment.rejected")
        assert entry["data"]["code"] == "cap_per_payment"


def test_a_large_result_arrives_whole(server: str, shopper: Payer) -> None:
    (answer,) = call(shopper, f"{server}/events/mcp", ("long", {"size": 900_000}))
    assert len(answer["text"]) == 900_000
