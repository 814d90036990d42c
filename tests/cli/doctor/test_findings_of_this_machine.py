"""Users, files, units and key: each check on a machine where all is well, and on one where it is not."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from keyd.cli.doctor.accounts import check_accounts
from keyd.cli.doctor.files import LITTLE_BYTES, NO_BYTES, Expected, check_files, check_space, installation
from keyd.cli.doctor.findings import Level
from keyd.cli.doctor.units import check_credential, check_socket, check_units, judge_unit, parse_units
from keyd.cli.subprocesses import Done, run, run_quietly
from keyd.config import Settings

USERS = {"osmoda-keyd": 901, "osmoda-egress": 902, "osmoda-reconcile": 903}


def accounts(uids=USERS, members=("osmoda-egress", "osmoda-reconcile")):
    def user(name):
        return pwd.struct_passwd((name, "x", uids[name], uids[name], "", "/", "/bin/false"))

    def group(name):
        return {"osmoda": grp.struct_group((name, "x", 900, list(members)))}[name]

    return list(check_accounts(user, group))


def test_three_users_of_which_two_may_connect_are_well():
    assert {finding.level for finding in accounts()} == {Level.OK}


def test_missing_users_are_named_with_the_command_that_makes_them():
    finding = accounts(uids={"osmoda-keyd": 901})[0]
    assert (finding.level, finding.remedy) == (Level.FAULT, "systemd-sysusers osmoda.conf")
    assert "osmoda-egress, osmoda-reconcile" in finding.message


@pytest.mark.parametrize("uids", [USERS | {"osmoda-egress": 901}, USERS | {"osmoda-keyd": 0}])
def test_daemons_that_share_a_uid_or_run_as_root_are_a_fault(uids):
    assert accounts(uids=uids)[0].level is Level.FAULT


def test_an_egress_outside_of_the_group_cannot_connect():
    (_, finding) = accounts(members=["osmoda-reconcile"])
    assert finding.level is Level.FAULT
    assert finding.remedy == "usermod -aG osmoda osmoda-egress, then restart osmoda-egress"


# -- files ------------------------------------------------------------------------------------------------


def files_of(path: Path, may: int, **changes):
    me = pwd.getpwuid(os.getuid()).pw_name
    return list(check_files([Expected(path, changes.pop("owner", me), may, "make it", **changes)]))


def test_a_file_as_it_should_be_is_not_mentioned(tmp_path):
    tmp_path.chmod(0o700)
    assert [f.level for f in files_of(tmp_path, 0o700)] == [Level.OK]


@pytest.mark.parametrize(
    ("mode", "words"),
    [(0o604, "everybody can read it"), (0o640, "its group can read it"), (0o602, "everybody can change it")],
)
def test_rights_that_are_too_wide_are_named_with_the_chmod_that_takes_them_away(tmp_path, mode, words):
    secret = tmp_path / "kek.cred"
    secret.touch()
    secret.chmod(mode)
    (finding,) = files_of(secret, 0o600)
    assert finding.level is Level.FAULT
    assert words in finding.message
    assert finding.remedy == f"chmod 0600 {secret}"


def test_a_wrong_owner_is_named(tmp_path):
    (finding,) = files_of(tmp_path, 0o777, owner="osmoda-keyd")
    assert finding.level is Level.FAULT
    assert finding.remedy == f"chown osmoda-keyd: {tmp_path}"


def test_an_owner_without_a_name_is_named_by_number(tmp_path):
    def nobody(uid):
        raise KeyError(uid)

    (finding,) = check_files([Expected(tmp_path, "osmoda-keyd", 0o777, "")], nobody)
    assert f"belongs to uid {os.getuid()}" in finding.message


def test_a_missing_file_is_a_fault_only_if_it_has_to_be_there(tmp_path):
    (finding,) = files_of(tmp_path / "none", 0o600)
    assert (finding.level, finding.remedy) == (Level.FAULT, "make it")
    assert [f.level for f in check_files([Expected(tmp_path / "none", "root", 0o600, "")])] == [Level.OK]


def test_every_wallet_and_the_key_are_looked_at(tmp_path):
    (tmp_path / "wallets").mkdir()
    (tmp_path / "wallets" / "default.json").touch()
    settings = Settings(state_dir=tmp_path)
    looked_at = {e.path: e.may for e in installation(settings, tmp_path, tmp_path, tmp_path / "kek.cred")}
    assert looked_at[tmp_path / "wallets" / "default.json"] == 0o600
    assert looked_at[tmp_path / "kek.cred"] == 0o600
    assert looked_at[settings.ledger_file] == 0o600


def test_a_lost_key_is_not_made_anew_beside_wallets_that_it_could_not_open(tmp_path):
    settings, credential = Settings(state_dir=tmp_path), tmp_path / "kek.cred"

    def remedy():
        expected = installation(settings, tmp_path, tmp_path, credential)
        return next(one.otherwise for one in expected if one.path == credential)

    assert remedy() == "run osmoda-setup as root"
    (tmp_path / "wallets").mkdir()
    (tmp_path / "wallets" / "default.json").touch()
    assert "keyctl backup FILE" in remedy()
    assert "osmoda-setup" not in remedy()


@pytest.mark.parametrize(
    ("free", "level"),
    [(LITTLE_BYTES, Level.OK), (LITTLE_BYTES - 1, Level.NOTE), (NO_BYTES - 1, Level.FAULT)],
)
def test_a_full_disk_is_seen_coming(tmp_path, free, level):
    (finding,) = check_space(tmp_path, lambda _: free)
    assert finding.level is level


# -- units ------------------------------------------------------------------------------------------------

WELL = {
    "osmoda-keyd.socket": "ActiveState=active\nUnitFileState=enabled",
    "osmoda-keyd.service": "ActiveState=inactive\nNRestarts=0",
    "osmoda-egress.service": "ActiveState=active\nUnitFileState=enabled",
    "osmoda-reconcile.timer": "ActiveState=active",
    "osmoda-reconcile.service": "ActiveState=inactive\nResult=success",
}


def shown(**changes):
    states = WELL | changes
    text = "\n\n".join(f"Id={name}\nLoadState=loaded\n{state}" for name, state in states.items())
    return list(check_units(lambda command: Done(0, text, "")))


def test_units_as_they_should_be_are_one_line():
    assert [finding.level for finding in shown()] == [Level.OK]


def test_a_keyd_that_waits_for_its_first_connection_is_well():
    assert not list(
        judge_unit(
            "osmoda-keyd.service", {"LoadState": "loaded", "ActiveState": "inactive", "NRestarts": "0"}
        )
    )


@pytest.mark.parametrize(
    ("unit", "state", "level", "remedy"),
    [
        (
            "osmoda-keyd.service",
            "ActiveState=failed\nResult=exit-code",
            Level.FAULT,
            "journalctl -u osmoda-keyd",
        ),
        ("osmoda-keyd.service", "ActiveState=active\nNRestarts=3", Level.NOTE, "journalctl -u osmoda-keyd"),
        (
            "osmoda-keyd.socket",
            "ActiveState=inactive",
            Level.FAULT,
            "systemctl enable --now osmoda-keyd.socket",
        ),
        ("osmoda-keyd.socket", "ActiveState=active\nUnitFileState=disabled", Level.NOTE, "systemctl enable"),
        (
            "osmoda-egress.service",
            "ActiveState=inactive",
            Level.FAULT,
            "systemctl enable --now osmoda-egress",
        ),
        ("osmoda-egress.service", "ActiveState=active\nNeedDaemonReload=yes", Level.NOTE, "daemon-reload"),
        ("osmoda-reconcile.timer", "ActiveState=inactive", Level.NOTE, "osmoda-reconcile.timer"),
        ("osmoda-reconcile.service", "ActiveState=failed\nResult=exit-code", Level.FAULT, "journalctl -u"),
    ],
)
def test_a_unit_that_is_not_well_is_named_with_the_command_that_mends_it(unit, state, level, remedy):
    (finding,) = shown(**{unit: state})
    assert (finding.level, finding.check) == (level, "units")
    assert remedy in (finding.remedy or "")


def test_a_unit_that_is_not_installed_is_a_fault():
    (finding,) = judge_unit("osmoda-egress.service", {"LoadState": "not-found"})
    assert finding.level is Level.FAULT


def test_without_systemd_the_units_are_skipped():
    assert [finding.level for finding in check_units(lambda command: None)] == [Level.SKIPPED]


def test_blocks_of_systemctl_are_told_apart():
    text = "Id=a.service\nResult=success\nDescription=x=y\n\nId=b.timer\nResult=\n"
    assert parse_units(text) == {
        "a.service": {"Id": "a.service", "Result": "success", "Description": "x=y"},
        "b.timer": {"Id": "b.timer", "Result": ""},
    }


# -- socket and key ---------------------------------------------------------------------------------------


def test_the_socket_is_shown_with_its_owner_and_mode(keyd):
    keyd.socket.chmod(0o660)
    (finding,) = check_socket(keyd.socket)
    assert finding.level is Level.OK
    assert "0660" in finding.message


def test_a_socket_for_everybody_is_noted(keyd):
    keyd.socket.chmod(0o666)
    assert [finding.level for finding in check_socket(keyd.socket)] == [Level.NOTE]


def test_a_missing_socket_and_one_that_is_none_are_faults(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file"):
        assert [finding.level for finding in check_socket(path)] == [Level.FAULT]


def test_a_sealed_key_that_opens_is_well_and_is_printed_nowhere(tmp_path):
    credential = tmp_path / "kek.cred"
    credential.touch()
    asked = []

    def opens(command):
        asked.append(command)
        return Done(0, "", "")

    (finding,) = check_credential(credential, opens, is_root=True)
    assert finding.level is Level.OK
    assert asked == [["systemd-creds", "decrypt", "--name=kek", str(credential), "-"]]


def test_what_a_command_prints_quietly_goes_nowhere(capfd):
    done = run_quietly(["sh", "-c", "echo secret; echo words >&2; exit 3"])
    assert done == Done(3, "", "words\n")
    assert capfd.readouterr() == ("", "")
    assert run(["sh", "-c", "echo seen"]) == Done(0, "seen\n", "")  # and the other one does hear it


def test_a_program_that_is_not_there_is_no_answer():
    assert run(["no-such-program-at-all"]) is None
    assert run_quietly(["no-such-program-at-all"]) is None


def test_a_key_of_another_machine_is_a_fault(tmp_path):
    credential = tmp_path / "kek.cred"
    credential.touch()
    (finding,) = check_credential(
        credential, lambda _: Done(1, "", "a\nFailed to decrypt: Bad message\n"), is_root=True
    )
    assert finding.level is Level.FAULT
    assert finding.message.endswith("Failed to decrypt: Bad message")


def test_only_root_can_look_at_the_key(tmp_path):
    (finding,) = check_credential(tmp_path, lambda _: pytest.fail("asked"), is_root=False)
    assert finding.level is Level.SKIPPED
