"""`keyctl doctor` as a whole, against a keyd that answers what the test tells it to."""

from __future__ import annotations

import json

import pytest

from keyd import api
from tests.cli.doctor.test_findings_of_keyd import HEALTH, entries, head
from tests.cli.views import POLICY


@pytest.fixture
def doctor(keyd, keyctl, tmp_path):
    """Runs it on an installation of which only keyd and the configuration exist."""
    config = tmp_path / "keyd.toml"
    config.write_text(f'socket = "{keyd.socket}"\nstate_dir = "{tmp_path}/state"\n')
    made = entries(3)
    keyd.answers |= {
        "health": HEALTH,
        "policy": POLICY,
        "ledger_head": head(made[-1]),
        "ledger_entries": api.LedgerEntries(entries=made),
    }

    def call(*options):
        return keyctl("--config", config, "doctor", "--offline", *options)

    return call


def found(result, check):
    return [finding for finding in json.loads(result.out) if finding["check"] == check]


def test_every_part_of_an_installation_is_looked_at(doctor):
    result = doctor("--json")
    assert {finding["check"] for finding in json.loads(result.out)} == {
        *("users", "groups", "configuration", "files", "units", "socket", "keyd", "policy", "ledger"),
        *("clock", "egress", "ca", "chain"),
    }
    assert [finding["level"] for finding in found(result, "ledger")] == ["ok"]
    assert result.code == 1  # nothing else is installed


def test_every_fault_and_every_note_says_how_to_mend_it(doctor):
    findings = json.loads(doctor("--json").out)
    assert all(f["remedy"] for f in findings if f["level"] in ("fault", "note"))


def test_an_agent_is_told_what_it_may_not_see(doctor, keyd):
    keyd.answers["health"] = HEALTH.model_copy(update={"roles": [api.Role.AGENT]})
    result = doctor("--json")
    assert [f["level"] for f in found(result, "policy")] == ["ok"]
    assert [f["level"] for f in found(result, "ledger")] == ["skipped"]
    assert {name for name, _ in keyd.asked} == {"health", "policy"}  # what it may not ask would go on record


def test_a_keyd_that_does_not_answer_is_a_fault_and_the_rest_is_still_looked_at(doctor, keyd):
    keyd.answers["health"] = api.Refusal(code="peer_unknown", detail="uid 7 has no role", hint="see [peers]")
    result = doctor("--json")
    assert found(result, "keyd") == [
        {
            "check": "keyd",
            "level": "fault",
            "message": "uid 7 has no role (peer_unknown)",
            "remedy": "see [peers]",
        }
    ]
    assert found(result, "ca")


def test_a_ledger_that_cannot_be_read_is_a_fault_and_the_rest_is_still_looked_at(doctor, keyd):
    keyd.answers["ledger_entries"] = api.Refusal(
        code="ledger_unavailable", detail="holds something that is not an entry", hint="mend it"
    )
    result = doctor("--json")
    (finding,) = found(result, "ledger")
    assert finding["level"] == "fault"
    assert "not an entry" in finding["message"]
    assert found(result, "ca")


def test_a_configuration_that_cannot_be_used_is_one_fault_among_others(keyctl, tmp_path):
    config = tmp_path / "keyd.toml"
    config.write_text("sokket = 1\n")
    result = keyctl("--config", config, "--socket", tmp_path / "none", "doctor", "--offline", "--json")
    assert "sokket" in found(result, "configuration")[0]["message"]
    assert found(result, "socket")


def test_a_configuration_that_cannot_be_used_is_named_once_and_blames_nobody_else(keyctl, tmp_path):
    config = tmp_path / "keyd.toml"
    config.write_text("sokket = 1\n")
    result = keyctl("--config", config, "doctor", "--offline", "--json")
    assert result.out.count("sokket") == 1
    assert [f["level"] for f in found(result, "keyd")] == ["skipped"]
    assert "no right to ask" not in result.out


def test_a_proxys_configuration_that_cannot_be_used_is_named_with_the_mistake_in_it(doctor, tmp_path):
    (tmp_path / "egress.toml").write_text("lisen = 1\n")
    (finding,) = [f for f in found(doctor("--json"), "configuration") if f["level"] == "fault"]
    assert "unknown key 'lisen', did you mean 'listen'?" in finding["message"]
    assert finding["remedy"] == "correct this key, then try again"


def test_a_command_that_is_not_installed_is_not_named(doctor, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "osmoda-setup" not in doctor("--json").out
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert "run osmoda-setup as root" in doctor("--json").out


def test_people_get_a_line_for_each_finding_and_the_remedy_below(doctor):
    lines = doctor().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("fault    ca "))
    assert lines[at + 1].startswith(" " * 24 + "→ systemctl restart osmoda-egress")


def test_what_other_programs_wrote_cannot_forge_a_line(doctor, keyd):
    keyd.answers["policy"] = POLICY.model_copy(
        update={"frozen": api.Frozen(frozen=True, by="uid:0", reason="x\nok  all well\x1b[2J", since=1)}
    )
    out = doctor().out
    assert "\\nok" in out
    assert "\x1b" not in out
