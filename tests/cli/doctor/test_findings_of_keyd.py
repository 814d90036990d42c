"""keyd, policy, ledger and clock: each check on a keyd where all is well, and on one where it is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from keyd import api
from keyd.cli.doctor.daemon import check_chain, check_clock, check_health, check_last_words, check_policy
from keyd.cli.doctor.findings import Level
from keyd.cli.subprocesses import Done
from ledger import chain, entry
from tests.cli.views import POLICY, PROPOSAL

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HEALTH = api.Health(
    status="ok", api_version=1, version="0.1.0", ledger_entries=7, problems=[], roles=[api.Role.ADMIN]
)


def levels(findings):
    return [finding.level for finding in findings]


def test_the_roles_of_the_caller_are_shown():
    (finding,) = check_health(HEALTH, "0.1.0")
    assert (finding.level, finding.message) == (Level.OK, "keyd 0.1.0 answers; your roles: admin")


def test_a_keyd_that_was_not_restarted_after_an_upgrade_is_noted():
    assert levels(check_health(HEALTH, "0.2.0")) == [Level.OK, Level.NOTE]


def test_a_ledger_that_could_not_be_written_is_a_fault():
    problems = ["the last write to the ledger failed: database or disk is full", "payments are frozen"]
    answers, full = check_health(HEALTH.model_copy(update={"problems": problems}), "0.1.0")
    assert (answers.level, full.level, full.check) == (Level.OK, Level.FAULT, "ledger")


def test_a_policy_that_pays_is_said_in_one_line():
    (finding,) = check_policy(POLICY)
    assert finding.level is Level.OK
    assert finding.message == "pays api.quicknode.com, *.example.com, $0.66 of $1.00 left today"


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"enabled": False}, "enable = true below [x402] in keyd.toml"),
        ({"frozen": api.Frozen(frozen=True, by="uid:0", reason="odd", since=1)}, "keyctl x402 unfreeze"),
        ({"allowed_domains": []}, "keyctl x402 allow DOMAIN"),
        ({"callers": []}, "callers"),
        ({"assets": []}, "allowed_assets"),
        ({"wallet": None}, "keyctl wallet create default"),
        ({"max_payment": "0.00"}, "keyctl x402 cap AMOUNT"),
    ],
)
def test_whatever_keeps_every_payment_from_being_made_is_a_fault(change, remedy):
    (finding,) = check_policy(POLICY.model_copy(update=change))
    assert finding.level is Level.FAULT
    assert remedy in (finding.remedy or "")


@pytest.mark.parametrize("change", [{"left_today": "0.00"}, {"pending": [PROPOSAL]}])
def test_what_passes_by_itself_or_waits_for_a_person_is_a_note(change):
    assert levels(check_policy(POLICY.model_copy(update=change))) == [Level.NOTE]


# -- ledger -----------------------------------------------------------------------------------------------


def entries(count: int) -> list[api.LedgerEntry]:
    made, hash_ = [], chain.GENESIS
    for seq in range(1, count + 1):
        ts = entry.timestamp(1_795_000_000_000_000 + seq)
        hash_ = chain.link(hash_, entry.encode(seq, ts, "keyd.started", "keyd", {"n": seq}))
        made.append(
            api.LedgerEntry(
                seq=seq, ts=ts, type="keyd.started", actor="keyd", data={"n": seq}, hash=hash_.hex()
            )
        )
    return made


def head(of: api.LedgerEntry) -> api.LedgerHead:
    return api.LedgerHead(seq=of.seq, hash=of.hash)


def test_entries_that_follow_from_each_other_up_to_the_head_are_whole():
    made = entries(5)
    (finding,) = check_chain(made[2:], head(made[-1]))
    assert finding.level is Level.OK
    assert finding.message.startswith("5 entries, head ")


def test_an_entry_that_was_changed_is_a_fault():
    made = entries(5)
    made[3] = made[3].model_copy(update={"data": {"n": 0}})
    (finding,) = check_chain(made, head(made[-1]))
    assert finding.level is Level.FAULT
    assert finding.message == "entry 4 does not follow from entry 3"


def test_a_missing_entry_is_a_fault():
    made = entries(5)
    assert levels(check_chain([*made[:2], *made[3:]], head(made[-1]))) == [Level.FAULT]


def test_a_head_that_is_not_the_newest_entry_is_a_fault():
    made = entries(5)
    assert levels(check_chain(made[:-1], head(made[-1]))) == [Level.FAULT]
    assert levels(check_chain([], head(made[-1]))) == [Level.FAULT]


def test_an_empty_ledger_is_well():
    assert levels(check_chain([], api.LedgerHead(seq=0, hash=chain.GENESIS.hex()))) == [Level.OK]


# -- clock ------------------------------------------------------------------------------------------------


def synchronised(answer: str):
    return lambda command: Done(0, f"{answer}\n", "")


@pytest.mark.parametrize(("answer", "level"), [("yes", Level.OK), ("no", Level.NOTE)])
def test_systemd_says_whether_the_clock_is_synchronised(answer, level):
    assert levels(check_clock(NOW, None, synchronised(answer))) == [level]


def test_without_systemd_nobody_knows_about_the_clock():
    assert levels(check_clock(NOW, None, lambda command: None)) == [Level.SKIPPED]


def test_a_ledger_from_the_future_means_that_the_clock_was_set_back():
    later = entry.timestamp(int((NOW + timedelta(minutes=5)).timestamp()) * 1_000_000)
    (finding,) = check_clock(NOW, later, synchronised("yes"))
    assert finding.level is Level.FAULT
    assert "300 s in the future" in finding.message
    now = entry.timestamp(int(NOW.timestamp()) * 1_000_000)
    assert levels(check_clock(NOW, now, synchronised("yes"))) == [Level.OK]


def test_a_machine_that_lost_its_clock_is_a_fault():
    assert levels(check_clock(datetime(1970, 1, 2, tzinfo=UTC), None, synchronised("yes"))) == [Level.FAULT]


# -- last words -------------------------------------------------------------------------------------------

READY = '{"socket": "/run/osmoda/keyd.sock", "event": "keyd.ready", "level": "info"}\n'
WORDS = (
    "osmoda-keyd: error: there is no key-encryption key yet\nosmoda-keyd: hint: run `osmoda-setup` as root\n"
)


def last_words(journal, code=0):
    return list(check_last_words(lambda command: Done(code, journal, "")))


def test_a_keyd_that_ended_is_asked_for_its_last_words():
    (finding,) = last_words(READY + "Stopping\n" + WORDS + "osmoda-keyd.service: Failed\n")
    assert finding.level is Level.FAULT
    assert finding.message == "its last words: there is no key-encryption key yet"
    assert finding.remedy == "run `osmoda-setup` as root"


@pytest.mark.parametrize("journal", ["", "Starting\n", WORDS + READY])
def test_words_from_before_it_was_ready_say_nothing(journal):
    assert last_words(journal) == []


def test_whoever_may_not_read_the_journal_hears_nothing():
    assert last_words(WORDS, code=1) == []
