"""The official MCP client, which knows nothing of payments: URL, then a JSON list of [tool, arguments] on stdin.

Prints a JSON list: of each call the text of its answer, whether it is an error, and how often it reported progress.
All calls run at the same time, in one session.
"""

import asyncio
import json
import sys

from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client


async def main() -> None:
    calls = json.load(sys.stdin)
    async with streamable_http_client(sys.argv[1]) as streams, ClientSession(*streams[:2]) as session:
        await session.initialize()
        print(json.dumps(await asyncio.gather(*(ask(session, *call) for call in calls))))


async def ask(session: ClientSession, tool: str, arguments: dict) -> dict:
    progress = []

    async def note(done: float, *_: object) -> None:
        progress.append(done)

    answer = await session.call_tool(tool, arguments, progress_callback=note)
    result = answer.model_dump(by_alias=True, mode="json")
    return {
        "text": answer.content[0].text,
        "error": bool(result.get("isError")),
        "progress": progress,
        "meta": result.get("_meta"),
    }


asyncio.run(main())
