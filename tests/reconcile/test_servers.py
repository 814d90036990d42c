"""Servers that lie, contradict each other, break, stall. A pass survives them all and concludes nothing from them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from reconcile.reconciler import Summary
from reconcile.rpc import MAX_ANSWER
from tests.reconcile.conftest import Stage
from tests.reconcile.support import (
    FakeChain,
    FakeNode,
    Handler,
    Refuse,
    answering,
    block_hash,
    never,
    serving,
)
from tests.reconcile.test_pass import VOID

type Lie = Callable[[str, list[Any], Any], Any]


def says(method: str, result: Any) -> Lie:
    """Answers calls of `method` with `result`, or with what it makes of the truth."""

    def lie(asked: str, params: list[Any], truth: Any) -> Any:
        if asked != method:
            return truth
        return result(truth) if callable(result) else result

    return lie


def refuses(method: str, code: int = -32000, message: str = "no") -> Lie:
    def lie(asked: str, params: list[Any], truth: Any) -> Any:
        if asked == method:
            raise Refuse(code, message)
        return truth

    return lie


def another_height(method: str, params: list[Any], truth: Any) -> Any:
    """The right header when asked by tag, the wrong one when asked by height."""
    if method == "eth_getBlockByNumber" and params[0] != "latest":
        return truth | {"number": hex(int(params[0], 16) + 1)}
    return truth


LIES: dict[str, Lie] = {
    "another chain": says("eth_chainId", "0x1"),
    "chain id as a number": says("eth_chainId", 84532),
    "chain id in decimal": says("eth_chainId", "84532"),
    "chain id with a leading zero": says("eth_chainId", "0x014a34"),
    "no chain id": refuses("eth_chainId"),
    "no block": says("eth_getBlockByNumber", None),
    "block is a list": says("eth_getBlockByNumber", []),
    "block without a hash": says("eth_getBlockByNumber", lambda b: b | {"hash": None}),
    "short block hash": says("eth_getBlockByNumber", lambda b: b | {"hash": "0x12"}),
    "negative time": says("eth_getBlockByNumber", lambda b: b | {"timestamp": "-0x1"}),
    "time beyond every clock": says("eth_getBlockByNumber", lambda b: b | {"timestamp": "0x" + "f" * 64}),
    "another block than asked": another_height,
    "no calls": refuses("eth_call", 3, "execution reverted"),
    "no contract": says("eth_call", "0x"),
    "a short word": says("eth_call", "0x0"),
    "a long word": says("eth_call", "0x" + "0" * 128),
    "two": says("eth_call", "0x" + "0" * 63 + "2"),
    "digits of another script": says("eth_call", "0x" + "٠" * 64),
    "a bool": says("eth_call", False),
    "nothing": says("eth_call", None),
    "an object": says("eth_call", {"used": True}),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("batches", [True, False])
async def test_an_answer_that_is_not_one_concludes_nothing(stage: Stage, lie: Lie, batches: bool) -> None:
    await stage.pay()
    stage.advance(VOID)
    stage.nodes[0].liar, stage.nodes[0].batches = lie, batches
    with capture_logs() as logs:
        summary = await stage.reconcile()
    assert (summary, summary.failed) == (Summary(unreachable=1), 1)
    assert stage.spent() == "0.001"
    assert {e["server"] for e in logs if "server" in e} == {stage.nodes[0].url.split("/")[2]}
    stage.nodes[0].liar = FakeNode(stage.chain).liar
    assert await stage.reconcile() == Summary(released=1)


async def drip(request: web.Request) -> web.StreamResponse:
    """A byte now and then, for ever."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.05)


async def flood(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65536)


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


BROKEN: dict[str, Handler] = {
    "silence": never,
    "dripping": drip,
    "flood": flood,
    "hangs up": hang_up,
    "too large": answering(b'"' + b"x" * MAX_ANSWER + b'"'),
    "not JSON": answering(b"<html>busy</html>"),
    "not UTF-8": answering(b"\xff\xfe"),
    "empty": answering(b""),
    "nested without end": answering(b"[" * 200_000),
    "digits by the thousand": answering(b"1" * 100_000),
    "null": answering(None),
    "a string": answering("0x14a34"),
    "an empty list": answering([]),
    "a list of nonsense": answering([1, None, [], {}]),
    "another id": answering({"jsonrpc": "2.0", "id": 999_999, "result": "0x14a34"}),
    "true for id": answering({"jsonrpc": "2.0", "id": True, "result": "0x14a34"}),
    "neither result nor error": answering({"jsonrpc": "2.0", "id": 3}),
    "an error that is none": answering({"jsonrpc": "2.0", "id": 3, "error": "no"}),
    "a redirect": answering(b"", 302, Location="/elsewhere"),
    "unauthorized": answering({"error": "key"}, 401),
    "too many requests": answering({"error": "slow down"}, 429),
    "server error": answering(b"oops", 500),
    "compressed": answering(b"\x1f\x8b\x08nonsense", 200, **{"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("http", BROKEN.values(), ids=BROKEN)
async def test_a_broken_server_concludes_nothing(stage: Stage, http: Handler) -> None:
    await stage.pay()
    stage.advance(VOID)
    stage.nodes[0].http = http
    with capture_logs() as logs:
        summary = await stage.reconcile(timeout_seconds=0.3)
    assert (summary, summary.failed) == (Summary(unreachable=1), 1)
    assert "api-key" not in str(logs)
    assert stage.nodes[0].requests <= 3


async def test_a_redirect_is_not_followed(stage: Stage) -> None:
    await stage.pay()
    stage.advance(VOID)
    async with serving(FakeNode(stage.chain)) as honest:
        stage.nodes[0].http = answering(b"", 307, Location=honest.url)
        assert await stage.reconcile() == Summary(unreachable=1)
        assert honest.requests == 0


async def test_a_server_that_cannot_be_reached_is_named_by_its_host(stage: Stage) -> None:
    await stage.pay()
    with capture_logs() as logs:
        assert await stage.reconcile(rpc=["http://user:password@127.0.0.1:1/api-key"]) == Summary(
            unreachable=1
        )
    assert logs[0]["server"] == "127.0.0.1:1"
    assert logs[0]["error"].startswith("cannot connect")
    assert "password" not in str(logs)
    assert "api-key" not in str(logs)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("missing trie node", "missing trie node"),
        ("key api-key-of-the-provider is blocked", "withheld"),
        ("no such path /V2/API-Key-Of-The-Provider", "withheld"),
        ("\x1b[2J" + "x" * 5000, "\\\\x1b[2J"),
    ],
)
async def test_a_servers_words_are_shown_clipped_and_never_with_its_key(
    stage: Stage, message: str, shown: str
) -> None:
    await stage.pay()
    stage.advance(VOID)
    stage.nodes[0].liar = refuses("eth_call", -32000, message)
    with capture_logs() as logs:
        assert await stage.reconcile() == Summary(unreachable=1)
    error = next(e["error"] for e in logs if e["event"] == "reconcile.payment.unanswered")
    assert shown.replace("\\\\", "\\") in error
    assert "api-key" not in error.lower()
    assert len(error) < 250


async def test_a_tag_that_the_server_does_not_know_is_named_with_the_way_out(stage: Stage) -> None:
    await stage.pay()
    stage.advance(VOID)
    with capture_logs() as logs:
        assert await stage.reconcile(block="safe") == Summary(unreachable=1)
    assert "does not know block 'safe'" in logs[0]["error"]
    assert "set `block`" in logs[0]["error"]


async def test_a_block_that_is_replaced_during_the_questions_concludes_nothing(stage: Stage) -> None:
    await stage.pay()
    stage.advance(VOID)

    def reorganised(method: str, params: list[Any], truth: Any) -> Any:
        if method == "eth_getBlockByNumber" and params[0] != "latest":
            return truth | {"hash": block_hash(1, fork=1)}
        return truth

    stage.nodes[0].liar = reorganised
    with capture_logs() as logs:
        assert await stage.reconcile() == Summary(unreachable=1)
    assert "was replaced" in logs[0]["error"]


@pytest.mark.parametrize("wrong", ["used", "unused"])
async def test_servers_that_contradict_each_other_conclude_nothing(two: Stage, wrong: str) -> None:
    payment = await two.pay()
    two.advance(VOID)
    if wrong == "unused":
        two.chain.settle(payment, payment.signed_at)
    two.nodes[1].liar = says("eth_call", f"0x{int(wrong == 'used'):064x}")
    entries = len(two.rig.entries())
    with capture_logs() as logs:
        summary = await two.reconcile()
    assert (summary, summary.failed) == (Summary(contradicted=1), 1)
    assert len(two.rig.entries()) == entries
    [line] = [e for e in logs if e["event"] == "reconcile.payment.contradicted"]
    assert line["log_level"] == "error"
    assert [said.split(": ")[0] for said in line["servers"]] == [node.url.split("/")[2] for node in two.nodes]
    assert "api-key" not in str(logs)


async def test_a_majority_does_not_outvote_a_contradiction(two: Stage) -> None:
    async with serving(FakeNode(two.chain, liar=says("eth_call", f"0x{1:064x}"))) as liar:
        two.nodes.append(liar)
        await two.pay()
        two.advance(VOID)
        assert await two.reconcile(agree=2) == Summary(contradicted=1)
        assert two.spent() == "0.001"


async def test_servers_on_different_forks_conclude_nothing(stage: Stage) -> None:
    fork = FakeChain(stage.chain.genesis, stage.chain.height + VOID // 2, fork=1)
    async with serving(FakeNode(fork)) as other:
        stage.nodes.append(other)
        await stage.pay()
        stage.advance(VOID)
        assert await stage.reconcile() == Summary(contradicted=1)
        assert stage.spent() == "0.001"


async def test_one_silent_server_of_two_concludes_nothing_unless_one_is_enough(two: Stage) -> None:
    await two.pay()
    two.advance(VOID)
    two.nodes[0].http = never
    assert await two.reconcile(timeout_seconds=0.3) == Summary(unreachable=1)
    assert two.spent() == "0.001"
    # the other one must have answered by then, on any machine
    assert await two.reconcile(timeout_seconds=3.0, agree=1) == Summary(released=1)
    assert two.proofs()[0]["proof"]["sources"] == 1


async def test_a_silent_server_costs_one_timeout_a_pass(stage: Stage) -> None:
    for what in range(30):
        await stage.pay(what=what)
    stage.nodes[0].http = never
    # long enough for the question to arrive, on any machine
    assert await stage.reconcile(timeout_seconds=2.0) == Summary(unreachable=30)
    assert stage.nodes[0].requests == 1


async def test_a_release_is_proven_at_the_block_of_the_weakest_witness(two: Stage) -> None:
    await two.pay()
    two.advance(VOID)
    two.nodes[1].tags["finalized"] = 1
    two.nodes[0].tags["finalized"] = 0
    assert await two.reconcile(block="finalized") == Summary(open=1)
    assert two.spent() == "0.001"
    two.nodes[1].tags["finalized"] = 0
    assert await two.reconcile(block="finalized") == Summary(released=1)
    assert two.proofs()[0]["proof"]["sources"] == 2


async def test_a_server_that_lags_is_waited_for(two: Stage) -> None:
    payment = await two.pay()
    two.advance(40)
    transaction = two.chain.settle(payment, payment.signed_at + 30)
    two.nodes[0].tags["finalized"] = 0
    two.nodes[1].tags["finalized"] = 10
    summary = await two.reconcile(block="finalized")
    assert (summary, summary.failed) == (Summary(open=1), 0)
    two.nodes[1].tags["finalized"] = 2
    assert await two.reconcile(block="finalized") == Summary(settled=1)
    [proof] = two.proofs()
    assert proof["transaction"] == transaction
    assert proof["proof"]["block_number"] == two.chain.height


async def test_servers_that_name_different_transactions_leave_it_out(two: Stage) -> None:
    payment = await two.pay()
    two.chain.settle(payment, payment.signed_at)
    two.advance(20)
    forged = says("eth_getLogs", lambda logs: [log | {"transactionHash": "0x" + "66" * 32} for log in logs])
    two.nodes[1].liar = forged
    with capture_logs() as logs:
        assert await two.reconcile() == Summary(settled=1)
    assert two.proofs()[0]["transaction"] is None
    assert "reconcile.events.contradicted" in [e["event"] for e in logs]


def another(**members: Any) -> Callable[[list[dict[str, Any]]], Any]:
    return lambda logs: [log | members for log in logs]


@pytest.mark.parametrize(
    "logs",
    [
        None,
        {},
        [None],
        lambda logs: logs * 2 + [{}],
        another(topics=[]),
        another(topics=None),
        another(address="0x" + "11" * 20),
        another(blockNumber="0x1"),
        another(blockNumber=7),
        another(transactionHash="0x"),
        another(removed=True),
        lambda logs: logs + [log | {"transactionHash": "0x" + "66" * 32} for log in logs],
    ],
    ids=str,
)
async def test_an_event_that_was_not_asked_for_is_not_believed(stage: Stage, logs: Any) -> None:
    payment = await stage.pay()
    stage.chain.settle(payment, payment.signed_at)
    stage.advance(20)
    stage.nodes[0].liar = says("eth_getLogs", logs)
    assert await stage.reconcile() == Summary(settled=1)
    assert stage.proofs()[0]["transaction"] is None


async def test_headers_whose_time_runs_backwards_end_the_search(stage: Stage) -> None:
    payment = await stage.pay()
    stage.chain.settle(payment, payment.signed_at)
    stage.advance(100_000)
    head = hex(stage.chain.height)

    def backwards(method: str, params: list[Any], truth: Any) -> Any:
        if method == "eth_getBlockByNumber" and params[0] not in ("latest", head):
            return truth | {"timestamp": "0xffffffff"}
        return truth

    stage.nodes[0].liar = backwards
    with capture_logs() as logs:
        assert await stage.reconcile() == Summary(settled=1)
    assert stage.proofs()[0]["transaction"] is None
    assert "runs backwards" in next(e["error"] for e in logs if e["event"] == "reconcile.events.unavailable")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda answers: answers[:-1],
        lambda answers: answers + answers,
        lambda answers: [a | {"id": answers[0]["id"]} for a in answers],
        lambda answers: [a | {"id": str(a["id"])} for a in answers],
        lambda answers: [a | {"id": -a["id"]} for a in answers],
    ],
)
async def test_a_batch_whose_answers_do_not_match_is_no_answer(
    stage: Stage, spoil: Callable[[list[dict[str, Any]]], Any]
) -> None:
    await stage.pay()
    stage.advance(VOID)
    stage.nodes[0].after = spoil
    assert await stage.reconcile() == Summary(unreachable=1)
