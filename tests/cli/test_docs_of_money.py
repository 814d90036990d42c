"""docs/policy.md and docs/payment-life.md hold the tables that the code decides by."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyd import api
from keyd.core import eip3009, evidence, policy
from keyd.core.intent import Intent, from_request
from keyd.core.policy import Allow, BudgetRule, Deny, Pin, Policy, SessionStanding, Spent, Standing, decide
from keyd.domains import DomainPattern
from keyd.record import payments, proposals
from ledger import states
from tests.keyd.conftest import PAYER, POLICY, SELLER, USDC, offer, sign_request

DOCS = Path(__file__).resolve().parents[2] / "docs"
POLICY_PAGE = (DOCS / "policy.md").read_text("utf-8")
LIFE_PAGE = (DOCS / "payment-life.md").read_text("utf-8")


def rows(page: str, header: str) -> list[list[str]]:
    """The cells of the table under `header`."""
    body = page[page.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


# -- policy.md -------------------------------------------------------------------------------------------

OTHER = "0x857b06519E91e3A54538791bDbb0E22373e36b66"
EVERYTHING_WRONG = (
    {"caller": None, "session": "0" * 64, "max_spend": "much", "offers": [offer(scheme="upto")]},
    replace(
        POLICY,
        callers=frozenset(),
        session_required=frozenset({"uid:1000"}),
        enabled=False,
        denied_domains=POLICY.allowed_domains,
        allowed_domains=(),
        max_payment=999,
        payments_per_minute=0,
        daily_budget=0,
        daily_budget_per_domain=0,
        daily_budget_per_caller=0,
        daily_budget_per_caller_and_domain=0,
        approve_above=0,
    ),
    Standing(
        frozen=True,
        quarantined=True,
        pin=Pin("eip155:8453", USDC, OTHER),
        pinned_price=1,
        spent=Spent(1, 1, 1, 1),
    ),
)
type Case = tuple[dict[str, Any], Policy, Standing]


def request_with(**members: Any) -> Callable[[Case], Case]:
    return lambda case: (case[0] | members, case[1], case[2])


def policy_with(**changes: Any) -> Callable[[Case], Case]:
    return lambda case: (case[0], replace(case[1], **changes), case[2])


def standing_with(**changes: Any) -> Callable[[Case], Case]:
    return lambda case: (case[0], case[1], replace(case[2], **changes))


def in_session(case: Case) -> Case:
    standing = replace(case[2], session=SessionStanding("0" * 16, "research", 0, 0, 0))
    return case[0] | {"session": "0" * 64}, case[1], standing


PUT_RIGHT: dict[str, Callable[[Case], Case]] = {
    "caller_unknown": request_with(caller={"uid": 1000}),
    "caller_not_allowed": policy_with(callers=frozenset({"uid:1000"})),
    "session_invalid": request_with(session=None),
    "session_required": in_session,
    "x402_disabled": policy_with(enabled=True),
    "frozen": standing_with(frozen=False),
    "domain_denied": policy_with(denied_domains=()),
    "domain_not_allowed": policy_with(allowed_domains=(DomainPattern.parse("*"),)),
    "host_quarantined": standing_with(quarantined=False),
    "app_limit_malformed": request_with(max_spend="1.00"),
    "*offer*": request_with(offers=[offer("1000")]),
    "cap_per_payment": policy_with(max_payment=1_000),
    "rate_limit": policy_with(payments_per_minute=1),
    "budget_daily": policy_with(daily_budget=1_001),
    "budget_domain": policy_with(daily_budget_per_domain=None),
    "budget_caller": policy_with(daily_budget_per_caller=None, budgets=(BudgetRule(None, "uid:1001", 0),)),
    "budget_caller_domain": policy_with(daily_budget_per_caller_and_domain=None),
    "budget_session": standing_with(session=SessionStanding("0" * 16, "research", 1_000, 0, 0)),
    "pin_asset": standing_with(pin=Pin("eip155:84532", USDC, OTHER)),
    "pin_pay_to": standing_with(pin=Pin("eip155:84532", USDC, SELLER)),
    "pin_price": standing_with(pinned_price=500),
    "approval_required": policy_with(approve_above=1_000),
}


def intent_of(members: dict[str, Any]) -> Intent:
    return from_request(
        sign_request(*members["offers"], **{k: v for k, v in members.items() if k != "offers"}),
        POLICY.assets,
        0,
    )


def test_the_order_of_the_decision_is_the_one_that_is_written() -> None:
    case, found = EVERYTHING_WRONG, []
    for code, put_right in PUT_RIGHT.items():
        members, rules, standing = case
        decision = decide(intent_of(members), rules, payer=PAYER, standing=standing)
        assert isinstance(decision, Deny), code
        found.append(
            "*offer*" if code == "*offer*" and decision.reason in policy._STAGE else decision.reason.value
        )
        case = put_right(case)
    members, rules, standing = case
    assert isinstance(decide(intent_of(members), rules, payer=PAYER, standing=standing), Allow)
    written = [row[1].strip("`") for row in rows(POLICY_PAGE, "| step | code |")]
    assert found == list(PUT_RIGHT) == written


def test_the_order_in_which_an_offer_is_judged_is_the_one_that_is_written() -> None:
    paragraph = re.search(r"^`offer_malformed`.*?\n\n", POLICY_PAGE, re.MULTILINE | re.DOTALL)
    assert paragraph is not None
    assert re.findall(r"`(\w+)`", paragraph[0]) == [reason.value for reason in policy._STAGE]


def test_the_codes_that_a_repeat_can_meet_are_as_many_as_it_says() -> None:
    assert len(list(iter_admissions())) == 9
    assert "The first nine are asked of the repeat" in POLICY_PAGE


def iter_admissions() -> Iterator[Deny]:
    """What `admit` alone refuses, one after the other."""
    case = EVERYTHING_WRONG
    for put_right in PUT_RIGHT.values():
        denial = policy.admit(intent_of(case[0]), case[1], case[2])
        if denial is None:
            return
        yield denial
        case = put_right(case)


# -- payment-life.md -------------------------------------------------------------------------------------


def standing_named(words: str) -> states.Standing | None:
    if words == "–":
        return None
    state, _, proven = words.replace("`", "").partition(", ")
    return states.State(state), bool(proven) or state == "released"


def test_the_transitions_are_those_of_the_ledger() -> None:
    header = next(line for line in LIFE_PAGE.splitlines() if line.startswith("| from |"))
    events = [states.Event(cell.strip()) for cell in header.strip("|").split("|")[1:]]
    assert set(events) == set(states.Event)
    written = {
        standing_named(start): dict(zip(events, map(standing_named, ends), strict=True))
        for start, *ends in rows(LIFE_PAGE, header)
    }
    assert written == states.TRANSITIONS


def test_the_states_that_count_as_spent_are_those_of_the_ledger() -> None:
    for state, _, budget in rows(LIFE_PAGE, "| state | means |"):
        standing = standing_named(state)
        assert standing is not None
        assert {"spent": 1, "given back": 0}[budget] == states.counts(standing)


RECEIPT = {"success": True, "transaction": "0x" + "ab" * 32, "network": "eip155:84532", "payer": PAYER}
RECEIPTS = {"agrees": RECEIPT, "none": None, "contradicts": RECEIPT | {"payer": OTHER}}
SIGNED = evidence.Signed(PAYER, "eip155:84532", 1_000)
PAYMENT_ID = "0" * 32


def reports(saw: str) -> Iterator[dict[str, Any]]:
    """What egress may report for a line of the table: the edges of each class of status, or no answer."""
    if saw == "no answer":
        yield from ({"failure": failure} for failure in ("connection", "timeout", "hung_up", "not_sent"))
    for digit in re.findall(r"(\d)xx", saw):
        yield from ({"http_status": int(digit) * 100 + rest} for rest in (0, 2, 99))


def test_the_events_are_those_of_the_evidence() -> None:
    table = rows(LIFE_PAGE, "| egress saw | receipt |")
    assert len(table) == 3 * len(RECEIPTS) + 1
    for saw, receipt, event, delivered in table:
        seen = list(reports(saw))
        assert seen
        for facts in seen:
            report = api.OutcomeReport(payment_id=PAYMENT_ID, settlement=RECEIPTS[receipt], **facts)
            found = evidence.weigh(SIGNED, report)
            assert (found.state, found.delivered) == (event, delivered == "yes"), (saw, receipt)
            assert bool(found.notes) == (receipt == "contradicts" or "failure" in facts)


VALID_BEFORE = 1_795_262_460
LATE = VALID_BEFORE + evidence.RELEASE_MARGIN_S
CHAIN: dict[str, tuple[bool, int, int, bool]] = {
    "used": (True, 0, 0, False),
    "unused, block and keyd's clock more than 120 s after `validBefore`, enough servers": (
        False,
        LATE + 1,
        LATE + 1,
        True,
    ),
    "unused, block 120 s or less after `validBefore`": (False, LATE, LATE + 1, True),
    "unused, keyd's clock 120 s or less after `validBefore`": (False, LATE + 1, LATE, True),
    "unused, fewer servers than `proof_sources`": (False, LATE + 1, LATE + 1, False),
}


def test_the_proofs_are_those_of_the_evidence() -> None:
    table = dict(rows(LIFE_PAGE, "| the chain, at a block | event |"))
    assert table.keys() == CHAIN.keys()
    events = {"settled": "confirmed", "released": "released", None: "none"}
    for line, (used, block, now_s, enough) in CHAIN.items():
        found = api.ChainEvidence(
            payment_id=PAYMENT_ID,
            used=used,
            block_number=1,
            block_hash="0x" + "11" * 32,
            block_timestamp=block,
            sources=1,
        )
        proven = evidence.prove(VALID_BEFORE, found, now_s=now_s, enough_sources=enough)
        assert events[proven] == table[line]


@pytest.mark.parametrize(
    ("name", "seconds", "written"),
    [
        ("`validBefore`", eip3009.MAX_WINDOW_S, 600),
        ("margin", payments.SETTLE_MARGIN_S, 120),
        ("margin", evidence.RELEASE_MARGIN_S, 120),
        ("cool-down", payments.COOL_DOWN_S, 10),
        ("approval", proposals.APPROVAL_S, 3600),
        ("question", proposals.PENDING_S, 24 * 3600),
    ],
)
def test_the_times_are_those_of_the_code(name: str, seconds: int, written: int) -> None:
    said = {row[0]: row[1] for row in rows(LIFE_PAGE, "| | | why |")}[name]
    number, unit = re.findall(r"(\d+) (s|h)\b", said)[-1]
    assert int(number) * {"s": 1, "h": 3600}[unit] == seconds == written
