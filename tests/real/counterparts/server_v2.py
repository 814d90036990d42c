"""A paid API behind the official FastAPI middleware (x402 SDK 2.25, protocol v2).

/stream is the exception: the middleware holds an answer back until it is complete, so this route verifies and
settles with the same SDK objects, and then streams.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from serving import arguments, serve
from x402 import x402ResourceServer
from x402.http import FacilitatorConfig, HTTPFacilitatorClient, PaymentOption
from x402.http.middleware.fastapi import PaymentMiddlewareASGI
from x402.http.types import RouteConfig
from x402.http.utils import (
    decode_payment_signature_header,
    encode_payment_required_header,
    encode_payment_response_header,
)
from x402.mechanisms.evm.exact import ExactEvmServerScheme
from x402.schemas import ResourceConfig

EVENTS = 3
PRICES = {
    "GET /weather": "$0.001",
    "GET /item/*": "$0.001",
    "POST /echo": "$0.01",
    "GET /dear": "$50",
    "GET /boom": "$0.001",
}


def make_app(chain: dict[str, Any], facilitator: str) -> FastAPI:
    server = x402ResourceServer(HTTPFacilitatorClient(FacilitatorConfig(url=facilitator)))
    server.register(chain["network"], ExactEvmServerScheme())
    pay_to, network = chain["accounts"]["payee"], chain["network"]
    routes = {
        route: RouteConfig(
            accepts=[PaymentOption(scheme="exact", pay_to=pay_to, price=price, network=network)]
        )
        for route, price in PRICES.items()
    }
    app = FastAPI()
    app.add_middleware(PaymentMiddlewareASGI, routes=routes, server=server)
    add_content(app)
    add_stream(app, server, ResourceConfig(scheme="exact", pay_to=pay_to, price="$0.002", network=network))
    return app


def add_content(app: FastAPI) -> None:
    @app.get("/free")
    async def free() -> Any:
        return {"free": True}

    @app.get("/weather")
    async def weather() -> Any:
        return {"weather": "sunny"}

    @app.get("/item/{number}")
    async def item(number: int) -> Any:
        return {"item": number}

    @app.post("/echo")
    async def echo(request: Request) -> Any:
        return {"sha256": hashlib.sha256(await request.body()).hexdigest()}

    @app.get("/dear")
    async def dear() -> Any:
        return {"dear": True}

    @app.get("/boom")
    async def boom() -> Any:
        return JSONResponse({"error": "boom"}, 500)


def add_stream(app: FastAPI, server: x402ResourceServer, config: ResourceConfig) -> None:
    arrived = asyncio.Semaphore(0)

    @app.post("/stream/arrived")
    async def has_arrived() -> Any:
        arrived.release()
        return {}

    @app.get("/stream")
    async def stream(request: Request) -> Response:
        terms = server.build_payment_requirements(config)
        header = request.headers.get("payment-signature")
        payload = decode_payment_signature_header(header) if header else None
        matching = server.find_matching_requirements(terms, payload) if payload else None
        if matching is None or not (await server.verify_payment(payload, matching)).is_valid:
            required = await server.create_payment_required_response(terms, error="Payment required")
            return JSONResponse({}, 402, {"PAYMENT-REQUIRED": encode_payment_required_header(required)})
        settlement = await server.settle_payment(payload, matching)
        headers = {"PAYMENT-RESPONSE": encode_payment_response_header(settlement)}
        if not settlement.success:
            return JSONResponse({}, 402, headers)
        return StreamingResponse(events(arrived), headers=headers, media_type="text/event-stream")


async def events(arrived: asyncio.Semaphore) -> AsyncIterator[str]:
    """Each is sent once somebody has said that the one before has arrived."""
    for number in range(EVENTS):
        yield f"data: {number}\n\n"
        await arrived.acquire()


if __name__ == "__main__":
    args = arguments().parse_args()
    serve(make_app(args.chain, args.facilitator), "server_v2", args)
