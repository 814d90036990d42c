"""A paid API behind the official FastAPI middleware of the SDK before 2.0 (x402 0.2.1, protocol v1)."""

import hashlib
from typing import Any

from fastapi import FastAPI, Request
from serving import arguments, serve
from x402.fastapi.middleware import require_payment

NETWORKS = {84532: "base-sepolia"}
PRICES = {"/weather": "$0.001", "/echo": "$0.01", "/dear": "$50"}


def make_app(chain: dict[str, Any], facilitator: str) -> FastAPI:
    app = FastAPI()
    for path, price in PRICES.items():
        paywall = require_payment(
            price=price,
            pay_to_address=chain["accounts"]["payee"],
            path=path,
            network=NETWORKS[chain["chain_id"]],
            facilitator_config={"url": facilitator},
        )
        app.middleware("http")(paywall)

    @app.get("/weather")
    async def weather() -> Any:
        return {"weather": "sunny"}

    @app.post("/echo")
    async def echo(request: Request) -> Any:
        return {"sha256": hashlib.sha256(await request.body()).hexdigest()}

    @app.get("/dear")
    async def dear() -> Any:
        return {"dear": True}

    return app


if __name__ == "__main__":
    args = arguments().parse_args()
    serve(make_app(args.chain, args.facilitator), "server_v1", args)
