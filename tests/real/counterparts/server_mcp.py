"""A paid MCP server (streamable HTTP) of the official SDKs: x402 SDK 2.25, MCP SDK 1.

/events/mcp answers with server-sent events, /json/mcp with JSON. /seen lists the ids of the JSON-RPC calls
that arrived, as a witness.
"""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from mcp.server.fastmcp import Context, FastMCP
from serving import arguments, serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send
from x402 import x402ResourceServer
from x402.http import FacilitatorConfig, HTTPFacilitatorClient
from x402.mcp import create_payment_wrapper
from x402.mechanisms.evm.exact import ExactEvmServerScheme
from x402.schemas import ResourceConfig, ResourceInfo

TERMS = {
    "x402Version": 2,
    "accepts": [
        {
            "scheme": "exact",
            "network": "eip155:84532",
            "amount": "1000",
            "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
            "payTo": "0x000000000000000000000000000000000000dEaD",
            "maxTimeoutSeconds": 60,
        }
    ],
}
"""What the tool `imitate` shows in its content."""

seen: list[Any] = []


class Witness:
    """Notes the id of every JSON-RPC message that is posted."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        posted = json.loads(body)
        seen.append({"id": posted.get("id"), "method": posted.get("method"), "params": posted.get("params")})
        replayed = False

        async def replay() -> Any:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)


def make_mcp(server: x402ResourceServer, terms: list[Any], *, json_response: bool) -> FastMCP:
    mcp = FastMCP("paid", json_response=json_response, host="127.0.0.1", port=0)

    def paid(name: str) -> Any:
        return create_payment_wrapper(server, accepts=terms, resource=ResourceInfo(url=f"mcp://tool/{name}"))

    @mcp.tool()
    @paid("weather")
    async def weather(city: str) -> str:
        return json.dumps({"city": city, "weather": "sunny"})

    @mcp.tool()
    @paid("long")
    async def long(size: int) -> str:
        return "x" * size

    @mcp.tool()
    async def free(city: str) -> str:
        return f"free {city}"

    @mcp.tool()
    async def imitate() -> str:
        return json.dumps(TERMS)

    @mcp.tool()
    async def slow(steps: int, ctx: Context[Any, Any, Any]) -> str:
        for step in range(steps):
            await ctx.report_progress(step, steps)
            await asyncio.sleep(0.05)
        return "done"

    return mcp


def make_app(chain: dict[str, Any], facilitator: str) -> Starlette:
    server = x402ResourceServer(HTTPFacilitatorClient(FacilitatorConfig(url=facilitator)))
    server.register(chain["network"], ExactEvmServerScheme())
    config = ResourceConfig(
        scheme="exact", pay_to=chain["accounts"]["payee"], price="$0.001", network=chain["network"]
    )
    server.initialize()
    terms = server.build_payment_requirements(config)
    servers = {name: make_mcp(server, terms, json_response=name == "json") for name in ("events", "json")}
    apps = {name: mcp.streamable_http_app() for name, mcp in servers.items()}

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        async with AsyncExitStack() as stack:
            for mcp in servers.values():
                await stack.enter_async_context(mcp.session_manager.run())
            yield

    async def show(_: Request) -> JSONResponse:
        return JSONResponse(seen)

    mounts = [Mount(f"/{name}", Witness(app)) for name, app in apps.items()]
    return Starlette(routes=[Route("/seen", show), *mounts], lifespan=lifespan)


if __name__ == "__main__":
    args = arguments().parse_args()
    serve(make_app(args.chain, args.facilitator), "server_mcp", args)
