"""The tools: each asks keyd or looks at a URL, and answers in structure and in words. None pays.

None takes an address, a key, an amount to pay or a reason in free text: what a page talked an agent into must find
nothing here to be said with.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

from mcp.server.fastmcp.exceptions import ToolError
from mcp.types import CallToolResult, TextContent
from pydantic import BaseModel, Field, StringConstraints, ValidationError

from bridge import answers, views
from bridge.market import MAX_FOUND, Market
from bridge.untrusted import untrusted
from bridge.web import NotAnswered
from keyd import api
from keyd.client import KeydClient, KeydProtocolError, KeydRefused, KeydUnreachable

Usd = Annotated[api.Usd, Field(description='USD as a decimal string, like "0.50".')]
Domains = Annotated[
    list[Annotated[str, StringConstraints(max_length=300)]],
    Field(max_length=100, description='Like "api.example.com" or "*.example.com".'),
]
Limit = Annotated[int, Field(ge=1, le=50)]
FoundLimit = Annotated[int, Field(ge=1, le=MAX_FOUND)]
Query = Annotated[str, StringConstraints(max_length=200)]
UrlText = Annotated[str, StringConstraints(max_length=2048)]
ProposalId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{6,64}$")]

NO_FACILITATOR: Final = "No marketplace is configured. A person sets one: OSMODA_FACILITATOR=URL in the environment of osmoda-bridge."


class Tools:
    """`facilitator`: URL of the marketplace that x402_discover asks; None: there is none."""

    def __init__(self, keyd: KeydClient, market: Market, facilitator: str | None) -> None:
        self._keyd = keyd
        self._market = market
        self._facilitator = facilitator

    async def policy(self) -> Annotated[CallToolResult, answers.PolicyAnswer]:
        answer = views.policy_answer(await _told(self._keyd.policy))
        return _result(answer, views.policy_words(answer))

    async def policy_text(self) -> str:
        """The same in words, for the resource."""
        return views.policy_words(views.policy_answer(await _told(self._keyd.policy)))

    async def configure(
        self,
        daily_budget_usd: Usd | None = None,
        max_payment_usd: Usd | None = None,
        deny_domains: Domains | None = None,
        only_domains: Domains | None = None,
        allow_domains: Domains | None = None,
    ) -> Annotated[CallToolResult, answers.ConfigureAnswer]:
        answer = await self._change(
            daily_budget_usd=daily_budget_usd,
            max_payment_usd=max_payment_usd,
            deny=deny_domains,
            only=only_domains,
            allow=allow_domains,
        )
        return _result(answer, views.configure_words(answer))

    async def payments(
        self, limit: Limit = 10, domain: str | None = None
    ) -> Annotated[CallToolResult, answers.PaymentsAnswer]:
        async def ask() -> answers.PaymentsAnswer:
            made = await self._keyd.payments(domain=domain, limit=limit)
            refusals = (await self._keyd.refusals(limit=200)).refusals
            of_domain = [refused for refused in refusals if domain in (None, refused.domain)][:limit]
            return views.payments_answer(made, api.RefusalList(refusals=of_domain))

        answer = await _told(ask)
        return _result(answer, views.payments_words(answer))

    async def request_approval(
        self,
        id: ProposalId | None = None,  # noqa: A002 - the member that x402_policy and x402_payments call so
        allow_domains: Domains | None = None,
        daily_budget_usd: Usd | None = None,
        max_payment_usd: Usd | None = None,
    ) -> Annotated[CallToolResult, answers.ApprovalAnswer]:
        changes = {
            "allow": allow_domains,
            "daily_budget_usd": daily_budget_usd,
            "max_payment_usd": max_payment_usd,
        }
        asked = any(value is not None for value in changes.values())
        if asked == (id is not None):
            raise ToolError("Give either the id of something that waits, or the change to ask for.")
        if id is None:
            changed = await self._change(**changes)
            answer = answers.ApprovalAnswer(waiting=changed.proposal, already_in_force=changed.in_force)
            words = "It is in force: it permits no more than before." if changed.in_force else ""
            return _result(answer, words or views.approval_words(answer.waiting))
        pending = (await _told(self._keyd.policy)).pending
        found = [views.waiting(proposal) for proposal in pending if proposal.id.startswith(id)]
        if len(found) > 1:  # never guessed at: a seller can choose terms until their ids begin alike
            raise ToolError(f"{id} fits {len(found)} ids. Give more of it; x402_policy lists what waits.")
        item = found[0] if found else None
        return _result(answers.ApprovalAnswer(waiting=item), views.approval_words(item))

    async def quote(self, url: UrlText) -> Annotated[CallToolResult, answers.QuoteAnswer]:
        answer = views.quote_answer(await _told(lambda: self._market.price(url)))
        return _result(answer, views.quote_words(answer))

    async def discover(
        self, query: Query | None = None, limit: FoundLimit = 10
    ) -> Annotated[CallToolResult, answers.DiscoverAnswer]:
        facilitator = self._facilitator
        if facilitator is None:
            raise ToolError(NO_FACILITATOR)
        answer = views.discover_answer(await _told(lambda: self._market.discover(facilitator, query, limit)))
        return _result(answer, views.discover_words(answer))

    async def _change(self, **members: str | list[str] | None) -> answers.ConfigureAnswer:
        named = {name: value for name, value in members.items() if value is not None}
        if not named:
            raise ToolError("Name at least one thing to change.")
        try:
            patch = api.PolicyPatch.model_validate(named)
        except ValidationError as error:
            raise ToolError(first_mistake(error)) from None

        async def ask() -> answers.ConfigureAnswer:
            # As an agent whoever this user is: what an agent asks for must not be in force because a person may.
            changed = await self._keyd.policy_change(patch, as_agent=True)
            return views.configure_answer(changed, await self._keyd.policy())

        return await _told(ask)


def _result(answer: BaseModel, words: str) -> CallToolResult:
    return CallToolResult(
        content=[TextContent(type="text", text=words)], structuredContent=answer.model_dump(mode="json")
    )


async def _told[Reply](question: Callable[[], Awaitable[Reply]]) -> Reply:
    """Faults in words for a model: what is wrong, and that nothing was paid. Raises ToolError."""
    try:
        return await question()
    except KeydRefused as refused:
        detail = untrusted(refused.refusal.detail, 500)
        raise ToolError(f'keyd refused: {refused.refusal.code}, "{detail}". {refused.refusal.hint}') from None
    except KeydUnreachable:
        raise ToolError(
            "keyd does not answer. Nothing can be paid now; a person looks at osmoda-keyd."
        ) from None
    except KeydProtocolError:
        raise ToolError("keyd and osmoda-bridge are of different versions.") from None
    except NotAnswered as error:
        raise ToolError(f"No usable answer: {error}. Nothing was paid.") from None
    except ValueError as error:
        raise ToolError(f"That cannot be asked: {error}. Nothing was paid.") from None


def first_mistake(error: ValidationError) -> str:
    """Which argument is wrong, and how. Without pydantic's link, where a model might go."""
    mistake = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in mistake['loc'])}: {mistake['msg']}"
