"""Transcripts of `keyctl x402`: what a person and a program read."""

from __future__ import annotations

import json

import pytest

from keyd import api
from keyd.cli.render import usd
from keyd.reasons import Reason

POLICY = api.PolicyView(
    enabled=True,
    allowed_domains=["api.quicknode.com", "*.example.com"],
    networks=["eip155:8453"],
    assets=["USDC@eip155:8453"],
    max_payment="0.10",
    daily_budget="1.00",
    spent_today="0.34",
    left_today="0.66",
    day="2026-11-21",
    by_domain=[
        api.DomainSpend(domain="api.quicknode.com", usd="0.28", calls=14),
        api.DomainSpend(domain="data.example.com", usd="0.0605", calls=2),
    ],
    wallet="0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
    default_wallet_label="default",
)


def test_policy_tells_a_person_what_was_spent_where_and_what_is_left(keyd, ask):
    keyd.answers["policy"] = POLICY
    result = ask("x402", "policy")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "You have spent $0.34 of $1.00 today (2026-11-21 UTC), $0.66 left.\n"
        "\n"
        "DOMAIN               SPENT  CALLS\n"
        "api.quicknode.com    $0.28     14\n"
        "data.example.com   $0.0605      2\n"
        "\n"
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
    assert result.out.startswith("Payments are switched off.\n")
    assert "allowed domains  none\n" in result.out
    assert "wallet           default  (does not exist yet)\n" in result.out
    assert "DOMAIN" not in result.out


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
        "keyctl: error: there is no reason code 'budget-dayly'\nkeyctl: hint: did you mean budget_daily?\n"
    )


def test_explain_points_to_the_list_if_nothing_is_close(keyctl):
    result = keyctl("x402", "explain", "zzz")
    assert result.code == 1
    assert "keyctl: hint: `keyctl x402 explain` lists all codes\n" in result.err
