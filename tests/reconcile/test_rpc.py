"""JSON-RPC itself: which answers belong to which calls, and how much is read."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from reconcile.calls import Call, RpcError
from reconcile.faults import NodeFault
from reconcile.rpc import MAX_ANSWER, JsonRpc, open_session
from tests.real.support.authority import make_authority
from tests.reconcile.support import FakeChain, FakeNode, Refuse, serving

CHAIN_ID = Call("eth_chainId")


@pytest.fixture
async def node() -> AsyncIterator[FakeNode]:
    async with serving(FakeNode(FakeChain(0, 100))) as node:
        yield node


@pytest.fixture
async def rpc(node: FakeNode) -> AsyncIterator[JsonRpc]:
    async with open_session() as session:
        yield JsonRpc(session, node.url, timeout_s=60)


@pytest.mark.parametrize("batches", [True, False])
async def test_answers_come_in_the_order_of_the_calls(rpc: JsonRpc, node: FakeNode, batches: bool) -> None:
    node.batches = batches
    calls = [Call("eth_getBlockByNumber", (hex(n), False)) for n in range(25)]
    answers = await rpc.ask([*calls, Call("eth_nothing")])
    assert [int(answer["number"], 16) for answer in answers[:-1]] == list(range(25))
    assert isinstance(answers[-1], RpcError)
    # 26 calls: three batches, or one that is refused and each call by itself
    assert node.requests == (3 if batches else 1 + 26)


async def test_an_error_is_an_answer(rpc: JsonRpc, node: FakeNode) -> None:
    def refuse(*_: object) -> Any:
        raise Refuse(-32005, "limit exceeded")

    node.liar = refuse
    [error] = await rpc.ask([CHAIN_ID])
    assert error == RpcError(-32005, "'limit exceeded'")


async def test_an_error_about_a_call_that_could_not_be_read_has_no_id(rpc: JsonRpc, node: FakeNode) -> None:
    node.after = lambda _: [
        {"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "parse error"}}
    ]
    [error] = await rpc.ask([CHAIN_ID])
    assert isinstance(error, RpcError)


@pytest.mark.parametrize("given", [None, 0, 2, "1", True, 1.0, [1]])
async def test_a_result_under_another_id_is_refused(rpc: JsonRpc, node: FakeNode, given: Any) -> None:
    node.after = lambda answers: [answers[0] | {"id": given}]
    with pytest.raises(NodeFault, match="another id"):
        await rpc.ask([CHAIN_ID])


async def test_a_result_under_its_own_id_is_taken(rpc: JsonRpc, node: FakeNode) -> None:
    assert await rpc.ask([CHAIN_ID]) == [hex(node.chain_id)]


@pytest.mark.parametrize(("padding", "taken"), [(MAX_ANSWER - 100, True), (MAX_ANSWER, False)])
async def test_an_answer_is_read_up_to_its_limit(
    rpc: JsonRpc, node: FakeNode, padding: int, taken: bool
) -> None:
    async def padded(_: web.Request) -> web.StreamResponse:
        return web.Response(body=json.dumps({"id": 1, "result": "0x1"}).encode() + b" " * padding)

    node.http = padded
    if taken:
        assert await rpc.ask([CHAIN_ID]) == ["0x1"]
    else:
        with pytest.raises(NodeFault, match="more than"):
            await rpc.ask([CHAIN_ID])


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_certificate_has_to_be_trusted_by_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    authority = make_authority(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(authority.certificate, authority.key)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca))
    async with serving(FakeNode(FakeChain(0, 100)), tls) as node, open_session() as session:
        rpc = JsonRpc(session, node.url, timeout_s=60)
        if trusted:
            assert await rpc.ask([CHAIN_ID]) == [hex(node.chain_id)]
        else:
            with pytest.raises(NodeFault, match="certificate is not trusted"):
                await rpc.ask([CHAIN_ID])
            assert node.requests == 0
