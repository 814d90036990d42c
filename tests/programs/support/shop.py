"""A server with something for every kind of program, each thing once below /free and once below /paid.

Below /paid every request costs 0.001 USDC, and every signature is verified (demo.seller); only the chain is missing.
Run it as `python -m tests.programs.support.shop`; it says on which port it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from demo.seller import Books, PaymentRefused

PRICE = 1_000
EVENTS = 5
HELD_BACK_S = 60.0
"""A stream whose event nobody has seen by then is broken off."""

_RECEIPT = web.RequestKey("receipt", str)
type Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(books: Books, goods: Path) -> web.Application:
    """`goods` holds what is handed out as files: git/, simple/, npm/ (tests.programs.support.goods)."""

    @web.middleware
    async def paywall(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith("/paid/"):
            return await handler(request)
        await request.read()  # a 402 in the middle of an upload is another test's business
        header = request.headers.get("PAYMENT-SIGNATURE")
        try:
            # without a header, settle refuses too, in the words of the field
            request[_RECEIPT] = _encode(books.settle(header or "", PRICE, request.path))
        except PaymentRefused as refusal:
            return _payment_required(request, books, str(refusal))
        return await handler(request)

    async def index(_: web.Request) -> web.FileResponse:
        return web.FileResponse(goods / "simple/index.html")

    async def add_receipt(request: web.Request, response: web.StreamResponse) -> None:
        if _RECEIPT in request:
            response.headers["PAYMENT-RESPONSE"] = request[_RECEIPT]

    async def show_books(_: web.Request) -> web.Response:
        return web.json_response(books.sales)

    app = web.Application(middlewares=[paywall])
    app.on_response_prepare.append(add_receipt)
    app.router.add_get("/books", show_books)
    stream = _Stream()
    app.router.add_post("/seen", stream.note_seen)
    for wall in ("/free", "/paid"):
        app.router.add_get(f"{wall}/text", _text)
        app.router.add_post(f"{wall}/echo", _echo)
        app.router.add_get(f"{wall}/stream", stream.send)
        app.router.add_get(f"{wall}/simple/tinypkg/", index)
        app.router.add_get(f"{wall}/npm/tinypkg", lambda request: _npm_document(request, goods))
        app.router.add_post(f"{wall}/mcp", _mcp)
        app.router.add_get(f"{wall}/mcp", _mcp_get)
        for folder in ("git", "simple", "npm"):
            app.router.add_static(f"{wall}/{folder}", goods / folder)
    return app


async def _text(_: web.Request) -> web.Response:
    return web.Response(text="content\n")


async def _echo(request: web.Request) -> web.Response:
    return web.Response(text=hashlib.sha256(await request.read()).hexdigest() + "\n")


class _Stream:
    """Events, each of which has to be seen before the next one, and the end, are sent: held back anywhere, it stops."""

    def __init__(self) -> None:
        self._seen = asyncio.Semaphore(0)

    async def send(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(EVENTS):
            await response.write(f"data: {number}\n\n".encode())
            async with asyncio.timeout(HELD_BACK_S):
                await self._seen.acquire()
        return response

    async def note_seen(self, _: web.Request) -> web.Response:
        self._seen.release()
        return web.Response()


async def _npm_document(request: web.Request, goods: Path) -> web.Response:
    """The registry's answer for a package; it names the tarball by an absolute URL."""
    name = "tinypkg-1.0.0.tgz"
    url = f"{request.url.origin()}{request.path}/-/{name}".replace("/tinypkg/-/", "/")
    shasum = hashlib.sha1((goods / "npm" / name).read_bytes()).hexdigest()
    version = {"name": "tinypkg", "version": "1.0.0", "dist": {"tarball": url, "shasum": shasum}}
    return web.json_response(
        {"name": "tinypkg", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    )


async def _mcp(request: web.Request) -> web.StreamResponse:
    """As much of an MCP server (streamable HTTP) as one tool needs."""
    message = json.loads(await request.read())
    if "id" not in message:
        return web.Response(status=202)
    answer = {"jsonrpc": "2.0", "id": message["id"], "result": _mcp_result(message)}
    if message["method"] != "tools/call":
        return web.json_response(answer)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    await response.write(f"event: message\ndata: {json.dumps(answer)}\n\n".encode())
    return response


def _mcp_result(message: dict[str, Any]) -> dict[str, Any]:
    match message["method"]:
        case "initialize":
            return {
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "shop", "version": "1"},
            }
        case "tools/list":
            return {"tools": [{"name": "weather", "inputSchema": {"type": "object"}}]}
        case "tools/call":
            return {"content": [{"type": "text", "text": "content"}], "isError": False}
    return {}


async def _mcp_get(_: web.Request) -> web.Response:
    return web.Response(status=405)  # no messages by the server's own initiative


def _payment_required(request: web.Request, books: Books, error: str) -> web.Response:
    required = {
        "x402Version": 2,
        "error": error,
        "resource": {"url": str(request.url), "description": "", "mimeType": ""},
        "accepts": [books.requirements(PRICE)],
    }
    return web.json_response({}, status=402, headers={"PAYMENT-REQUIRED": _encode(required)})


def _encode(value: dict[str, Any]) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.programs.support.shop")
    parser.add_argument("--pay-to", required=True)
    parser.add_argument("--goods", type=Path, required=True)
    parser.add_argument("--tls-certificate")
    parser.add_argument("--tls-key")
    args = parser.parse_args()
    tls = None
    if args.tls_certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(args.tls_certificate, args.tls_key)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    scheme, host = ("https", "localhost") if tls else ("http", "127.0.0.1")
    url = f"{scheme}://{host}:{listener.getsockname()[1]}"
    print(json.dumps({"event": "shop.ready", "url": url}), flush=True)
    app = make_app(Books(args.pay_to), args.goods)
    web.run_app(app, sock=listener, ssl_context=tls, print=None, access_log=None)


if __name__ == "__main__":
    main()
