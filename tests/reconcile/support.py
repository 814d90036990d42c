"""A JSON-RPC server on loopback with a chain of its own, that can be told to lie, stall and break."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from keyd.api import OpenPayment
from reconcile.chain import AUTHORIZATION_USED

NETWORK = "eip155:84532"
BLOCK_S = 2

type Handler = Callable[[web.Request], Any]


def block_hash(number: int, fork: int = 0) -> str:
    return f"0x{fork:032x}{number:032x}"


@dataclass
class FakeChain:
    """One chain: a block every two seconds since `genesis`, and which authorizations were used in which block."""

    genesis: int
    height: int
    fork: int = 0
    uses: dict[tuple[str, str], int] = field(default_factory=dict)
    """(payer, nonce), lower case → block."""

    def block_at(self, time: int) -> int:
        """The first block at or after `time`."""
        return -((self.genesis - time) // BLOCK_S)

    def time_of(self, number: int) -> int:
        return self.genesis + number * BLOCK_S

    def settle(self, payment: OpenPayment, time: int) -> str:
        """Uses the authorization; returns the transaction's hash."""
        number = self.block_at(time)
        self.uses[payment.payer.lower(), payment.nonce] = number
        return self.transaction(number)

    def transaction(self, number: int) -> str:
        return f"0x{0xFEED:032x}{number:032x}"

    def header(self, number: int) -> dict[str, Any] | None:
        if not 0 <= number <= self.height:
            return None
        when = hex(self.time_of(number))
        return {"number": hex(number), "hash": block_hash(number, self.fork), "timestamp": when}

    def is_used(self, payer: str, nonce: str, number: int) -> bool:
        block = self.uses.get((payer, nonce))
        return block is not None and block <= number

    def logs(self, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        _, authorizer, nonce = wanted["topics"]
        number = self.uses.get(("0x" + authorizer[26:], nonce))
        if number is None or not int(wanted["fromBlock"], 16) <= number <= int(wanted["toBlock"], 16):
            return []
        return [
            {
                "address": wanted["address"].lower(),
                "topics": [AUTHORIZATION_USED, authorizer, nonce],
                "blockNumber": hex(number),
                "transactionHash": self.transaction(number),
                "removed": False,
            }
        ]


@dataclass
class FakeNode:
    """A server of `chain`. Every member that says so can be set while it runs."""

    chain: FakeChain
    chain_id: int = 84532
    tags: dict[str, int] = field(default_factory=dict)
    """Depth below the height that a tag names; `latest` is always known."""
    batches: bool = True
    max_logs: int = 10_000
    """Blocks in one eth_getLogs."""
    liar: Callable[[str, list[Any], Any], Any] = lambda method, params, result: result
    """Sees method, params and the true result; returns the result to send, or raises Refuse."""
    http: Handler | None = None
    """Answers instead of JSON-RPC."""
    after: Callable[[list[dict[str, Any]]], Any] = lambda answers: answers
    """Sees the list of whole answers, before they are sent."""
    calls: list[str] = field(default_factory=list)
    requests: int = 0
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        questions = await request.json()
        if self.http is not None:
            return await self.http(request)
        if isinstance(questions, dict):
            return web.json_response(self.after([self._answer(questions)])[0])
        if not self.batches:
            refusal = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "no batches"}}
            return web.json_response(refusal)
        # The specification allows any order.
        return web.json_response(self.after([self._answer(q) for q in reversed(questions)]))

    def _answer(self, question: dict[str, Any]) -> dict[str, Any]:
        method, params = question["method"], question["params"]
        self.calls.append(method)
        head = {"jsonrpc": "2.0", "id": question["id"]}
        try:
            return head | {"result": self.liar(method, params, self._result(method, params))}
        except Refuse as refusal:
            return head | {"error": {"code": refusal.code, "message": refusal.message}}

    def _result(self, method: str, params: list[Any]) -> Any:
        match method, params:
            case "eth_chainId", []:
                return hex(self.chain_id)
            case "eth_getBlockByNumber", [block, False]:
                if block.startswith("0x"):
                    return self.chain.header(int(block, 16))
                if block != "latest" and block not in self.tags:
                    raise Refuse(-39001, "Unknown block")
                return self.chain.header(self.chain.height - self.tags.get(block, 0))
            case "eth_call", [{"to": _, "data": data}, block]:
                used = self.chain.is_used("0x" + data[34:74], "0x" + data[74:], int(block, 16))
                return f"0x{int(used):064x}"
            case "eth_getLogs", [wanted]:
                if int(wanted["toBlock"], 16) - int(wanted["fromBlock"], 16) >= self.max_logs:
                    raise Refuse(-32005, "block range too large")
                return self.chain.logs(wanted)
        raise Refuse(-32601, f"{method} {params} is not what this fake knows")


class Refuse(Exception):
    """The server answers with a JSON-RPC error."""

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = code, message


@asynccontextmanager
async def serving(node: FakeNode, tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeNode]:
    """With `tls`, as https://localhost."""
    path = "/v2/api-key-of-the-provider"
    app = web.Application()
    app.router.add_post(path, node.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    origin = "https://localhost" if tls else "http://127.0.0.1"
    node.url = f"{origin}:{runner.addresses[0][1]}{path}"
    yield node
    await runner.cleanup()


async def never(_: web.Request) -> web.StreamResponse:
    """Does not answer at all."""
    await asyncio.Event().wait()
    raise AssertionError


def answering(body: bytes | Any, status: int = 200, **headers: str) -> Handler:
    """One answer to everything."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=data, status=status, headers=headers, content_type="application/json")

    return answer
