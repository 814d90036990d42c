"""A paid API that lets past payers in again (x402 SDK 2.25, extension `sign-in-with-x`).

/seen says what the extension made of the sign-ins so far.
"""

from typing import Any

from fastapi import FastAPI
from serving import arguments, serve_at
from x402 import x402ResourceServer
from x402.extensions.sign_in_with_x import (
    CreateSIWxResourceServerExtensionOptions,
    DeclareSIWxOptions,
    InMemorySIWxStorage,
    create_siwx_resource_server_extension,
    declare_siwx_extension,
)
from x402.http import FacilitatorConfig, HTTPFacilitatorClient, PaymentOption
from x402.http.middleware.fastapi import PaymentMiddlewareASGI
from x402.http.types import RouteConfig
from x402.mechanisms.evm.exact import ExactEvmServerScheme

PRICES = {"GET /report": "$0.001", "GET /news": "$0.001"}


def make_app(url: str, chain: dict[str, Any], facilitator: str) -> FastAPI:
    seen: list[dict[str, Any]] = []
    server = x402ResourceServer(HTTPFacilitatorClient(FacilitatorConfig(url=facilitator)))
    server.register(chain["network"], ExactEvmServerScheme())
    options = CreateSIWxResourceServerExtensionOptions(
        origin=url, storage=InMemorySIWxStorage(), on_event=seen.append
    )
    server.register_extension(create_siwx_resource_server_extension(options))
    declared = DeclareSIWxOptions(
        network=chain["network"], statement="Sign in to read what you have paid for", expiration_seconds=300
    )
    routes = {
        route: RouteConfig(
            accepts=[
                PaymentOption(
                    scheme="exact", pay_to=chain["accounts"]["payee"], price=price, network=chain["network"]
                )
            ],
            extensions=declare_siwx_extension(declared),
        )
        for route, price in PRICES.items()
    }
    app = FastAPI()
    app.add_middleware(PaymentMiddlewareASGI, routes=routes, server=server)

    @app.get("/report")
    async def report() -> Any:
        return {"report": "all is well"}

    @app.get("/news")
    async def news() -> Any:
        return {"news": "none"}

    @app.get("/seen")
    async def seen_so_far() -> Any:
        return seen

    return app


if __name__ == "__main__":
    args = arguments().parse_args()
    serve_at(lambda url: make_app(url, args.chain, args.facilitator), "server_siwx", args)
