"""Transcripts of `keyctl ledger`."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest

from keyd import api
from ledger import Ledger
from ledger.progress import Progress

VECTORS = Path(__file__).parents[1] / "vectors/ledger"

HASH = "ab" * 32
OK = api.LedgerVerdict(ok=True, entries=3, head=HASH, problems=[])


def entry(seq: int, type_: str = "keyd.started", **data: object) -> api.LedgerEntry:
    ts = f"2026-11-21T02:00:{seq % 60:02d}.000000Z"
    return api.LedgerEntry(seq=seq, ts=ts, type=type_, actor="uid:0", data=data, hash=HASH)


def serve(keyd, entries: list[api.LedgerEntry], page: int = 1000) -> None:
    """Answers as keyd does: `after` and `limit` on these entries, at most `page` at once."""

    def answer(request):
        after, limit = int(request.query["after"]), int(request.query["limit"])
        return api.LedgerEntries(entries=[e for e in entries if e.seq > after][: min(limit, page)])

    keyd.answers["ledger_entries"] = answer
    keyd.answers["ledger_head"] = api.LedgerHead(seq=len(entries), hash=HASH)


def test_verify_prints_the_head_to_keep(keyd, ask):
    keyd.answers["ledger_verify"] = OK
    result = ask("ledger", "verify")
    assert (result.code, result.err) == (0, "")
    assert result.out == f"ledger verified: 3 entries\nhead: 3 {HASH}\n"


def test_verify_names_each_problem_and_fails(keyd, ask):
    problems = ["entry 2: data changed after it was written", "entry 3: missing"]
    keyd.answers["ledger_verify"] = OK.model_copy(update={"ok": False, "problems": problems})
    result = ask("ledger", "verify")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "keyctl: error: entry 2: data changed after it was written\n"
        "keyctl: error: entry 3: missing\n"
        "keyctl: error: the ledger is damaged: 2 problem(s) in 3 entries\n"
        "keyctl: hint: stop osmoda-keyd, keep this ledger as evidence, and compare it with a backup\n"
    )


def test_verify_gives_a_sign_of_life_on_a_terminal_while_keyd_reads(keyd, ask, monkeypatch):
    alive = threading.Event()
    say = Progress.unknown

    def unknown(progress: Progress, what: str) -> None:
        say(progress, what)
        alive.set()

    def after_that(_: object) -> api.LedgerVerdict:
        assert alive.wait(60)
        return OK

    monkeypatch.setattr(Progress, "unknown", unknown)
    monkeypatch.setattr("ledger.progress.REPORT_EVERY_S", 0)
    monkeypatch.setattr("keyd.cli.ledger_commands.LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    keyd.answers["ledger_verify"] = after_that
    result = ask("ledger", "verify")
    assert result.code == 0
    assert re.search(r"keyd is checking every entry, \d+ s so far", result.err)
    assert result.out.startswith("ledger verified: 3 entries")


def test_an_export_is_verified_like_a_ledger(keyctl, tmp_path):
    vector = json.loads((VECTORS / "good.json").read_text("utf-8"))
    export = tmp_path / "export.jsonl"
    export.write_text("".join(f"{line}\n" for line in vector["lines"]), "utf-8")
    result = keyctl("ledger", "verify", "--file", export)
    assert result.out.splitlines()[1] == f"head: {vector['head']['seq']} {vector['head']['hash']}"
    export.write_text(export.read_text("utf-8").replace("keyd.started", "keyd.changed"), "utf-8")
    result = keyctl("ledger", "verify", "--file", export)
    assert (result.code, "entry 1: data changed after it was written" in result.err) == (1, True)


def test_tail_shows_one_short_line_an_entry_oldest_first(keyd, ask):
    serve(
        keyd,
        [
            entry(1, "wallet.created", label="default", address="0x00"),
            entry(2, "x402.payment.signed", domain="api.example.com", usd_micros=1500, payment_id="ff"),
            entry(3, "x402.payment.rejected", domain="dear.example.com", code="cap_per_payment"),
            entry(4, "x402.payment.settled", payment_id="0123"),
            entry(5, "keyd.stopped"),
            entry(6, "wallet.default", after="research", before="default"),
        ],
    )
    result = ask("ledger", "tail")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "2026-11-21 02:00:01Z  wallet.created           default\n"
        "2026-11-21 02:00:02Z  x402.payment.signed      api.example.com  $0.0015\n"
        "2026-11-21 02:00:03Z  x402.payment.rejected    dear.example.com  cap_per_payment\n"
        "2026-11-21 02:00:04Z  x402.payment.settled     0123\n"
        "2026-11-21 02:00:05Z  keyd.stopped\n"
        "2026-11-21 02:00:06Z  wallet.default           research\n"
    )


def test_tail_json_is_one_complete_entry_a_line(keyd, ask):
    entries = [entry(seq, domain="a\nb") for seq in (1, 2, 3)]
    serve(keyd, entries)
    lines = ask("ledger", "tail", "--json").out.splitlines()
    assert [api.LedgerEntry.model_validate_json(line) for line in lines] == entries
    assert list(json.loads(lines[0])) == ["seq", "ts", "type", "actor", "data", "hash"]


@pytest.mark.parametrize(("limit", "first"), [(1, 30), (7, 24), (30, 1), (1000, 1)])
def test_tail_limit_takes_the_newest_across_pages(keyd, ask, limit, first):
    serve(keyd, [entry(seq) for seq in range(1, 31)], page=4)
    lines = ask("ledger", "tail", "--json", "--limit", str(limit)).out.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(first, 31))


def test_tail_of_an_empty_ledger_prints_nothing(keyd, ask):
    serve(keyd, [])
    result = ask("ledger", "tail")
    assert (result.code, result.out, result.err) == (0, "", "")


def test_tail_does_not_ask_for_ever_if_entries_are_missing(keyd, ask):
    serve(keyd, [entry(1)])
    keyd.answers["ledger_head"] = api.LedgerHead(seq=9, hash=HASH)
    result = ask("ledger", "tail")
    assert result.code == 1
    assert result.err == "keyctl: error: keyd returned no entry after entry 1, but its ledger has 9\n"


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_a_limit_that_is_no_count_is_a_usage_error(keyd, ask, limit):
    result = ask("ledger", "tail", "--limit", limit)
    assert (result.code, keyd.asked) == (2, [])


@pytest.mark.parametrize("json_option", [[], ["--json"]])
@pytest.mark.parametrize(
    "hostile", ["\x1b[2J\x1b]0;owned\x07", "x\r\nkeyctl: ledger verified", "\u202e0x00", "\x9b31m"]
)
def test_text_of_strangers_cannot_steer_the_terminal(keyd, ask, hostile, json_option):
    serve(keyd, [entry(1, "x402.payment.attempt", domain=hostile, code=hostile)])
    result = ask("ledger", "tail", *json_option)
    assert result.code == 0
    assert len(result.out.splitlines()) == 1
    if json_option:  # JSON leaves other scripts' characters alone, and C0 controls are escaped in it
        assert all(char >= " " for char in result.out.rstrip("\n"))
        assert json.loads(result.out)["data"]["domain"] == hostile
    else:
        assert result.out.rstrip("\n").isprintable()


# --- heads

KEY = "osmoda-ledger/test+4f936834+AQOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4"
NOTE = (
    "osmoda-ledger/test\n2\nD4rcZMzE5xSOCvZfcj1GuRNDAxoYb3xZ1ZYMhvuSU84=\n\n— osmoda-ledger/test 8FuypA==\n"
)


def test_the_key_that_signs_heads_is_shown(keyd, ask):
    keyd.answers["ledger_head"] = api.LedgerHead(seq=2, hash=HASH, key=KEY, note=NOTE)
    assert ask("ledger", "key").out == f"{KEY}\n"


def test_a_keyd_without_such_a_key_is_said(keyd, ask):
    keyd.answers["ledger_head"] = api.LedgerHead(seq=2, hash=HASH)
    result = ask("ledger", "key")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("keyctl: error: this keyd signs no heads\n")


def test_a_checkpoint_is_printed_as_it_is_signed(keyd, ask):
    keyd.answers["ledger_checkpoint"] = api.SignedHead(note=NOTE)
    assert ask("ledger", "checkpoint").out == NOTE


def test_a_checkpoint_that_no_keyd_writes_steers_no_terminal(keyd, ask):
    keyd.answers["ledger_checkpoint"] = api.SignedHead(note=f"{NOTE}\x1b[2J\u202e\n")
    assert ask("ledger", "checkpoint").out == NOTE + "\\x1b[2J\\u202e\n"


def test_verify_sends_the_heads_that_were_kept(keyd, ask):
    keyd.answers["ledger_verify"] = OK.model_copy(update={"agreed": 1})
    result = ask("ledger", "verify", "--against", f"3:{HASH}")
    assert (result.code, result.out.splitlines()[-1]) == (0, "heads kept elsewhere: 1 agree")
    assert json.loads(keyd.asked[-1][1]) == {"against": [{"seq": 3, "hash": HASH}]}


def test_a_head_that_cannot_be_read_is_not_asked_about(keyd, ask):
    result = ask("ledger", "verify", "--against", "yesterday")
    assert (result.code, keyd.asked) == (1, [])
    assert "cannot read" in result.err
    assert "Give a file of signed heads" in result.err


def test_a_head_of_another_key_is_refused(keyd, ask, tmp_path):
    (tmp_path / "head").write_text(NOTE)
    result = ask("ledger", "verify", "--against", tmp_path / "head", "--key", KEY)
    assert (result.code, keyd.asked) == (1, [])
    assert "there is no signature of osmoda-ledger/test" in result.err


# --- exports


def test_an_export_reads_the_file_without_keyd(keyctl, tmp_path):
    file = tmp_path / "ledger.sqlite3"
    Ledger.open(file, clock=lambda: 0).close()
    assert keyctl("ledger", "export", "--format", "jsonl", "--file", file).out == ""
    assert keyctl("ledger", "export", "--format", "csv", "--file", file).out.startswith(
        "date,domain,caller,purpose,"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--since", "today"], "today is not a day"), ([], "cannot export")],
)
def test_an_export_that_cannot_be_made_says_why(keyctl, tmp_path, arguments, said):
    result = keyctl("ledger", "export", "--format", "csv", "--file", tmp_path / "missing", *arguments)
    assert (result.code, result.out) == (1, "")
    assert said in result.err
    assert "keyctl: hint: " in result.err
