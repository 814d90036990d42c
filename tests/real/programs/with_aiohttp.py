"""An ordinary program: METHOD URL [BODY] → status and body as JSON. It knows nothing of payments."""

import asyncio
import json
import sys

import aiohttp


async def main(method: str, url: str, *body: str) -> None:
    async with (
        aiohttp.ClientSession(trust_env=True) as session,
        session.request(method, url, data=body[0] if body else None) as answer,
    ):
        text = await answer.text()
        print(json.dumps({"status": answer.status, "body": text, "headers": dict(answer.headers)}))


asyncio.run(main(*sys.argv[1:]))
