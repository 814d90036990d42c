"""What keyctl says to type exists under the name by which it was called."""

from __future__ import annotations

import pytest

from keyd.cli.program import as_called

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
