"""The official facilitator (x402 SDK 2.25, protocols v1 and v2) as an HTTP service: it settles on the local chain."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from serving import arguments, serve
from x402 import x402Facilitator
from x402.mechanisms.evm import FacilitatorWeb3Signer
from x402.mechanisms.evm.exact import register_exact_evm_facilitator
from x402.schemas import parse_payment_payload, parse_payment_requirements


def make_app(chain: dict[str, Any]) -> FastAPI:
    facilitator = x402Facilitator()
    signer = FacilitatorWeb3Signer(private_key=chain["keys"]["facilitator"], rpc_url=chain["rpc"])
    register_exact_evm_facilitator(facilitator, signer, networks=chain["network"])
    app = FastAPI()

    async def judge(request: Request, verb: str) -> Any:
        body = await request.json()
        try:
            payload = parse_payment_payload(body["paymentPayload"])
            requirements = parse_payment_requirements(payload.x402_version, body["paymentRequirements"])
            result = await getattr(facilitator, verb)(payload, requirements)
        except Exception as error:  # noqa: BLE001 the middleware turns any 500 into its own 402
            return JSONResponse({"error": f"{type(error).__name__}: {error}"}, 500)
        return result.model_dump(by_alias=True, exclude_none=True, mode="json")

    @app.post("/verify")
    async def verify(request: Request) -> Any:
        return await judge(request, "verify")

    @app.post("/settle")
    async def settle(request: Request) -> Any:
        return await judge(request, "settle")

    @app.get("/supported")
    async def supported() -> Any:
        return facilitator.get_supported().model_dump(by_alias=True, exclude_none=True, mode="json")

    return app


if __name__ == "__main__":
    args = arguments().parse_args()
    serve(make_app(args.chain), "facilitator", args)
