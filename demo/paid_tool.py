"""A tool that is sold over MCP (streamable HTTP): as much of a server as one tool needs, on aiohttp.

Sources: x402 specs/transports-v2/mcp.md; MCP specification, basic/transports. The official servers are tried in
tests/real; this one shows the same conversation without what they need to be installed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from aiohttp import web

PRICE = 2_000
"""Atomic units of USDC: 0.002 USD."""
TOOL = {
    "name": "forecast",
    "description": "The weather of tomorrow. Costs 0.002 USDC.",
    "inputSchema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Till(Protocol):
    """Takes payments (demo.seller.Books)."""

    def requirements(self, price: int) -> dict[str, Any]: ...
    def settle_payload(self, payload: dict[str, Any], price: int, path: str) -> dict[str, Any]: ...


def add_to(app: web.Application, till: Till, refused: type[Exception]) -> None:
    """POST /mcp. `refused`: what the till raises for a payment that is not good."""

    async def answer(request: web.Request) -> web.Response:
        message = await request.json()
        if "id" not in message:  # a notification
            return web.Response(status=202)
        result = _result(message, lambda params: _call(params, till, refused))
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": result})

    async def no_stream(_: web.Request) -> web.Response:
        return web.Response(status=405)  # no messages by the server's own initiative

    app.router.add_post("/mcp", answer)
    app.router.add_get("/mcp", no_stream)


def _result(message: dict[str, Any], call: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    match message["method"]:
        case "initialize":
            return {
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "demo.paid_tool", "version": "1"},
            }
        case "tools/list":
            return {"tools": [TOOL]}
        case "tools/call":
            return call(message["params"])
    return {}


def _call(params: dict[str, Any], till: Till, refused: type[Exception]) -> dict[str, Any]:
    try:
        payment = (params.get("_meta") or {}).get("x402/payment") or {}
        settlement = till.settle_payload(payment, PRICE, "tools/call/forecast")
    except refused as refusal:
        return _payment_required(till, str(refusal))
    return {
        "content": [{"type": "text", "text": f"{params['arguments']['city']}: sunny, 23 degrees"}],
        "_meta": {"x402/payment-response": settlement},
    }


def _payment_required(till: Till, error: str) -> dict[str, Any]:
    required = {
        "x402Version": 2,
        "error": error,
        "resource": {"url": "mcp://tool/forecast", "description": "", "mimeType": ""},
        "accepts": [till.requirements(PRICE)],
    }
    return {
        "isError": True,
        "structuredContent": required,
        "content": [{"type": "text", "text": json.dumps(required)}],
    }
