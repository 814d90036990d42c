"""Transcripts of what changes the policy: allow, deny, budget, cap, reset, freeze, pending, approve, reject."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest
from pydantic import BaseModel

from keyd import api
from keyd.record import proposals
from tests.cli.views import POLICY, PROPOSAL, WIDER

APPLIED = api.PolicyChanged(applied=True)


def serve(keyd, reply: BaseModel, **changes: object) -> None:
    """The first question about the policy is answered as before, the next ones with `changes`."""
    views = iter([POLICY])
    keyd.answers["policy"] = lambda _request: next(views, POLICY.model_copy(update=changes))
    keyd.answers["policy_change"] = reply


def patch_of(keyd) -> dict[str, object]:
    """What keyd was asked to change, without what was left at its default."""
    body = next(body for name, body in keyd.asked if name == "policy_change")
    return api.PolicyPatch.model_validate_json(body).model_dump(exclude_defaults=True)


@pytest.mark.parametrize(
    ("arguments", "patch"),
    [
        (["allow", "api.example.com"], {"allow": ["api.example.com"]}),
        (["allow", "a.example.com", "*.b.example"], {"allow": ["a.example.com", "*.b.example"]}),
        (["deny", "bad.example.com"], {"deny": ["bad.example.com"]}),
        (["signin", "allow", "api.example.com"], {"signin_allow": ["api.example.com"]}),
        (["signin", "deny", "API.example.com"], {"signin_deny": ["api.example.com"]}),
        (["budget", "2.50"], {"daily_budget_usd": "2.50"}),
        (["cap", "0.05"], {"max_payment_usd": "0.05"}),
        (
            ["budget", "1", "--domain", "https://API.Example.com:443"],
            {"budgets": [{"domain": "api.example.com", "daily_usd": "1"}]},
        ),
        (
            ["budget", "1", "--caller", "1000", "--domain", "http://127.0.0.1:4021"],
            {"budgets": [{"domain": "http://127.0.0.1:4021", "caller": "uid:1000", "daily_usd": "1"}]},
        ),
        (["budget", "1", "--caller", "proxy:ci"], {"budgets": [{"caller": "proxy:ci", "daily_usd": "1"}]}),
        (["budget", "--remove", "--caller", "uid:1000"], {"budgets": [{"caller": "uid:1000"}]}),
    ],
)
def test_a_command_asks_for_exactly_its_change(keyd, ask, arguments, patch):
    serve(keyd, APPLIED)
    assert ask("x402", *arguments).code == 0
    assert patch_of(keyd) == patch


def test_a_change_shows_before_and_after_and_what_it_permits(keyd, ask):
    wider = ["raises the daily budget to 2.00 USD", "allows new.example.com"]
    serve(
        keyd,
        api.PolicyChanged(applied=True, wider=wider),
        daily_budget="2.00",
        max_payment="0.05",
        approve_above="0.01",
        payments_per_minute=30,
        allowed_domains=["api.quicknode.com", "new.example.com"],
        denied_domains=["bad\x1b.example.com"],
        only_domains=["api.quicknode.com"],
        budgets=[api.BudgetView(domain="a.example", caller="uid:7", daily="0.5", spent_today="0.00")],
        spent_today="0.99",
    )
    result = ask("x402", "budget", "2.00")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "daily budget: $1.00 → $2.00\n"
        "per payment: $0.10 → $0.05\n"
        "approval above: none → $0.01\n"
        "per minute: no limit → 30\n"
        "allowed domains: + new.example.com\n"
        "allowed domains: - *.example.com\n"
        "denied domains: + bad\\x1b.example.com\n"
        "only domains: + api.quicknode.com\n"
        "budget at a.example by uid:7: none → $0.50\n"
        "This permits more than before: raises the daily budget to 2.00 USD; allows new.example.com.\n"
    )


def test_a_change_that_changes_nothing_is_said_to(keyd, ask):
    serve(keyd, APPLIED, spent_today="0.50")
    result = ask("x402", "deny", "bad.example.com")
    assert (result.code, result.out) == (0, "nothing changed: it was like this already\n")


def test_a_change_on_trial_is_said_to_be_one(keyd, ask):
    serve(keyd, APPLIED, max_payment="0.01", enforce=False)
    assert ask("x402", "cap", "0.01").out == (
        "per payment: $0.10 → $0.01\nOverrides are only tried out (enforce = false): keyd.toml alone decides.\n"
    )


def test_a_proposal_is_not_taken_for_a_change(keyd, ask):
    wider = ["raises the daily budget to 2.00 USD"]
    serve(keyd, api.PolicyChanged(applied=False, proposal=WIDER, wider=wider))
    result = ask("x402", "budget", "2.00")
    assert (result.code, result.err) == (3, "")
    assert result.out == (
        "Not in force: an agent may not permit more than before (raises the daily budget to 2.00 USD).\n"
        "It was filed as proposal 0f1e2d3c4b5a, until 2026-11-22 12:00:00Z.\n"
        "An administrator decides with `keyctl x402 approve 0f1e2d3c4b5a` or `reject`.\n"
    )


def test_a_change_beyond_the_limits_is_refused_with_the_way_out(keyd, ask):
    serve(
        keyd, api.Refusal(code="policy_limit", detail="daily budget 9.00 USD > 5.00 USD", hint="Stay within.")
    )
    result = ask("x402", "budget", "9.00")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "keyctl: error: daily budget 9.00 USD > 5.00 USD (policy_limit)\nkeyctl: hint: Stay within.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["budget"], "give either an amount or --remove"),
        (["budget", "1.00", "--remove", "--domain", "a.example"], "give either an amount or --remove"),
        (["budget", "--remove"], "--remove needs --domain or --caller"),
        (["budget", "1.0000001"], "at most six decimal places"),
        (["budget", "-1"], "No such option"),
        (["budget", "1e3"], "is not a USD amount"),
        (["budget", "١"], "is not a USD amount"),
        (["budget", "1", "--domain", "*.example.com"], "stands for many domains"),
        (["budget", "1", "--domain", "*"], "stands for many domains"),
        (["budget", "1", "--domain", "https://a.example/path"], "only scheme, host and port count"),
        (["budget", "1", "--caller", "alice"], "is not how the ledger names a caller"),
        (["budget", "1", "--caller", "@users"], "is not how the ledger names a caller"),
        (["cap"], "Missing argument"),
        (["cap", "$1"], "is not a USD amount"),
        (["allow"], "Missing argument"),
        (["allow", "https://a.example/path"], "only scheme, host and port count"),
        (["allow", "http://*.example.com"], "plain http is allowed host by host only"),
        (["signin", "allow"], "Missing argument"),
        (["signin", "allow", "*.example.com"], "stands for many domains"),
        (["deny"], "Missing argument"),
        (["deny", "http://a.example:"], "the port is not a number"),
        (["allow", *["a.example"] * 101], "at most 100 domains"),
        (["freeze", "x" * 201], "more than 200 characters"),
        (["reset", "*.example.com"], "stands for many domains"),
        (["approve"], "Missing argument"),
        (["reject"], "Missing argument"),
    ],
)
def test_a_mistake_is_refused_before_anybody_is_asked(keyd, ask, arguments, said):
    result = ask("x402", *arguments)
    assert (result.code, result.out, keyd.asked) == (2, "", [])
    assert said.lower() in result.err.lower()


# -- reset -----------------------------------------------------------------------------------------------

OVERRIDDEN = POLICY.model_copy(update={"overrides": {"daily_budget_usd": "2.00"}, "daily_budget": "2.00"})


def serve_reset(keyd) -> None:
    views = iter([OVERRIDDEN])
    keyd.answers["policy"] = lambda _request: next(views, POLICY)
    keyd.answers["policy_reset"] = APPLIED


def test_reset_drops_all_overrides_if_it_is_told_to(keyd, ask):
    serve_reset(keyd)
    result = ask("x402", "reset", "--yes")
    assert (result.code, result.err) == (0, "")
    assert result.out == "overrides dropped, keyd.toml is in force as it is\ndaily budget: $2.00 → $1.00\n"
    assert [body for name, body in keyd.asked if name == "policy_reset"] == ["{}"]


def test_reset_does_nothing_where_nobody_can_be_asked(keyd, ask, monkeypatch):
    serve_reset(keyd)
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115 - closed with the test's process
    result = ask("x402", "reset")
    assert (result.code, result.out) == (1, "")
    assert "keyctl: hint: confirm it with --yes\n" in result.err
    assert [name for name, _ in keyd.asked] == ["policy"]


@pytest.mark.parametrize(("answer", "code", "asked"), [("y", 0, True), ("n", 1, False), ("", 1, False)])
def test_reset_asks_at_a_terminal(keyd, answer, code, asked):
    serve_reset(keyd)
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode() + b"\n")
    command = "from keyd.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "--socket", str(keyd.socket), "x402", "reset"],
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=240,
    )
    os.close(theirs)
    os.close(ours)
    assert done.returncode == code
    assert "Drop all overrides (daily_budget_usd)?" in done.stderr
    assert ("policy_reset" in dict(keyd.asked)) is asked


def test_reset_without_overrides_has_nothing_to_do(keyd, ask):
    keyd.answers["policy"] = POLICY
    assert ask("x402", "reset").out == "there are no overrides: keyd.toml is in force as it is\n"


def test_reset_of_a_domain_forgets_its_pins_without_a_question(keyd, ask):
    keyd.answers["policy_reset"] = APPLIED
    result = ask("x402", "reset", "https://api.example.com/".rstrip("/"))
    assert result.out == "pins and quarantine of api.example.com are forgotten\n"
    assert keyd.asked == [("policy_reset", '{"domain":"api.example.com"}')]


# -- freeze ----------------------------------------------------------------------------------------------


def test_freeze_says_who_and_why_and_how_to_end_it(keyd, ask):
    keyd.answers["freeze"] = api.Frozen(frozen=True, by="uid:1001", reason="odd prices", since=1795262400)
    result = ask("x402", "freeze", "odd", "prices")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "Payments are frozen since 2026-11-21 12:00:00Z by uid:1001: odd prices.\n"
        "`keyctl x402 unfreeze` lets an administrator end it.\n"
    )
    assert keyd.asked == [("freeze", '{"reason":"odd prices"}')]


def test_freeze_needs_no_reason(keyd, ask):
    keyd.answers["freeze"] = api.Frozen(frozen=True, by="uid:0", reason="", since=1795262400)
    assert ask("x402", "freeze").out.startswith("Payments are frozen since 2026-11-21 12:00:00Z by uid:0.\n")


def test_unfreeze_is_for_administrators(keyd, ask):
    keyd.answers["unfreeze"] = api.Frozen(frozen=False)
    assert ask("x402", "unfreeze").out == "payments are not frozen\n"
    keyd.answers["unfreeze"] = api.Refusal(code="role_insufficient", detail="uid 7 is not admin", hint="")
    result = ask("x402", "unfreeze")
    assert (result.code, result.out) == (1, "")
    assert result.err == "keyctl: error: uid 7 is not admin (role_insufficient)\n"


# -- approvals -------------------------------------------------------------------------------------------


def test_pending_lists_what_waits(keyd, ask):
    keyd.answers["policy"] = POLICY.model_copy(update={"pending": [PROPOSAL, WIDER]})
    result = ask("x402", "pending")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "ID            KIND     CODE               BY        UNTIL                 WHAT\n"
        "a1b2c3d4e5f6  payment  approval_required  uid:991   2026-11-22 12:00:00Z  "
        "0.2 USDC to new.example.com is above 0.10 USD\n"
        "0f1e2d3c4b5a  policy                      uid:1001  2026-11-22 12:00:00Z  "
        "raises the daily budget to 2.00 USD\n"
        "`keyctl x402 approve ID` or `keyctl x402 reject ID` decides.\n"
    )


def test_pending_json_is_a_list(keyd, ask):
    keyd.answers["policy"] = POLICY.model_copy(update={"pending": [PROPOSAL]})
    (waiting,) = json.loads(ask("x402", "pending", "--json").out)
    assert api.Proposal.model_validate(waiting) == PROPOSAL
    keyd.answers["policy"] = POLICY
    assert json.loads(ask("x402", "pending", "--json").out) == []
    assert ask("x402", "pending").out == "nothing waits for approval\n"


def test_approving_a_payment_says_that_the_next_try_is_paid(keyd, ask):
    serve(keyd, APPLIED)
    keyd.answers["approve"] = api.Decided(proposal=PROPOSAL, applied=True)
    result = ask("x402", "approve", PROPOSAL.id)
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "approved: 0.2 USDC to new.example.com is above 0.10 USD\n"
        "The program's next try within an hour is paid, once.\n"
    )
    assert proposals.APPROVAL_S == 3600


def test_approving_a_change_shows_what_it_changed(keyd, ask):
    serve(keyd, APPLIED, daily_budget="2.00")
    keyd.answers["approve"] = api.Decided(proposal=WIDER, applied=True)
    assert ask("x402", "approve", WIDER.id).out == (
        "approved: raises the daily budget to 2.00 USD\ndaily budget: $1.00 → $2.00\n"
    )


def test_the_beginning_of_one_id_will_do_and_of_two_will_not(keyd, ask):
    twins = [WIDER.model_copy(update={"id": f"abcdef{n}" + "0" * 33}) for n in range(2)]
    keyd.answers["policy"] = POLICY.model_copy(update={"pending": twins})
    keyd.answers["reject"] = api.Decided(proposal=WIDER, applied=False)
    assert ask("x402", "reject", "abcdef1").code == 0
    ambiguous = ask("x402", "reject", "abcdef")
    assert (ambiguous.code, ambiguous.out) == (1, "")
    assert "fits 2 ids" in ambiguous.err


def test_rejecting_says_what_was_rejected(keyd, ask):
    keyd.answers["policy"] = POLICY
    keyd.answers["reject"] = api.Decided(proposal=WIDER, applied=False)
    assert ask("x402", "reject", WIDER.id).out == "rejected: raises the daily budget to 2.00 USD\n"


@pytest.mark.parametrize("verb", ["approve", "reject"])
def test_an_id_that_waits_no_more_is_refused(keyd, ask, verb):
    keyd.answers["policy"] = POLICY
    keyd.answers[verb] = api.Refusal(
        code="proposal_unknown", detail="nothing waits under 00", hint="List them."
    )
    result = ask("x402", verb, "00")
    assert (result.code, result.out) == (1, "")
    assert (
        result.err == "keyctl: error: nothing waits under 00 (proposal_unknown)\nkeyctl: hint: List them.\n"
    )


@pytest.mark.parametrize(
    "command", [["pending"], ["approve", "a1"], ["reject", "a1"], ["explain", "a1b2c3d4e5f6"]]
)
def test_a_sellers_text_in_a_proposal_cannot_steer_the_terminal(keyd, ask, command):
    hostile = PROPOSAL.model_copy(update={"summary": "x\x1b[2J\r\napproved: all\u202e", "by": "\x9b1m"})
    decided = api.Decided(proposal=hostile, applied=True)
    keyd.answers["policy"] = POLICY.model_copy(update={"pending": [hostile]})
    keyd.answers |= {"approve": decided, "reject": decided}
    result = ask("x402", *command)
    assert result.code == 0
    assert all(line.isprintable() for line in result.out.split("\n"))
    assert "\napproved: all" not in result.out
