"""Who may pay at all: only callers that are known, and of those only the ones that are listed."""

from __future__ import annotations

import grp
import pwd
from pathlib import Path
from typing import Any

import pytest

from keyd import callers, config
from keyd.configfile import ConfigError
from keyd.core.policy import BudgetRule
from keyd.reasons import Reason
from tests.keyd.conftest import Rig, offer

ALICE, BOB = {"uid": 1000}, {"uid": 1001}
CI = {"name": "ci"}


async def test_nobody_pays_for_a_caller_who_is_not_known(rig: Rig) -> None:
    assert (await rig.refused(caller=None)).reason is Reason.CALLER_UNKNOWN
    assert rig.entries("x402.payment.signed") == []
    assert rig.entries("x402.payment.rejected")[0].data["caller"] == "unknown"


async def test_being_listed_as_unknown_helps_nobody(rig: Rig) -> None:
    rig.policy(callers=frozenset({"unknown", "*"}))
    assert (await rig.refused(caller=None)).reason is Reason.CALLER_UNKNOWN


@pytest.mark.parametrize("caller", [ALICE, CI])
async def test_everybody_who_is_known_may_pay_unless_the_list_says_otherwise(
    rig: Rig, caller: dict[str, Any]
) -> None:
    await rig.paid(caller=caller)


@pytest.mark.parametrize(
    ("listed", "caller"),
    [("uid:1000", BOB), ("uid:1000", CI), ("proxy:ci", ALICE), ("uid:10001", ALICE), ("uid:100", ALICE)],
)
async def test_who_is_not_on_the_list_is_refused_before_anything_else(
    rig: Rig, listed: str, caller: dict[str, Any]
) -> None:
    rig.policy(callers=frozenset({listed}), enabled=False)
    assert (await rig.refused(caller=caller)).reason is Reason.CALLER_NOT_ALLOWED


@pytest.mark.parametrize(("listed", "caller"), [("uid:1000", ALICE), ("proxy:ci", CI)])
async def test_who_is_on_the_list_pays(rig: Rig, listed: str, caller: dict[str, Any]) -> None:
    rig.policy(callers=frozenset({listed}))
    await rig.paid(caller=caller)


async def test_an_empty_list_lets_nobody_pay(rig: Rig) -> None:
    rig.policy(callers=frozenset())
    assert (await rig.refused(caller=ALICE)).reason is Reason.CALLER_NOT_ALLOWED


async def test_a_caller_taken_from_the_list_does_not_get_an_open_payment_again(rig: Rig) -> None:
    await rig.paid(caller=ALICE)
    rig.policy(callers=frozenset({"uid:1001"}))
    assert (await rig.refused(caller=ALICE)).reason is Reason.CALLER_NOT_ALLOWED


async def test_each_caller_pays_from_its_own_budget(rig: Rig) -> None:
    rig.policy(budgets=(BudgetRule(None, "uid:1000", 2_000), BudgetRule(None, "proxy:ci", 1_000)))
    await rig.paid(offer("2000"), what=1, caller=ALICE)
    assert (await rig.refused(offer("1"), what=2, caller=ALICE)).reason is Reason.BUDGET_CALLER
    await rig.paid(offer("1000"), what=3, caller=CI)
    assert (await rig.refused(offer("1"), what=4, caller=CI)).reason is Reason.BUDGET_CALLER
    await rig.paid(offer("2000"), what=5, caller=BOB)


# -- the setting --------------------------------------------------------------------------------------------


def load(folder: Path, entries: str) -> config.Settings:
    file = folder / "keyd.toml"
    file.write_text(f"[x402]\ncallers = {entries}\n")
    return config.load(file)


def test_without_the_setting_everybody_who_is_known_may_pay(tmp_path: Path) -> None:
    file = tmp_path / "keyd.toml"
    file.write_text("")
    assert config.load(file).policy().callers == {"*"}


def test_users_and_groups_are_resolved_and_the_rest_stays_as_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alice = pwd.struct_passwd(("alice", "x", 1000, 100, "", "", ""))
    bob = pwd.struct_passwd(("bob", "x", 1001, 200, "", "", ""))
    eve = pwd.struct_passwd(("eve", "x", 1002, 300, "", "", ""))
    monkeypatch.setattr(pwd, "getpwall", lambda: [alice, bob, eve])
    monkeypatch.setattr(pwd, "getpwnam", {"alice": alice}.__getitem__)
    payers = grp.struct_group(("payers", "x", 200, ["alice"]))
    monkeypatch.setattr(grp, "getgrnam", {"payers": payers}.__getitem__)
    assert callers.resolve(["alice", "uid:7", "proxy:ci"], "callers") == {"uid:1000", "uid:7", "proxy:ci"}
    assert callers.resolve(["@payers"], "callers") == {"uid:1000", "uid:1001"}
    assert callers.resolve(["*"], "callers") == {"*"}
    assert callers.resolve([], "callers") == frozenset()


@pytest.mark.parametrize(
    ("entry", "words"),
    [("no-such-user-here", "no user 'no-such-user-here'"), ("@no-such-group", "no group 'no-such-group'")],
)
def test_a_caller_who_does_not_exist_stops_keyd_but_not_the_check_of_the_file(
    tmp_path: Path, entry: str, words: str
) -> None:
    settings = load(tmp_path, f'["{entry}"]')
    with pytest.raises(ConfigError) as caught:
        settings.policy()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "entry", ["1000", "uid:", "uid:01", "uid:-1", "uid:1e3", "proxy:", "proxy:A", "proxy:a:b", "", "@", "a b"]
)
def test_an_entry_that_names_nobody_is_refused(tmp_path: Path, entry: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f'["{entry}"]')
    assert "is no caller" in str(caught.value)
