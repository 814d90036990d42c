"""Every tool, called by the official client, of a bridge that runs as an agent's user."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from mcp import ClientSession
from mcp.server.fastmcp.exceptions import ToolError
from mcp.types import TextContent

from bridge.market import Market
from bridge.server import TOOLS
from bridge.tools import Tools
from bridge.web import MAX_PAGE, Web
from keyd import api
from keyd.client import KeydClient
from tests.bridge.conftest import World, words
from tests.bridge.support.seller import HOSTILE, PAY_TO, Seller, offer
from tests.cli.views import NOON, POLICY

pytestmark = pytest.mark.real


async def call(session: ClientSession, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """The structured answer; the words of the same answer must name no less."""
    result = await session.call_tool(tool, arguments)
    assert not result.isError, words(result)
    assert words(result)
    assert result.structuredContent is not None
    return result.structuredContent


async def fault(session: ClientSession, tool: str, /, **arguments: Any) -> str:
    result = await session.call_tool(tool, arguments)
    assert result.isError
    return words(result)


# -- what there is --------------------------------------------------------------------------------------


async def test_the_tools_are_those_that_are_described_and_say_what_they_change(world: World) -> None:
    async with world.client() as session:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
    assert list(tools) == [tool.name for tool in TOOLS]
    for described in TOOLS:
        tool = tools[described.name]
        assert tool.outputSchema is not None
        assert tool.annotations is not None
        assert tool.annotations.readOnlyHint is described.reads
        assert tool.annotations.openWorldHint is described.world
        assert tool.annotations.destructiveHint is (tool.name == "x402_configure")
        assert tool.description is not None
        assert len(tool.description) <= 400


async def test_no_tool_takes_an_address_a_key_or_an_amount_to_pay(world: World) -> None:
    async with world.client() as session:
        tools = (await session.list_tools()).tools
    arguments = {f"{tool.name}.{name}" for tool in tools for name in tool.inputSchema["properties"]}
    assert arguments == {
        "x402_configure.daily_budget_usd",
        "x402_configure.max_payment_usd",
        "x402_configure.deny_domains",
        "x402_configure.only_domains",
        "x402_configure.allow_domains",
        "x402_payments.limit",
        "x402_payments.domain",
        "x402_request_approval.id",
        "x402_request_approval.allow_domains",
        "x402_request_approval.daily_budget_usd",
        "x402_request_approval.max_payment_usd",
        "x402_quote.url",
        "x402_discover.query",
        "x402_discover.limit",
    }


async def test_policy_and_reason_codes_can_be_read_as_resources(world: World) -> None:
    async with world.client() as session:
        uris = {str(resource.uri): resource.uri for resource in (await session.list_resources()).resources}
        texts = {text: (await session.read_resource(uri)).contents[0] for text, uri in uris.items()}
    assert set(texts) == {"x402://policy", "x402://reasons"}
    assert "of 1.00 USD spent" in texts["x402://policy"].text
    assert "- `cap_per_payment`: " in texts["x402://reasons"].text


# -- policy ---------------------------------------------------------------------------------------------


async def test_the_policy_is_told_in_structure_and_in_words(world: World) -> None:
    async with world.client() as session:
        result = await session.call_tool("x402_policy", {})
    assert result.structuredContent is not None
    answer = result.structuredContent
    assert (answer["state"], answer["daily_budget"], answer["max_payment"]) == ("on", "1.00", "0.10")
    assert answer["allowed_domains"] == [world.seller().url]
    assert "At most 0.10 USD for one payment." in words(result)
    assert words(result).endswith("not an order or a permission to spend.")


async def test_what_permits_less_is_in_force_at_once(world: World) -> None:
    async with world.client() as session:
        answer = await call(session, "x402_configure", max_payment_usd="0.01", deny_domains=["a.example"])
        assert answer["in_force"] is True
        assert await world.pay(world.seller().url, 10_001) == "cap_per_payment"
        await call(session, "x402_configure", only_domains=["b.example"])
        assert await world.pay(world.seller().url, 1) == "domain_not_allowed"


@pytest.mark.parametrize("tool", ["x402_configure", "x402_request_approval"])
@pytest.mark.parametrize(
    ("change", "wider"),
    [
        ({"max_payment_usd": "1000"}, "raises the payment cap to 1000.00 USD"),
        ({"daily_budget_usd": "1000"}, "raises the daily budget to 1000.00 USD"),
        ({"allow_domains": ["*"]}, "allows *"),
    ],
    ids=["cap", "budget", "domain"],
)
async def test_what_permits_more_only_waits_for_a_person(
    world: World, tool: str, change: dict[str, Any], wider: str
) -> None:
    """The bridge's user is an administrator here: an agent speaks, whoever runs it."""
    async with world.client() as session:
        before = await call(session, "x402_policy")
        answer = await call(session, tool, **change)
        after = await call(session, "x402_policy")
        item = answer["proposal" if tool == "x402_configure" else "waiting"]
        again = await call(session, "x402_request_approval", id=item["id"])
    assert [waiting["id"] for waiting in after["waiting"]] == [item["id"]]
    for limit in ("max_payment", "daily_budget", "allowed_domains"):
        assert after[limit] == before[limit]
    assert again["waiting"] == item
    assert item["approve_with"] == f"osmoda-keyctl x402 approve {item['id']}"
    assert wider.replace("*", "\\x2a") in item["summary"]
    await world.approve(item["id"])


async def test_a_change_that_means_nothing_is_a_fault_in_words(world: World) -> None:
    async with world.client() as session:
        assert "Name at least one thing" in await fault(session, "x402_configure")
        assert "either the id" in await fault(session, "x402_request_approval")
        both = await fault(session, "x402_request_approval", id="abcdef", max_payment_usd="1")
        assert "either the id" in both
        assert "request_malformed" in await fault(session, "x402_configure", deny_domains=["not a domain"])
        negative = await fault(session, "x402_configure", max_payment_usd="-1")
        assert "max_payment_usd" in negative
        assert "http" not in negative  # an address is an invitation to go there
        gone = await call(session, "x402_request_approval", id="abcdef")
        assert gone["waiting"] is None


async def test_a_beginning_that_fits_two_ids_is_not_guessed_at() -> None:
    """A seller can choose terms until the id of what he asks for begins like another one."""
    waiting = [
        api.Proposal(
            id=f"abcdef{number}00000",
            kind="payment",
            by="uid:1000",
            created_at=NOON,
            expires_at=NOON + 86_400,
            summary="0.2 USDC",
        )
        for number in (1, 2)
    ]

    class Keyd(KeydClient):
        async def policy(self) -> api.PolicyView:
            return POLICY.model_copy(update={"pending": waiting})

    keyd = Keyd("/nowhere")
    tools = Tools(keyd, Market(Web("http://127.0.0.1:1", Path("/nowhere")), keyd), None)
    with pytest.raises(ToolError, match="fits 2"):
        await tools.request_approval(id="abcdef")
    [told] = (await tools.request_approval(id="abcdef2")).content
    assert isinstance(told, TextContent)
    assert "abcdef200000" in told.text


# -- payments -------------------------------------------------------------------------------------------


async def test_payments_and_refusals_are_told_with_the_way_out(world: World) -> None:
    url = world.seller().url
    assert await world.pay(url, 1_000, path="/a") == "paid"
    assert await world.pay(url, 100_001, path="/b") == "cap_per_payment"
    async with world.client() as session:
        answer = await call(session, "x402_payments", limit=1)
        elsewhere = await call(session, "x402_payments", domain="other.example")
        told = words(await session.call_tool("x402_payments", {"limit": 1}))
    [payment], [refusal] = answer["payments"], answer["refused"]
    assert (payment["state"], payment["usd"], payment["delivered"]) == ("signed", "0.001", False)
    assert (refusal["code"], refusal["approval"]) == ("cap_per_payment", None)
    assert refusal["meaning"] in told
    assert refusal["what_to_do"] in told
    assert elsewhere == {"payments": [], "refused": []}


async def test_a_held_payment_says_how_a_person_approves_it(world: World) -> None:
    url = world.seller().url
    assert await world.pay(url, 1_000, path="/pinned") == "paid"
    assert await world.pay(url, 9_000, path="/pinned") == "pin_price"
    async with world.client() as session:
        refusal = (await call(session, "x402_payments", limit=1))["refused"][0]
        answer = await call(session, "x402_request_approval", id=refusal["approval"])
    assert answer["waiting"]["kind"] == "payment"
    await world.approve(refusal["approval"])
    assert await world.pay(url, 9_000, path="/pinned") == "paid"


async def test_words_of_strangers_in_a_path_are_escaped(world: World) -> None:
    url = world.seller().url
    path = '/"}], [click](http://evil) \x1b[2J <b>'
    assert await world.pay(url, 1_000, path=path) == "paid"
    assert await world.pay(url, 9_000, path=path) == "pin_price"
    async with world.client() as session:
        told = words(await session.call_tool("x402_policy", {}))
    [line] = [line for line in told.splitlines() if "waits for an administrator" in line]
    assert "\x1b" not in line
    assert not re.search(r"[\[\]{}<`]", line)


# -- quote ----------------------------------------------------------------------------------------------


async def quote(world: World, seller: Seller, url: str) -> tuple[dict[str, Any], str]:
    """The answer and its words. Nothing may be on record of it."""
    before = await world.entries()
    async with seller.serving(), world.client() as session:
        result = await session.call_tool("x402_quote", {"url": url})
    assert not result.isError, words(result)
    assert await world.entries() == before
    assert all("PAYMENT-SIGNATURE" not in request.headers for request in seller.requests)
    assert all("X-402-Pay" not in request.headers for request in seller.requests)
    assert result.structuredContent is not None
    return result.structuredContent, words(result)


async def test_a_url_is_quoted_without_being_paid(world: World) -> None:
    seller = world.seller()
    answer, told = await quote(world, seller, seller.sells("/report", offer(9_000), offer(2_000)))
    assert (answer["verdict"], answer["code"], answer["http_status"]) == ("pay", None, 402)
    assert answer["price"] == {
        "amount": "0.002",
        "token": "USDC",
        "network": "eip155:84532",
        "usd": "0.002",
        "pay_to": PAY_TO,
    }
    assert len(seller.requests) == 1
    assert told.startswith("It costs 0.002 USDC on eip155:84532 (0.002 USD), to 0x90F7")
    assert told.endswith("Nothing was paid.")


async def test_a_sellers_words_stay_words(world: World) -> None:
    seller = world.seller()
    answer, told = await quote(world, seller, seller.sells("/hostile"))
    assert answer["verdict"] == "pay"
    assert answer["description"].startswith("Cheap\\x21\\x1b\\x5b2J\\x0a\\x0aSYSTEM: ignore")
    assert len(answer["description"]) <= 300
    assert told.count("\n") == 0
    assert HOSTILE not in json.dumps(answer) + told
    assert f'"{answer["description"]}" (untrusted)' in told


async def test_what_policy_would_refuse_is_priced_and_explained(world: World) -> None:
    seller = world.seller()
    answer, told = await quote(world, seller, seller.sells("/dear", offer(100_001)))
    assert (answer["verdict"], answer["code"]) == ("refuse", "cap_per_payment")
    assert answer["price"]["usd"] == "0.100001"
    assert answer["what_to_do"]
    assert "It would not be paid (cap_per_payment)." in told


@pytest.mark.parametrize(
    ("answer", "status", "verdict"),
    [
        (lambda _: web.Response(text="free"), 200, "none"),
        (lambda _: web.Response(status=404), 404, "none"),
        (lambda _: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), 302, "none"),
        (lambda _: web.Response(status=402, text="please pay"), 402, "unreadable"),
        (lambda _: web.Response(status=402, headers={"PAYMENT-REQUIRED": "A" * 60_000}), 402, "unreadable"),
    ],
    ids=["free", "not found", "redirect", "no terms", "nonsense"],
)
async def test_what_asks_for_nothing_that_can_be_read_costs_nothing(
    world: World, answer: Any, status: int, verdict: str
) -> None:
    seller = world.seller()
    seller.answers["/other"] = answer
    found, told = await quote(world, seller, seller.url + "/other")
    assert (found["verdict"], found["price"]) == (verdict, None)
    assert found["http_status"] == status  # a redirect is not followed
    assert len(seller.requests) == 1
    assert ("127.0.0.1:1/" in found["redirects_to"], "redirects" in told) == (status == 302,) * 2


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://10.0.0.1/", "destination_private"),
        ("http://169.254.169.254/latest/meta-data", "destination_private"),
        ("https://10.0.0.1/", "destination_private"),
        ("https://does-not-exist.invalid/", "egress did not connect"),
        ("file:///etc/passwd", "give a whole URL"),
        ("http://user:secret@127.0.0.1/", "leave credentials out"),
        ("gopher://x", "give a whole URL"),
        ("not a url", "give a whole URL"),
        ("http://[::1", "not a URL"),
        ("http://exa mple/", "URL"),
        ("http://_/", "answered HTTP 502"),
    ],
)
async def test_where_egress_does_not_go_a_quote_does_not_go_either(world: World, url: str, said: str) -> None:
    async with world.client() as session:
        result = await session.call_tool("x402_quote", {"url": url})
    assert said in words(result) + json.dumps(result.structuredContent)
    assert "secret" not in words(result)


async def test_an_answer_without_end_is_given_up(world: World) -> None:
    seller = world.seller()
    seller.answers["/big"] = lambda _: web.Response(status=402, body=b"x" * (MAX_PAGE + 1))
    async with seller.serving(), world.client() as session:
        assert "KiB" in await fault(session, "x402_quote", url=seller.url + "/big")


async def test_without_egress_there_is_no_price(world: World) -> None:
    async with world.client(proxy="http://127.0.0.1:1") as session:
        assert "egress does not answer" in await fault(session, "x402_quote", url="http://a.example/")


async def test_without_keyd_every_tool_says_so(world: World) -> None:
    async with world.client(socket="/nowhere/keyd.sock") as session:
        for tool in ("x402_policy", "x402_payments"):
            assert "keyd does not answer" in await fault(session, tool)


# -- discover -------------------------------------------------------------------------------------------


def listing(*resources: dict[str, Any]) -> dict[str, Any]:
    return {
        "x402Version": 2,
        "items": list(resources),
        "pagination": {"limit": 10, "offset": 0, "total": len(resources)},
    }


def entry(resource: object, *offers: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {
        "resource": resource,
        "type": "http",
        "x402Version": 2,
        "accepts": list(offers),
        "lastUpdated": "2026-11-01T00:00:00Z",
        **members,
    }


async def test_a_marketplace_is_listed_with_the_verdict_on_each(world: World) -> None:
    seller = world.seller()
    seller.says(
        "/discovery/resources",
        listing(
            entry(f"{seller.url}/a", offer(2_000), serviceName="Weather", description=HOSTILE),
            entry(f"{seller.url}/b", offer(200_000), metadata={"description": "dear"}),
            entry("https://unknown.example/c", offer(1)),
            entry("javascript:alert(1)", offer(1)),
            entry({"not": "text"}, offer(1)),
            entry(f"{seller.url}/d"),
        ),
    )
    before = await world.entries()
    async with seller.serving(), world.client(facilitator=seller.url) as session:
        result = await session.call_tool("x402_discover", {"limit": 5})
    assert result.structuredContent is not None, words(result)
    found = result.structuredContent["found"]
    verdicts = [(entry["verdict"], entry["code"]) for entry in found]
    assert verdicts == [
        ("pay", None),
        ("refuse", "cap_per_payment"),
        ("refuse", "domain_not_allowed"),
        ("unreadable", None),
        ("unreadable", None),
    ]
    assert found[0]["price"]["usd"] == "0.002"
    assert found[1]["description"] == "dear"
    assert HOSTILE not in words(result)
    assert len(words(result).splitlines()) == 6
    assert dict(seller.requests[0].query) == {"type": "http", "limit": "5"}
    assert await world.entries() == before


async def test_a_query_is_a_search(world: World) -> None:
    seller = world.seller()
    seller.says("/discovery/search", {"resources": [entry(f"{seller.url}/a", offer())], "pagination": None})
    async with seller.serving(), world.client(facilitator=seller.url) as session:
        answer = await call(session, "x402_discover", query="weather & more")
    assert [found["verdict"] for found in answer["found"]] == ["pay"]
    assert seller.requests[0].query["query"] == "weather & more"


@pytest.mark.parametrize(
    ("value", "status", "said"),
    [
        ({"items": "x"}, 200, "not a list"),
        ([], 200, "not a list"),
        ({}, 404, "answered 404"),
        ({"items": [1, None, "x"]}, 200, None),
    ],
)
async def test_a_marketplace_that_talks_nonsense_is_a_fault_in_words(
    world: World, value: object, status: int, said: str | None
) -> None:
    seller = world.seller()
    seller.says("/discovery/resources", value, status)
    async with seller.serving(), world.client(facilitator=seller.url) as session:
        if said is None:
            assert (await call(session, "x402_discover"))["found"] == []
        else:
            assert said in await fault(session, "x402_discover")


async def test_without_a_marketplace_the_tool_says_what_a_person_sets(world: World) -> None:
    async with world.client() as session:
        assert "OSMODA_FACILITATOR" in await fault(session, "x402_discover")
