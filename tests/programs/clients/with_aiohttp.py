import asyncio
import sys

import aiohttp


async def main() -> None:
    # trust_env: aiohttp does not look at proxy variables otherwise
    session = aiohttp.ClientSession(trust_env=True, raise_for_status=True)
    async with session, session.get(sys.argv[1]) as answer:
        async for chunk in answer.content.iter_any():
            print(chunk.decode(), end="", flush=True)


asyncio.run(main())
