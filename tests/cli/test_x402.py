"""Transcripts of `keyctl x402`: what a person and a program read."""

from __future__ import annotations

import json

import pytest

from keyd import api
from keyd.cli.render import usd
from keyd.cli.story import state_text
from keyd.reasons import Reason
from tests.cli.views import PAYMENT, POLICY, PROPOSAL, STORY


def test_policy_tells_a_person_what_was_spent_where_and_what_is_left(keyd, ask):
    keyd.answers["policy"] = POLICY
    result = ask("x402", "policy")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "You have spent $0.34 of $1.00 today (2026-11-21 UTC), $0.66 left: "
        "api.quicknode.com $0.28 (14 calls), data.example.com $0.0605 (1 call).\n"
        "\n"
        "spent by         uid:1000 $0.34 (15 calls)\n"
        "per payment      at most $0.10\n"
        "allowed domains  api.quicknode.com, *.example.com\n"
        "networks         eip155:8453\n"
        "assets           USDC@eip155:8453\n"
        "wallet           default  0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266\n"
    )


def test_policy_says_when_nothing_can_be_paid(keyd, ask):
    nothing = {"enabled": False, "allowed_domains": [], "by_domain": [], "wallet": None}
    keyd.answers["policy"] = POLICY.model_copy(update=nothing)
    result = ask("x402", "policy")
    assert result.out.startswith("Payments are switched off.\nYou have spent $0.34 of $1.00 today")
    assert "$0.66 left.\n" in result.out
    assert "allowed domains  none\n" in result.out
    assert "wallet           default  (does not exist yet)\n" in result.out


def test_policy_shows_every_limit_that_is_set(keyd, ask):
    keyd.answers["policy"] = POLICY.model_copy(
        update={
            "frozen": api.Frozen(frozen=True, by="uid:0", reason="odd\x1b[2J", since=1795262400),
            "enforce": False,
            "denied_domains": ["bad.example.com"],
            "only_domains": [],
            "approve_above": "0.05",
            "approve_first_seen": True,
            "payments_per_minute": 1,
            "budgets": [
                api.BudgetView(domain="a.example.com", caller=None, daily="0.50", spent_today="0.125"),
                api.BudgetView(domain="a.example.com", caller="uid:7", daily="0.1", spent_today="0.00"),
            ],
            "pending": [PROPOSAL],
            "overrides": {"daily_budget_usd": "2.00", "only": [], "deny": ["bad.example.com"]},
        }
    )
    result = ask("x402", "policy")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "Payments are frozen since 2026-11-21 12:00:00Z by uid:0: odd\\x1b[2J.\n"
        "You have spent $0.34 of $1.00 today (2026-11-21 UTC), $0.66 left: "
        "api.quicknode.com $0.28 (14 calls), data.example.com $0.0605 (1 call).\n"
        "\n"
        "spent by         uid:1000 $0.34 (15 calls)\n"
        "per payment      at most $0.10\n"
        "budget           $0.125 of $0.50 spent today at a.example.com\n"
        "budget           $0.00 of $0.10 spent today at a.example.com by uid:7\n"
        "per minute       at most 1 payment\n"
        "approval         above $0.05, and before the first payment to a host\n"
        "allowed domains  api.quicknode.com, *.example.com\n"
        "of these only    none\n"
        "denied domains   bad.example.com\n"
        "networks         eip155:8453\n"
        "assets           USDC@eip155:8453\n"
        "wallet           default  0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266\n"
        'override         daily_budget_usd = "2.00"\n'
        "override         only = []\n"
        'override         deny = ["bad.example.com"]\n'
        "\n"
        "Overrides are only tried out (enforce = false): keyd.toml alone decides, and the ledger says what they would "
        "have refused.\n"
        "\n"
        "1 waits for approval: `keyctl x402 pending` shows what.\n"
    )


def test_policy_names_the_dearest_domains_and_counts_the_others(keyd, ask):
    spends = [api.DomainSpend(domain=f"d{i}.example.com", usd="0.01", calls=1) for i in range(5)]
    keyd.answers["policy"] = POLICY.model_copy(update={"by_domain": spends})
    first = ask("x402", "policy").out.splitlines()[0]
    assert first.endswith("d2.example.com $0.01 (1 call), and 2 other domains.")
    assert "d3" not in first


def test_policy_json_is_keyds_answer_with_amounts_as_strings(keyd, ask):
    keyd.answers["policy"] = POLICY
    result = ask("x402", "policy", "--json")
    answer = json.loads(result.out)
    assert result.code == 0
    assert (answer["daily_budget"], answer["spent_today"], answer["left_today"]) == ("1.00", "0.34", "0.66")
    assert answer["allowed_domains"] == ["api.quicknode.com", "*.example.com"]
    assert api.PolicyView.model_validate_json(result.out) == POLICY


def test_a_refusal_of_keyd_keeps_its_code_and_its_hint(keyd, ask):
    keyd.answers["policy"] = api.Refusal(
        code="peer_unknown", detail="uid 1234 has no role", hint="Add the user."
    )
    result = ask("x402", "policy")
    assert (result.code, result.out) == (1, "")
    assert result.err == "keyctl: error: uid 1234 has no role (peer_unknown)\nkeyctl: hint: Add the user.\n"


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0.34", "$0.34"),
        ("1", "$1.00"),
        ("0.340000", "$0.34"),
        ("0.000001", "$0.000001"),
        ("0.10", "$0.10"),
        ("123456789012.123456", "$123456789012.123456"),
        ("9007199254740993.01", "$9007199254740993.01"),  # not representable as a float
        ("100", "$100.00"),
        ("-0.5", "-$0.50"),
        ("NaN", "NaN"),
        ("1\x1b[2J", "1\\x1b[2J"),
    ],
)
def test_amounts_are_shown_exactly(amount, shown):
    assert usd(amount) == shown


@pytest.mark.parametrize("reason", list(Reason))
def test_every_code_can_be_explained_without_keyd(keyctl, reason):
    result = keyctl("--socket", "/nowhere/keyd.sock", "x402", "explain", reason)
    assert result.code == 0
    assert result.out == f"{reason}: {reason.explanation.summary}\nWhat to do: {reason.explanation.remedy}\n"


def test_explain_without_a_code_lists_all(keyctl):
    result = keyctl("x402", "explain")
    assert result.code == 0
    assert [line.split()[0] for line in result.out.splitlines()[1:]] == [reason.value for reason in Reason]


def test_explain_names_codes_close_to_an_unknown_one(keyctl):
    result = keyctl("x402", "explain", "budget-dayly")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "keyctl: error: there is no reason code 'budget-dayly'\nkeyctl: hint: did you mean budget_daily or budget_domain or budget_caller?\n"
    )


def test_explain_says_what_the_state_of_a_payment_means(keyd, ask):
    keyd.answers["policy"] = POLICY
    keyd.answers["payment"] = STORY
    result = ask("x402", "explain", PAYMENT.payment_id)
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        f"{PAYMENT.payment_id}: 0.01 USDC to api.example.com, settled. The chain confirms that the money moved.\n"
        "What to do: nothing.\n"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": "signed", "proven": False, "delivered": False}, "Nothing was reported about it"),
        ({"state": "refused", "proven": False, "delivered": False}, "can still settle it until 2026-11-21"),
        ({"state": "unknown", "proven": False, "delivered": True}, "The program has its answer."),
        ({"state": "released", "delivered": False}, "the budget has it back"),
        ({"state": "settled", "proven": False}, "the chain was not asked yet"),
        ({"state": "settled", "delivered": False}, "ask the seller, naming the transaction"),
    ],
)
def test_every_state_has_its_meaning(change, said):
    assert said in state_text(PAYMENT.model_copy(update=change))


@pytest.mark.parametrize("field", ["domain", "asset", "amount"])
def test_the_meaning_of_a_payment_cannot_steer_the_terminal(field):
    text = state_text(PAYMENT.model_copy(update={field: "\x1b[2J\n"}))
    assert all(line.isprintable() for line in text.splitlines())
    assert len(text.splitlines()) == 2


def test_explain_says_what_a_proposal_asks_for(keyd, ask):
    keyd.answers["policy"] = POLICY.model_copy(update={"pending": [PROPOSAL]})
    result = ask("x402", "explain", PROPOSAL.id)
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "A payment is held (approval_required): 0.2 USDC to new.example.com is above 0.10 USD\n"
        "Asked by uid:991 at 2026-11-21 12:00:00Z; without an answer it is dropped at 2026-11-22 12:00:00Z.\n"
        "What to do: `keyctl x402 approve a1b2c3d4e5f6` or `keyctl x402 reject a1b2c3d4e5f6`.\n"
    )


def test_explain_of_an_id_that_nobody_knows_says_so(keyd, ask):
    keyd.answers["policy"] = POLICY
    keyd.answers["payments"] = api.PaymentList(payments=[PAYMENT])
    result = ask("x402", "explain", "ffffffff")
    assert (result.code, result.out) == (1, "")
    assert "none of the newest 1 payments begins with 'ffffffff'" in result.err


def test_explain_points_to_the_list_if_nothing_is_close(keyctl):
    result = keyctl("x402", "explain", "zzz")
    assert result.code == 1
    assert "keyctl: hint: `keyctl x402 explain` lists all codes\n" in result.err
