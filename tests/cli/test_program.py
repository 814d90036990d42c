"""What keyctl says to type exists under the name by which it was called."""

from __future__ import annotations

import pytest

from keyd import api
from keyd.cli.program import as_called
from tests.cli.views import POLICY, WIDER

HINT = "`keyctl x402 policy` and /usr/bin/keyctl x402; a keyctl, and osmoda-keyctl health"


@pytest.mark.parametrize("name", ["keyctl", "/usr/bin/keyctl", "pytest"])
def test_called_by_its_short_name_it_says_the_short_name(monkeypatch, name):
    monkeypatch.setattr("sys.argv", [name, "health"])
    assert as_called(HINT) == HINT


def test_called_by_its_long_name_it_never_names_the_program_of_keyutils(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/osmoda-keyctl", "health"])
    long = "`osmoda-keyctl x402 policy` and /usr/bin/keyctl x402; a keyctl, and osmoda-keyctl health"
    assert as_called(HINT) == long


def test_a_hint_of_a_fault_is_under_that_name(monkeypatch, keyctl, tmp_path):
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/osmoda-keyctl"])
    result = keyctl("x402", "explain", "no_such_code")
    assert "`osmoda-keyctl x402 explain` lists all codes" in result.err


def test_what_a_command_says_to_type_next_is_under_that_name(monkeypatch, keyd, ask):
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/osmoda-keyctl"])
    keyd.answers["policy"] = POLICY.model_copy(update={"pending": [WIDER]})
    keyd.answers["policy_change"] = api.PolicyChanged(applied=False, proposal=WIDER, wider=["allows *"])
    keyd.answers["kek"] = api.KekView(id="aa", source="file", wallets=1, next="bb")
    assert "`osmoda-keyctl x402 pending` shows what" in ask("x402", "policy").out
    assert f"`osmoda-keyctl x402 approve {WIDER.id}`" in ask("x402", "allow", "*").out
    assert "`osmoda-keyctl wallet rotate-kek` ends it" in ask("wallet", "kek").out


def test_a_missing_choice_is_told_on_one_line(keyctl):
    result = keyctl("ledger", "export")
    assert result.err.startswith(
        "keyctl: error: Missing option '--format'. Choose from: jsonl, csv, beancount, ledger\n"
    )
