import asyncio
import sys

from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client


async def main() -> None:
    async with streamable_http_client(sys.argv[1]) as streams, ClientSession(*streams[:2]) as session:
        await session.initialize()
        await session.list_tools()
        answer = await session.call_tool("weather", {})
        print(answer.content[0].text)


asyncio.run(main())
