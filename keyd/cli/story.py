"""One payment told in words: a timeline of its ledger entries, what its state means, and what to do.

Entries hold what sellers said. Everything that is read from them is escaped, and nothing is expected of them:
a member that is missing is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from keyd import api
from keyd.cli.render import entry_moment, escaped, listed, moment, usd

type Data = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a state says about the money, and what a person can do."""

    words: str
    remedy: str


def story_text(story: api.PaymentStory) -> str:
    """Who paid whom how much, where it stands, and every entry about it in order."""
    payment = story.payment
    facts = [
        ("payment", escaped(payment.payment_id)),
        (
            "amount",
            escaped(f"{payment.amount} {payment.asset} on {payment.network}")
            + f", {usd(payment.amount_usd)}",
        ),
        ("paid to", escaped(f"{payment.pay_to}, for {payment.domain}")),
        ("paid by", escaped(f"{payment.caller}, from wallet {payment.wallet}{_session(story)}")),
        ("counts on", escaped(f"{payment.day} (UTC)")),
        ("state", f"{escaped(payment.state)}. {meaning(payment).words}"),
    ]
    lines = [line for entry in story.entries for line in _entry_lines(entry)]
    return "\n".join([listed(facts), "", *lines, "", f"What to do: {meaning(payment).remedy}"])


def _session(story: api.PaymentStory) -> str:
    signed = next((entry.data for entry in story.entries if entry.type == "x402.payment.signed"), {})
    session = signed.get("session")
    return (
        f", in session {_said(session, 'label')}/{_said(session, 'id')}" if isinstance(session, dict) else ""
    )


def state_text(payment: api.PaymentView) -> str:
    """One payment's state in words, and what to do."""
    at = escaped(f"{payment.amount} {payment.asset} to {payment.domain}")
    found = meaning(payment)
    return f"{escaped(payment.payment_id)}: {at}, {payment.state}. {found.words}\nWhat to do: {found.remedy}"


def meaning(payment: api.PaymentView) -> Meaning:
    """What the state of `payment` means, as far as anybody knows."""
    until = moment(payment.valid_before)
    if payment.state == "settled" and payment.proven:
        return Meaning("The chain confirms that the money moved.", _NOTHING if payment.delivered else _CLAIM)
    if payment.state == "settled":
        words = "The seller's receipt agrees with what was signed; the chain was not asked yet."
        return Meaning(words, _NOTHING if payment.delivered else _CLAIM)
    if payment.state == "released":
        return Meaning(
            "The chain proves that it was never used and never can be: the budget has it back.", _NOTHING
        )
    open_words = {
        "signed": "Nothing was reported about it since it was signed.",
        "refused": f"The seller refused it, and can still settle it until {until}.",
        "unknown": "Nobody knows yet whether the seller settled it.",
    }[payment.state]
    if payment.delivered:
        return Meaning(f"{open_words} The program has its answer.", _WAIT)
    return Meaning(open_words, f"Until {until} a repeat of the request sends the same authorization. {_WAIT}")


_NOTHING: Final = "nothing."
_CLAIM: Final = "the program got no answer for this money: ask the seller, naming the transaction."
_WAIT: Final = "Its amount stays spent until the chain proves otherwise, which osmoda-reconcile asks for."


def _entry_lines(entry: api.LedgerEntry) -> Iterator[str]:
    tell = _TELLERS.get(entry.type)
    told = [escaped(line) for line in (tell(entry.data) if tell else ())] or [""]
    head = escaped(f"{entry_moment(entry.ts)}  {entry.type.rpartition('.')[2]:<8}")
    indent = " " * len(head)
    yield f"{head}  {told[0]}".rstrip()
    yield from (f"{indent}  {line}" for line in told[1:])
    yield f"{indent}  (entry {entry.seq}, by {escaped(entry.actor)})"


def _attempt(data: Data) -> Iterator[str]:
    yield f"{_said(data, 'method')} {_said(data, 'path')} of {_said(data, 'domain')}, asked for by {_said(data, 'caller')}"
    if data.get("prepaid") is True:
        yield "sent with the request, before the server asked (prepaid)"
    if isinstance(data.get("repeat_of"), str):
        yield "a repeat: it got the same authorization, and costs nothing more"
    offers = data.get("offers")
    for offer in offers if isinstance(offers, list) else []:
        if not isinstance(offer, dict):
            continue
        if "malformed" in offer:
            yield f"offer that cannot be read: {offer['malformed']}"
            continue
        terms = f"{_said(offer, 'amount')} of {_said(offer, 'asset')} on {_said(offer, 'network')}"
        yield f"offer: {_said(offer, 'scheme')}, {terms} to {_said(offer, 'pay_to')}"


def _signed(data: Data) -> Iterator[str]:
    authorization = data.get("authorization")
    recipient = _said(authorization, "to") if isinstance(authorization, dict) else "?"
    valid_before = data.get("valid_before")
    until = f", valid until {moment(valid_before)}" if isinstance(valid_before, int) else ""
    yield f"{_said(data, 'amount')} atomic units of {_said(data, 'asset_symbol')} to {recipient}{until}"
    if isinstance(authorization, dict):
        yield f"nonce {_said(authorization, 'nonce')}"
    yield from _attested(data.get("signed_offer"), "offer")
    refused = data.get("would_refuse")
    if isinstance(refused, dict):
        yield f"overrides on trial would have refused it: {_said(refused, 'code')} ({_said(refused, 'detail')})"


def _outcome(data: Data) -> Iterator[str]:
    if isinstance(data.get("proof"), dict):
        yield from _proof(data["proof"], "used")
    elif isinstance(data.get("http_status"), int):
        delivered = "" if data.get("delivered") is True else ", the program got no answer for its money"
        yield f"the seller answered {data['http_status']}{delivered}"
    else:
        yield "the seller did not answer"
    notes = data.get("notes")
    yield from (str(note) for note in notes) if isinstance(notes, list) else ()
    if isinstance(data.get("transaction"), str):
        yield f"transaction {data['transaction']}"
    yield from _attested(data.get("receipt"), "receipt")


def _attested(evidence: object, what: str) -> Iterator[str]:
    if not isinstance(evidence, dict):
        return
    notes = evidence.get("notes")
    odd = "; ".join(str(note) for note in notes) if isinstance(notes, list) else ""
    by = "signed by the recipient" if evidence.get("verified") is True else "signed by nobody we know"
    yield f"the seller's {what} is on record, {by}" + (f" ({odd})" if odd else "")


def _released(data: Data) -> Iterator[str]:
    proof = data.get("proof")
    yield from _proof(proof if isinstance(proof, dict) else {}, "not used, and void")


def _proof(proof: Data, what: str) -> Iterator[str]:
    sources = proof.get("sources")
    agree = f", {sources} RPC servers agree" if isinstance(sources, int) and sources > 1 else ""
    yield f"the chain says at block {_said(proof, 'block_number')}: {what}{agree}"
    yield f"block {_said(proof, 'block_hash')}"


def _said(data: Data, member: str) -> str:
    return str(data.get(member, "?"))


_TELLERS: Final[dict[str, Callable[[Data], Iterator[str]]]] = {
    "x402.payment.attempt": _attempt,
    "x402.payment.signed": _signed,
    "x402.payment.settled": _outcome,
    "x402.payment.refused": _outcome,
    "x402.payment.unknown": _outcome,
    "x402.payment.released": _released,
}
