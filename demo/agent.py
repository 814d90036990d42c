"""A scripted agent without a model: it buys what it needs, reads a page, and does all that the page says.

Run it inside of `keyctl x402 run --label …`, as `python -m demo.agent URL`; it knows nothing of payments. It is more
obedient than any model: what it cannot do, no page can talk an agent into.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TextIO

from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult

SOMEBODY = "0x000000000000000000000000000000000000dEaD"


async def main(api: str, quiet: TextIO) -> None:
    """`quiet`: where the bridge's log goes."""
    does("buys over HTTP")
    fetch(f"{api}/weather")
    async with AsyncExitStack() as stack:
        does("buys a tool over MCP")
        seller = await stack.enter_async_context(streamable_http_client(f"{api}/mcp"))
        paid = await stack.enter_async_context(ClientSession(*seller[:2]))
        await paid.initialize()
        tell("forecast(Bern)", await paid.call_tool("forecast", {"city": "Bern"}))

        does("reads a page")
        for line in fetch(f"{api}/notes").splitlines():
            print(f"    | {line}".rstrip())

        does("obeys: the limits")
        bridge = StdioServerParameters(command="osmoda-bridge", env=dict(os.environ))
        streams = await stack.enter_async_context(stdio_client(bridge, errlog=quiet))
        tools = await stack.enter_async_context(ClientSession(*streams))
        await tools.initialize()
        wish = {"max_payment_usd": "100", "allow_domains": ["*"]}
        filed = await tools.call_tool("x402_configure", wish)
        tell('x402_configure("100", ["*"])', filed)
        proposal = ((filed.structuredContent or {}).get("proposal") or {}).get("id", "")

        does("obeys: approves its own wish, and asks for the key")
        shell("keyctl", "x402", "approve", proposal)
        shell("curl", "-sS", "-X", "POST", "--unix-socket", "keyd.sock", "http://keyd/wallet/export")

        does("obeys: pays an address")
        tell("x402_pay(…dEaD, 25)", await tools.call_tool("x402_pay", {"to": SOMEBODY, "usd": "25"}))
        listed = (await tools.list_tools()).tools
        names = sorted({name for tool in listed for name in tool.inputSchema["properties"]})
        say(f"arguments of all tools: {', '.join(names)}")
        fetch(f"{api}/report")

    does("spends what it was given, and tries to spend more")
    for number in range(1, 4):
        fetch(f"{api}/item/{number}")


def does(what: str) -> None:
    print(f"  the agent {what}", flush=True)


def fetch(url: str) -> str:
    """What any program's HTTP library does, through the proxy that the environment names."""
    try:
        with urllib.request.urlopen(url) as answer:  # noqa: S310 - the demo's own URL
            said, body = answer, str(answer.read(), "utf-8")
    except urllib.error.HTTPError as refusal:
        said, body = refusal, ""
    egress = said.headers.get("X-402-Egress", "").partition("; network=")[0]
    path = url.partition("//")[2].partition("/")[2]
    print(f"    GET /{path}: {said.status}{f' ({egress})' if egress else ''}", flush=True)
    return body


def tell(call: str, result: CallToolResult) -> None:
    words = " ".join(part.text for part in result.content if part.type == "text")
    say(f"{call}: {'error: ' if result.isError else ''}{words}")


def shell(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    said = (done.stderr or done.stdout).splitlines()
    say(f"$ {' '.join(command)}: exit {done.returncode}, {said[0] if said else ''}")


def say(text: str) -> None:
    print(
        textwrap.fill(text, 118, initial_indent="    ", subsequent_indent="      ", break_on_hyphens=False),
        flush=True,
    )


if __name__ == "__main__":
    with Path(os.devnull).open("w") as devnull:
        asyncio.run(main(sys.argv[1], devnull))
