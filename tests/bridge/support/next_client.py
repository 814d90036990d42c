"""Asks a bridge with version 2 of the official SDK: `stdio FOLDER COMMAND …` or `http URL`. Prints JSON."""

import asyncio
import json
import sys
from importlib.metadata import version

from mcp import Client, StdioServerParameters


async def main() -> None:
    transport, where, *command = sys.argv[1:]
    if transport == "stdio":
        program, *arguments = command
        server = StdioServerParameters(command=program, args=arguments, env={"PYTHONPATH": where}, cwd="/")
    else:
        server = where
    async with Client(server) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        answer = (await client.call_tool("x402_policy", {})).structured_content
    print(json.dumps({"sdk": version("mcp"), "tools": tools, "daily_budget": answer["daily_budget"]}))


asyncio.run(main())
