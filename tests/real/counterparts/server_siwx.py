"""A paid API with extensions of the x402 SDK 2.25: `sign-in-with-x` lets past payers in again, and `/once` requires a
`payment-identifier`, which it answers with.

/seen says what the extension made of the sign-ins so far.
"""

from typing import Any

from fastapi import FastAPI, Request
from serving import arguments, serve_at
from x402 import x402ResourceServer
from x402.extensions.payment_identifier import (
    PAYMENT_IDENTIFIER,
    declare_payment_identifier_extension,
    extract_payment_identifier,
)
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
from x402.http.utils import decode_payment_signature_header
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
    identified = {PAYMENT_IDENTIFIER: declare_payment_identifier_extension(required=True)}
    extensions = {route: declare_siwx_extension(declared) for route in PRICES} | {"GET /once": identified}
    routes = {
        route: RouteConfig(
            accepts=[
                PaymentOption(
                    scheme="exact",
                    pay_to=chain["accounts"]["payee"],
                    price=PRICES.get(route, "$0.001"),
                    network=chain["network"],
                )
            ],
            extensions=offered,
        )
        for route, offered in extensions.items()
    }
    app = FastAPI()
    app.add_middleware(PaymentMiddlewareASGI, routes=routes, server=server)

    @app.get("/report")
    async def report() -> Any:
        return {"report": "all is well"}

    @app.get("/news")
    async def news() -> Any:
        return {"news": "none"}

    @app.get("/once")
    async def once(request: Request) -> Any:
        payload = decode_payment_signature_header(request.headers["payment-signature"])
        return {"id": extract_payment_identifier(payload, validate=True)}

    @app.get("/seen")
    async def seen_so_far() -> Any:
        return seen

    return app


if __name__ == "__main__":
    args = arguments().parse_args()
    serve_at(lambda url: make_app(url, args.chain, args.facilitator), "server_siwx", args)
