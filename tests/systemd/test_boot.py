"""A machine is booted twice: installed as docs/install.md says, paid from, broken, probed, and upgraded in between.

`inside/boot.py` does it and writes down what it saw; here each observation is judged by itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.systemd.machine import PROGRAMS, PYTHON, SOURCE, package_in_the_making, throw_away_machine

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can boot a machine"),
]


@dataclass(frozen=True)
class Boots:
    """What `inside/boot.py` wrote down in each boot, and the list of files in the Debian package."""

    first: dict[str, Any]
    second: dict[str, Any]
    contents: list[str]


@pytest.fixture(scope="module")
def boots(tmp_path_factory: pytest.TempPathFactory) -> Boots:
    assert shutil.which("systemd-nspawn"), "apt-get install systemd-container libpam-systemd"
    install = ("make", "-C", SOURCE, "install", f"SYSTEM_PYTHON={PYTHON}")
    settings = {"SYSTEM_PYTHON": f"{sys.base_prefix}/bin/python3", "DPKG_DEB_COMPRESSOR_TYPE": "none"}
    with (
        throw_away_machine(tmp_path_factory.mktemp("machine")) as machine,
        package_in_the_making(tmp_path_factory.mktemp("package"), **settings) as built,
    ):
        machine.run(*install)
        first = _boot(machine.boot(), machine.results / "first.json")
        machine.run(*install)  # an upgrade
        package = shutil.move(built(), machine.root / PROGRAMS.lstrip("/"))
        contents = _contents(package)
        second = _boot(machine.boot(), machine.results / "second.json")
    return Boots(first, second, contents)


def _contents(package: Path) -> list[str]:
    """Mode, owner and name of everything in the package."""
    listed = subprocess.run(
        ["dpkg-deb", "-c", package], capture_output=True, text=True, check=True, timeout=60
    )
    return listed.stdout.splitlines()


def _boot(console: str, seen: Path) -> dict[str, Any]:
    assert seen.exists(), f"the machine was off before it had written anything:\n{console[-4000:]}"
    found: dict[str, Any] = json.loads(seen.read_text())
    assert "fault" not in found, f"{found['fault']}\n{found['journal'][-4000:]}"
    return found


STATE = [
    "/var/lib/osmoda-keyd/ledger.sqlite3",
    "/var/lib/osmoda-keyd/wallets/default.json",
    "/etc/osmoda/kek.cred",
]


# -- installation -----------------------------------------------------------------------------------------


def test_without_a_key_keyd_says_what_to_do_next(boots: Boots) -> None:
    assert "hint: run `osmoda-setup` as root" in boots.first["without_key"]


def test_setup_makes_key_state_and_ledger(boots: Boots) -> None:
    setup = boots.first["setup"]
    assert setup["code"] == 0, setup["err"]
    assert "/etc/osmoda/kek.cred created" in setup["out"]
    assert "ledger.sqlite3 created" in setup["out"]


def test_a_second_setup_changes_nothing(boots: Boots) -> None:
    again = boots.first["setup_again"]
    assert again["code"] == 0, again["err"]
    assert "/etc/osmoda/kek.cred exists" in again["out"]
    assert "created" not in again["out"]


def test_setup_makes_no_new_key_beside_old_wallets(boots: Boots) -> None:
    refused = boots.first["setup_without_key"]
    assert refused["code"] == 1
    assert "but there are wallets, which a new key could not open" in refused["err"]


def test_uninstalling_keeps_ledger_wallets_and_configuration(boots: Boots) -> None:
    assert boots.second["uninstall"]["code"] == 0, boots.second["uninstall"]["err"]
    assert set(boots.second["left"]) == {*STATE, "/etc/osmoda/keyd.toml"}


def _faults(doctor: dict[str, Any]) -> list[dict[str, Any]]:
    return [finding for finding in json.loads(doctor["out"]) if finding["level"] == "fault"]


def test_doctor_finds_no_fault_in_an_installation_that_pays(boots: Boots) -> None:
    doctor = boots.first["doctor"]
    assert _faults(doctor) == []
    assert doctor["code"] == 0, doctor["err"]
    levels = {finding["check"]: finding["level"] for finding in json.loads(doctor["out"])}
    assert {check for check, level in levels.items() if level == "ok"} >= {
        *("users", "groups", "configuration", "files", "space", "credential", "socket"),
        *("keyd", "policy", "ledger", "egress"),
    }


def test_doctor_tells_an_ordinary_user_what_he_cannot_see(boots: Boots) -> None:
    doctor = boots.first["doctor_of_alice"]
    assert doctor["out"], doctor
    found = {finding["check"]: finding for finding in json.loads(doctor["out"])}
    assert found["credential"]["level"] == "skipped"
    assert (found["keyd"]["level"], doctor["code"]) == ("fault", 1)  # she may not connect


def test_the_system_trusts_egress_as_long_as_an_administrator_wants(boots: Boots) -> None:
    trust = boots.first["trust"]
    untrusted = 60  # curl: the certificate is of nobody whom it knows
    answers = [trust[when] for when in ("before", "while", "after")]
    assert [answer["code"] for answer in answers] == [untrusted, 0, untrusted], (answers, trust["journal"])
    assert [done["code"] for done in trust["install"] + trust["remove"]] == [0] * 4, trust
    assert "trusts it already" in trust["install"][1]["out"]
    assert "the system does not trust it" in trust["remove"][1]["out"]
    trusted = [f for f in json.loads(trust["doctor"]["out"]) if f["check"] == "ca"]
    assert [finding["level"] for finding in trusted] == ["ok"]


def test_trusting_and_not_trusting_leaves_the_systems_bundle_as_it_was(boots: Boots) -> None:
    trust = boots.first["trust"]
    assert trust["bundle_after"] == trust["bundle_before"]
    assert trust["bundle_before"].count("BEGIN CERTIFICATE") > 50


def test_a_fenced_agent_reaches_the_network_through_egress_alone(boots: Boots) -> None:
    fence = boots.first["fence"]
    assert fence["start"]["code"] == fence["reload"]["code"] == 0, fence
    refused = 7  # curl: could not connect
    assert (fence["before"], fence["direct"], fence["after"]) == (0, refused, 0)
    assert fence["still"] == [refused] * 3  # also after other rules were loaded
    assert fence["proxy"] == fence["alice"] == 0


def test_doctor_sees_whether_the_fence_is_up(boots: Boots) -> None:
    fence = boots.first["fence"]
    assert _faults(fence["doctor"]) == []
    assert [finding["check"] for finding in _faults(fence["doctor_without"])] == ["fence"]


# -- Debian package ---------------------------------------------------------------------------------------


def test_the_package_is_not_installed_beside_make_install(boots: Boots) -> None:
    beside = boots.second["package_beside"]
    assert beside["code"] != 0
    assert "hint: make uninstall" in beside["err"]


def test_the_package_starts_nothing_and_says_what_to_do_next(boots: Boots) -> None:
    package = boots.second["package"]
    assert package["install"]["code"] == 0, package["install"]["err"]
    assert "Next, as root: osmoda-setup" in package["install"]["out"]
    assert package["before_setup"] == ["inactive", "inactive"]


def test_the_package_goes_on_with_the_ledger_that_it_finds(boots: Boots) -> None:
    package = boots.second["package"]
    assert package["setup"]["code"] == 0, package["setup"]["err"]
    assert package["spent"] == "0.003"
    _assert_paid(package["paid"], "/item/5")


def test_doctor_finds_no_fault_in_the_package(boots: Boots) -> None:
    assert _faults(boots.second["package"]["doctor"]) == []


def test_an_upgrade_of_the_package_restarts_and_keeps_configuration_and_wallet(boots: Boots) -> None:
    package = boots.second["package"]
    assert package["upgrade"]["code"] == 0, package["upgrade"]["err"]
    assert package["restarted"]
    assert "osmoda-setup" not in package["upgrade"]["out"]
    assert 'daily_budget_usd = "0.003"' in package["configuration"]
    _assert_paid(package["paid_after_upgrade"], "/item/6")


def test_removing_the_package_stops_everything_and_keeps_what_is_not_replaceable(boots: Boots) -> None:
    package = boots.second["package"]
    assert package["remove"]["code"] == 0, package["remove"]["err"]
    assert package["running_after_remove"] == ["inactive", "inactive"]
    configuration = [f"/etc/osmoda/{name}.toml" for name in ("keyd", "egress", "reconcile")]
    assert set(package["left_after_remove"]) == {*STATE, *configuration}, package["remove"]
    assert not package["trusted_after_remove"]


def test_purging_the_package_keeps_ledger_wallets_and_key_and_says_so(boots: Boots) -> None:
    package = boots.second["package"]
    assert package["purge"]["code"] == 0, package["purge"]["err"]
    assert set(package["left_after_purge"]) == set(STATE)
    assert "kept, because wallets are money: /var/lib/osmoda-keyd" in package["purge"]["out"]


def test_the_package_belongs_to_root_and_gives_nobody_rights(boots: Boots) -> None:
    entries = [line.split(maxsplit=5) for line in boots.contents]
    assert len(entries) > 1000
    assert {owner for _, owner, *_ in entries} == {"root/root"}
    files = [(mode, name) for mode, _, _, _, _, name in entries if not mode.startswith("l")]
    assert [name for mode, name in files if mode[5] == "w" or mode[8] == "w" or "s" in mode.lower()] == []


# -- service ----------------------------------------------------------------------------------------------


def test_a_connection_starts_keyd_and_is_answered(boots: Boots) -> None:
    activation = boots.first["activation"]
    assert (activation["before"], activation["after"]) == ("inactive", "active")
    assert json.loads(activation["answer"])["ledger_entries"] > 0


def test_plain_curl_of_an_ordinary_user_pays(boots: Boots) -> None:
    _assert_paid(boots.first["paid"], "/item/1")
    assert boots.first["spent"] == "0.001"


def test_the_ledger_names_the_user_who_paid_as_the_kernel_does(boots: Boots) -> None:
    assert boots.first["payer"] == [boots.first["alice"]]


def test_keyd_paid_under_full_hardening(boots: Boots) -> None:
    sandbox = boots.first["sandbox"]
    assert "0" not in sandbox["Uid"].split()
    assert int(sandbox["CapEff"], 16) == 0
    assert int(sandbox["CapBnd"], 16) == 0
    assert sandbox["NoNewPrivs"] == "1"
    assert sandbox["Seccomp"] == "2"  # filter mode


def test_keyds_memory_is_overwritten_when_it_is_freed_and_locked_where_the_machine_lets_it(
    boots: Boots,
) -> None:
    """Around this machine there is another, which may grant no unlimited memory lock; then keyd says so."""
    journal = boots.first["watchdog"]["journal"]
    assert "keyd.ready" in journal
    assert "keyd.memory.not_overwritten" not in journal
    locked = int(boots.first["sandbox"]["VmLck"].removesuffix(" kB")) > 10_000
    assert locked is ("keyd.memory.not_locked" not in journal)


def test_a_stopped_keyd_is_restarted_by_the_watchdog(boots: Boots) -> None:
    watchdog = boots.first["watchdog"]
    assert watchdog["restarts_while_healthy"] == "0"
    assert "Watchdog timeout" in watchdog["journal"]
    assert watchdog["after"] != watchdog["before"]
    _assert_paid(boots.first["paid_after_watchdog"], "/item/2")


def test_egress_is_ready_when_it_serves_and_says_whether_keyd_answers(boots: Boots) -> None:
    status = boots.first["egress_status"]
    assert status["with"] == "listens on 127.0.0.1:19999; keyd answers"
    assert status["without"] == "listens on 127.0.0.1:19999; keyd does not answer, so nothing is paid"
    assert status["accepts"] == "True"


def test_a_hung_egress_is_restarted_by_the_watchdog(boots: Boots) -> None:
    watchdog = boots.first["egress_watchdog"]
    assert watchdog["restarts_while_healthy"] == "0"
    assert "Watchdog timeout" in watchdog["journal"]
    assert watchdog["after"] != watchdog["before"]


def test_two_workers_run_under_full_hardening_and_survive_each_other(boots: Boots) -> None:
    workers = boots.first["workers"]
    assert workers["status"] == "2 of 2 workers; listens on 127.0.0.1:19999; keyd answers"
    assert workers["same"]  # systemd saw nothing
    assert workers["served"] == 0
    assert "osmoda_egress_worker_restarts_total 1.0" in workers["metrics"]


def test_a_killed_keyd_comes_back_and_remembers_what_was_spent(boots: Boots) -> None:
    assert boots.first["crash"]["after"] != boots.first["crash"]["before"]
    assert boots.first["spent_before_crash"] == boots.first["spent_after_crash"] == "0.002"


def test_the_reconciler_reaches_keyd_and_gives_back_nothing_without_proof(boots: Boots) -> None:
    assert "nothing could be concluded about 2 of the payments" in boots.first["reconcile"]


def _told(boots: Boots, when: str) -> list[str]:
    """The kinds of alerts that the hook's command got in one pass, in JSON documents of a line each."""
    lines = boots.first["alerts"][when].splitlines()
    return [alert["kind"] for line in lines for alert in json.loads(line)["alerts"]]


@pytest.mark.parametrize(
    ("when", "kinds"),
    [
        ("nothing is wrong", []),
        ("80 % is spent", ["budget_80"]),
        ("all is spent", ["budget_100"]),
        ("frozen", ["frozen"]),
        ("still frozen", []),
        ("a payment is held", ["payment_held"]),
        ("the disk is full", ["ledger_failure"]),
        ("keyd and its socket are down", ["keyd_unreachable"]),
    ],
)
def test_the_hook_hears_once_of(boots: Boots, when: str, kinds: list[str]) -> None:
    assert _told(boots, when) == kinds


def test_doctor_sees_the_full_disk_and_the_keyd_that_is_down(boots: Boots) -> None:
    alerts = boots.first["alerts"]
    assert {finding["check"] for finding in _faults(alerts["doctor of a full disk"])} >= {"space", "ledger"}
    down = _faults(alerts["doctor of keyd down"])
    assert "systemctl enable --now osmoda-keyd.socket" in [finding["remedy"] for finding in down]


def test_nothing_is_paid_without_room_for_its_record_and_it_goes_on_when_there_is(boots: Boots) -> None:
    alerts = boots.first["alerts"]
    assert "rejected; reason=ledger_unavailable" in alerts["paid on a full disk"]["out"]
    _assert_paid(alerts["paid when there is room"], "/item/33")


def test_a_key_that_does_not_fit_the_wallets_is_found_by_doctor_in_keyds_own_words(boots: Boots) -> None:
    ended = _faults(boots.first["another_key"])
    assert any(finding["message"].startswith("its last words: ") for finding in ended), ended


def test_the_journal_knows_level_and_payment_of_each_line(boots: Boots) -> None:
    journal = boots.first["logs"]
    levels = {"critical": "2", "error": "3", "warning": "4", "info": "6"}
    lines = [json.loads(entry["MESSAGE"]) for entry in journal if entry["MESSAGE"].startswith("{")]
    priorities = [entry["PRIORITY"] for entry in journal if entry["MESSAGE"].startswith("{")]
    assert priorities == [levels[line["level"]] for line in lines]
    assert {"6", "4"} <= set(priorities)
    payment = re.search(r"payment=([0-9a-f]{32})", boots.first["paid"]["out"])
    assert payment is not None
    events = [line["event"] for line in lines if line.get("payment") == payment[1]]
    assert sorted(events) == ["egress.outcome.reported", "keyd.request", "keyd.request"]


def test_a_stop_lets_a_stream_finish_and_takes_no_new_connection(boots: Boots) -> None:
    stream = boots.first["stream"]
    assert stream["lines"] == ["first\n", "last\n"]
    assert stream["code"] == 0
    assert stream["new_connection"] == 7  # curl: could not connect


def test_after_upgrade_and_reboot_everything_runs_and_the_budget_goes_on(boots: Boots) -> None:
    assert boots.second["active"] == ["active", "active"]
    assert boots.second["spent"] == "0.002"
    _assert_paid(boots.second["paid"], "/item/3")


def test_the_daily_budget_holds_across_watchdog_crash_upgrade_and_reboot(boots: Boots) -> None:
    assert boots.second["over_budget"]["out"].startswith("HTTP/1.1 402 ")
    assert "X-402-Egress: rejected; reason=budget_daily" in boots.second["over_budget"]["out"]
    assert boots.second["spent_at_last"] == "0.003"


def test_a_sealed_key_is_changed_and_the_wallets_open_under_the_new_one(boots: Boots) -> None:
    keys = boots.second["keys"]
    old, between, new = (json.loads(keys[name]["out"]) for name in ("kek_before", "under_way", "kek"))
    assert keys["rotated"]["code"] == 0, keys["rotated"]["err"]
    assert old["source"] == new["source"] == "credential"
    assert (between["id"], between["next"]) == (old["id"], new["id"])
    assert new["next"] is None
    assert new["id"] != old["id"]
    assert keys["after_rotation"]["out"] == keys["before"]["out"]


def test_a_lost_state_is_restored_with_wallets_and_budget_and_frozen(boots: Boots) -> None:
    keys = boots.second["keys"]
    assert keys["backup"]["code"] == 0, keys["backup"]["err"]
    assert keys["restored"]["code"] == 0, keys["restored"]["err"]
    assert "payments are frozen" in keys["frozen"]["err"]
    assert keys["after_restore"]["out"] == keys["before"]["out"]
    assert keys["unfrozen"]["code"] == 0
    assert boots.second["spent_after_keys"] == boots.second["spent_at_last"]


def test_systemd_asks_for_the_passphrase_and_keyd_starts_with_it(boots: Boots) -> None:
    keys = boots.second["keys"]
    assert keys["init"]["code"] == 0, keys["init"]["err"]
    assert keys["question"] == "Passphrase of osmoda-keyd"
    assert keys["started"] == 0
    assert json.loads(keys["passphrase_kek"]["out"])["source"] == "passphrase"
    assert keys["made"]["code"] == 0, keys["made"]["err"]


def test_the_ledger_verifies_after_all_that(boots: Boots) -> None:
    assert boots.second["ledger"]["code"] == 0, boots.second["ledger"]["err"]


def _assert_paid(answer: dict[str, Any], path: str) -> None:
    assert answer["code"] == 0, answer["err"]
    assert answer["out"].startswith("HTTP/1.1 200 ")
    assert "X-402-Egress: paid; amount=0.001; asset=USDC" in answer["out"]
    assert f'"paid for": "{path}"' in answer["out"]


# -- probes -----------------------------------------------------------------------------------------------

SECRETS = ["read_key", "read_sealed_key", "list_state", "read_ledger", "read_wallet", "read_authority_key"]
OTHER_PROCESSES = ["read_memory", "read_memory_by_call", "ptrace"]
CODE_FROM_DATA = ["write_and_execute_memory", "make_memory_executable", "run_what_it_wrote"]
KERNEL = ["packet_socket", "write_configuration", "stand_in_for_keyd"]

FORBIDDEN = {
    "alice": [*SECRETS, *OTHER_PROCESSES, *KERNEL, "sign", "administer"],
    "robot": [*SECRETS, *OTHER_PROCESSES, *KERNEL, "sign", "administer"],
    "mallory": [*SECRETS, *OTHER_PROCESSES, *KERNEL, "sign", "administer"],
    "same user": [*OTHER_PROCESSES, "read_sealed_key", "read_authority_key", "write_configuration"],
    "osmoda-keyd": [
        *("internet_socket", "internet6_socket", "netlink_socket", "new_user_namespace"),
        *("read_sealed_key", "read_authority_key", "sign", "administer"),
        *OTHER_PROCESSES,
        *CODE_FROM_DATA,
        *KERNEL,
    ],
    "osmoda-egress": [
        *(probe for probe in SECRETS if probe != "read_authority_key"),
        *OTHER_PROCESSES,
        "run_what_it_wrote",  # memory: see MemoryDenyWriteExecute= of its unit
        *KERNEL,
        *("administer", "new_user_namespace"),
    ],
    "osmoda-reconcile": [
        *SECRETS,
        *OTHER_PROCESSES,
        *CODE_FROM_DATA,
        *KERNEL,
        *("sign", "administer", "netlink_socket", "new_user_namespace"),
    ],
}
REFUSED = {"EACCES", "EPERM", "EAFNOSUPPORT", "403"}
HIDDEN = {"read_memory": "ENOENT"}  # ProtectProc=invisible: there is not even a process


@pytest.mark.parametrize(
    ("who", "probe"), [(who, probe) for who, forbidden in FORBIDDEN.items() for probe in forbidden]
)
def test_what_a_unit_need_not_do_is_refused_to_it(boots: Boots, who: str, probe: str) -> None:
    outcome = boots.first["probes"][who][probe]
    assert outcome in REFUSED or outcome == HIDDEN.get(probe), f"{who} {probe}: {outcome}"


def test_every_probe_but_signing_succeeds_for_root_so_that_a_refusal_means_something(boots: Boots) -> None:
    outcomes = dict(boots.first["probes"]["root"])
    assert outcomes.pop("sign") == "403"  # root administers, and does not ask for payments
    assert outcomes.pop("administer") == "400"
    assert set(outcomes.values()) == {"done"}
    assert outcomes.keys() | {"sign", "administer"} == {
        probe for forbidden in FORBIDDEN.values() for probe in forbidden
    }


def test_a_stranger_is_stopped_by_the_kernel_and_a_member_without_a_role_by_keyd(boots: Boots) -> None:
    assert boots.first["probes"]["alice"]["sign"] == "EACCES"
    assert boots.first["probes"]["mallory"]["sign"] == "403"
    assert "mallory" in boots.first["strangers"]
    assert "alice" not in boots.first["strangers"]


def test_egress_may_do_what_it_is_for(boots: Boots) -> None:
    outcomes = boots.first["probes"]["osmoda-egress"]
    assert outcomes["sign"] == "400"  # understood and found empty
    assert outcomes["internet_socket"] == outcomes["netlink_socket"] == "done"


def test_keyd_reads_its_own_state_under_its_hardening(boots: Boots) -> None:
    outcomes = boots.first["probes"]["osmoda-keyd"]
    assert outcomes["read_ledger"] == outcomes["read_wallet"] == "done"


def test_an_agent_sees_the_policy(boots: Boots) -> None:
    view = boots.first["agent_reads_policy"]
    assert view["code"] == 0, view["err"]
    assert json.loads(view["out"])["daily_budget"] == "0.003"
