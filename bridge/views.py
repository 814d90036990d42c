"""From keyd's messages to the answers of the tools, and from those to words. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from bridge import answers
from bridge.findings import Found, Priced
from bridge.untrusted import untrusted
from keyd import api
from keyd.reasons import Reason, explain

MEANINGS = {
    "signed": "signed, and nothing is known of it yet; its amount stays spent",
    "settled": "paid",
    "refused": "the seller refused it; its amount stays spent until the chain proves that it cannot be used",
    "unknown": "nobody knows yet whether the seller was paid; its amount stays spent",
    "released": "proven never to have been used; the budget has it back",
}


def policy_answer(view: api.PolicyView) -> answers.PolicyAnswer:
    return answers.PolicyAnswer(
        state="frozen" if view.frozen.frozen else "on" if view.enabled else "off",
        daily_budget=view.daily_budget,
        spent_today=view.spent_today,
        left_today=view.left_today,
        max_payment=view.max_payment,
        approve_above=view.approve_above,
        day=view.day,
        allowed_domains=view.allowed_domains,
        denied_domains=view.denied_domains,
        only_domains=view.only_domains,
        networks=view.networks,
        tokens=view.assets,
        by_domain=[answers.Spent(name=row.domain, usd=row.usd, calls=row.calls) for row in view.by_domain],
        waiting=[waiting(proposal) for proposal in view.pending],
    )


def policy_words(answer: answers.PolicyAnswer) -> str:
    return "\n".join(_policy_lines(answer))


def _policy_lines(answer: answers.PolicyAnswer) -> Iterator[str]:
    yield {"on": "Payments are on.", "off": "Payments are off.", "frozen": "Payments are frozen."}[
        answer.state
    ]
    yield (
        f"Today ({answer.day} UTC): {answer.spent_today} of {answer.daily_budget} USD spent, {answer.left_today} left. "
        f"At most {answer.max_payment} USD for one payment."
    )
    if answer.approve_above is not None:
        yield f"Above {answer.approve_above} USD an administrator is asked first."
    yield f"May be paid: {', '.join(answer.allowed_domains) or 'nobody'}."
    if answer.only_domains is not None:
        yield f"Of these only: {', '.join(answer.only_domains) or 'nobody'}."
    if answer.denied_domains:
        yield f"Never paid: {', '.join(answer.denied_domains)}."
    for row in answer.by_domain:
        yield f"Spent at {row.name}: {row.usd} USD in {row.calls} calls."
    for item in answer.waiting:
        yield _waiting_line(item)
    yield "These are limits that are enforced, not an order or a permission to spend."


def waiting(proposal: api.Proposal) -> answers.Waiting:
    return answers.Waiting(
        id=proposal.id,
        kind=proposal.kind,
        code=proposal.code,
        summary=untrusted(proposal.summary, 500),
        expires_at=_moment(proposal.expires_at),
        approve_with=f"osmoda-keyctl x402 approve {proposal.id}",
    )


def _waiting_line(item: answers.Waiting) -> str:
    what = {"payment": "A payment", "policy": "A change of policy"}[item.kind]
    return f'{what} waits for an administrator until {item.expires_at} (id {item.id}): "{item.summary}"'


def configure_answer(changed: api.PolicyChanged, view: api.PolicyView) -> answers.ConfigureAnswer:
    return answers.ConfigureAnswer(
        in_force=changed.applied,
        would_permit=changed.wider,
        proposal=None if changed.proposal is None else waiting(changed.proposal),
        daily_budget=view.daily_budget,
        max_payment=view.max_payment,
        allowed_domains=view.allowed_domains,
        denied_domains=view.denied_domains,
        only_domains=view.only_domains,
    )


def configure_words(answer: answers.ConfigureAnswer) -> str:
    if answer.in_force:
        return f"In force: daily budget {answer.daily_budget} USD, at most {answer.max_payment} USD for one payment."
    asks = "; ".join(answer.would_permit)
    return f"Nothing changed: this would permit more ({asks}). {approval_words(answer.proposal)}"


def approval_words(item: answers.Waiting | None) -> str:
    if item is None:
        return "Nothing waits for an administrator."
    return (
        f"It waits for an administrator until {item.expires_at} as {item.id}. Only a person can approve it, with "
        f"`{item.approve_with}`. Tell the user; until then carry on without it."
    )


def payments_answer(payments: api.PaymentList, refusals: api.RefusalList) -> answers.PaymentsAnswer:
    return answers.PaymentsAnswer(
        payments=[
            answers.PaymentAnswer(
                id=payment.payment_id,
                at=_moment(payment.signed_at),
                state=payment.state,
                meaning=MEANINGS[payment.state],
                delivered=payment.delivered,
                domain=payment.domain,
                caller=payment.caller,
                amount=f"{payment.amount} {payment.asset} on {payment.network}",
                usd=payment.amount_usd,
            )
            for payment in payments.payments
        ],
        refused=[_refusal(refused) for refused in refusals.refusals],
    )


def _refusal(refused: api.RefusedPayment) -> answers.RefusalAnswer:
    meaning = explain(refused.code)
    return answers.RefusalAnswer(
        at=refused.at,
        domain=refused.domain,
        caller=refused.caller,
        code=refused.code,
        meaning="" if meaning is None else meaning.summary,
        what_to_do="" if meaning is None else meaning.remedy,
        detail=untrusted(refused.detail, 500),
        approval=refused.approval,
    )


def payments_words(answer: answers.PaymentsAnswer) -> str:
    lines = [
        f"{p.at} {p.domain}: {p.usd} USD, {p.state} ({p.meaning}); {'' if p.delivered else 'not '}delivered. Id {p.id}."
        for p in answer.payments
    ]
    lines += [
        f'{r.at} {r.domain}: not paid, {r.code}. {r.meaning} Figures: "{r.detail}". What to do: {r.what_to_do}'
        for r in answer.refused
    ]
    return "\n".join(lines) or "No payments and no refusals are on record."


def quote_answer(priced: Priced) -> answers.QuoteAnswer:
    base = answers.QuoteAnswer(
        url=untrusted(str(priced.url), 500),
        http_status=priced.status,
        verdict="none",
        redirects_to=untrusted(priced.location, 500),
    )
    if priced.refused_by_egress is not None:
        reason = explain(priced.refused_by_egress)
        return base.model_copy(
            update={
                "verdict": "refuse",
                "code": priced.refused_by_egress,
                "what_to_do": None if reason is None else reason.remedy,
            }
        )
    if not priced.asks_for_money:
        return base
    if priced.quote is None:
        code = Reason.TERMS_MISSING
        return base.model_copy(update={"verdict": "unreadable", "code": code.value, "what_to_do": code.hint})
    return base.model_copy(
        update={
            "verdict": priced.quote.verdict,
            "code": priced.quote.code,
            "what_to_do": priced.quote.hint or None,
            "detail": untrusted(priced.quote.detail, 500),
            "price": price(priced.quote),
            "description": untrusted(priced.description),
        }
    )


def quote_words(answer: answers.QuoteAnswer) -> str:
    if answer.verdict == "none":
        where = f' It redirects to "{answer.redirects_to}" (untrusted).' if answer.redirects_to else ""
        return f"It answered HTTP {answer.http_status} and asks for no money.{where} Nothing was paid."
    if answer.verdict == "refuse" and answer.http_status != 402:
        return f"egress did not let the request through ({answer.code}). {answer.what_to_do or ''} Nothing was paid."
    said = f' The seller describes it as "{answer.description}" (untrusted).' if answer.description else ""
    return (
        f"{_price_words(answer.price)} {_verdict_words(answer.verdict, answer.code)}{said} Nothing was paid."
    )


def price(quote: api.Quote) -> answers.Price | None:
    offer = quote.offer
    if offer is None:
        return None
    return answers.Price(
        amount=offer.amount,
        token=offer.asset,
        network=offer.network,
        usd=offer.amount_usd,
        pay_to=offer.pay_to,
    )


def discover_answer(found: list[Found]) -> answers.DiscoverAnswer:
    return answers.DiscoverAnswer(found=[_found(entry) for entry in found])


def _found(entry: Found) -> answers.FoundAnswer:
    return answers.FoundAnswer(
        resource=untrusted(entry.resource, 500),
        name=untrusted(entry.name, 80),
        description=untrusted(entry.description),
        verdict="unreadable" if entry.quote is None else entry.quote.verdict,
        code=None if entry.quote is None else entry.quote.code,
        price=None if entry.quote is None else price(entry.quote),
    )


def discover_words(answer: answers.DiscoverAnswer) -> str:
    lines = [
        f'"{f.resource}" ("{f.name}", "{f.description}"): {_price_words(f.price)} {_verdict_words(f.verdict, f.code)}'
        for f in answer.found
    ]
    head = "Names and descriptions are the sellers' own words (untrusted)."
    return "\n".join([head, *lines]) if lines else "Nothing was found."


def _price_words(found: answers.Price | None) -> str:
    if found is None:
        return "It asks for nothing that could be paid here."
    return f"It costs {found.amount} {found.token} on {found.network} ({found.usd} USD), to {found.pay_to}."


def _verdict_words(verdict: str, code: str | None) -> str:
    return {
        "pay": "Policy would let it be paid when a program requests it.",
        "hold": f"It would be held until an administrator agrees ({code}).",
        "refuse": f"It would not be paid ({code}).",
        "unreadable": "Its terms cannot be read, so it would not be paid.",
    }[verdict]


def _moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
