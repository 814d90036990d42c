"""What other programs get: exact, and never a formula, a directive or a line that a seller wrote."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import Ledger, Transaction, export, jsonl, kept
from ledger.__main__ import main
from ledger.errors import LedgerError
from ledger.export import Period, cell, decimal, export_file

NOON = 1795262400  # 2026-11-21T12:00:00Z
DAY_S = 86_400
HOSTILE = [
    '=cmd|"/C calc"!A1',
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    " =1",
    "＝1",
    'a"b\n2026-01-01 open Assets:Evil',
]
ALWAYS = Period()


@pytest.fixture
def record(path: Path, clock: Any, signed_data: Any) -> Path:
    """Three days: one payment proven, one claimed, one released, one unknown by a program with hostile words."""

    def pay(tx: Transaction, number: int, asked: str, **changes: Any) -> None:
        attempt = tx.append("x402.payment.attempt", "uid:991", {"method": "GET", "path": asked})
        terms = {"attempt": attempt.seq, "signed_at": NOON + number * DAY_S, "wallet": "default"}
        known = {"asset_symbol": "USDC", "asset_decimals": 6}
        tx.append("x402.payment.signed", "uid:991", signed_data(number, **terms | known | changes))

    def outcome(tx: Transaction, number: int, what: str, **data: Any) -> None:
        tx.append(f"x402.payment.{what}", "uid:991", {"payment_id": f"{number:032x}"} | data)

    def step(tx: Transaction) -> None:
        tx.append("keyd.started", "keyd", {})
        pay(tx, 0, "/one", amount="1500000", usd_micros=1_500_000)
        outcome(tx, 0, "settled", transaction="0x" + "aa" * 32, delivered=True)
        outcome(tx, 0, "settled", transaction="0x" + "bb" * 32, proof={"used": True})
        pay(tx, 1, "/two")
        outcome(tx, 1, "settled", transaction="0x" + "cc" * 32, delivered=True)
        pay(tx, 2, "/three")
        outcome(tx, 2, "released", proof={"used": False})
        pay(
            tx,
            3,
            HOSTILE[-1],
            domain=HOSTILE[0],
            asset_symbol=HOSTILE[3],
            asset_decimals=None,
            wallet='w"\nx',
        )

    with closing(Ledger.open(path, clock=clock)) as ledger:
        ledger.transact(step).result(20)
    return path


def text(path: Path, form: str, period: Period = ALWAYS) -> str:
    return "".join(export_file(path, form, period))


def table(path: Path, period: Period = ALWAYS) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text(path, "csv", period), newline="")))


def test_a_row_says_what_an_accountant_asks(record: Path) -> None:
    rows = table(record)
    assert rows[0] == {
        "date": "2026-11-21",
        "domain": "api.example.com",
        "caller": "uid:1000",
        "purpose": "GET /one",
        "amount": "1.5",
        "asset": "USDC",
        "usd": "1.5",
        "network": "eip155:84532",
        "pay_to": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
        "transaction": "0x" + "bb" * 32,  # the chain's, not the one that the seller claimed
        "payment_id": f"{0:032x}",
        "state": "settled",
        "proven": "yes",
        "delivered": "yes",
        "wallet": "default",
        "amount_atomic": "1500000",
        "asset_address": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
        "signed_at": "2026-11-21T12:00:00Z",
        "session": "",
    }
    assert [(row["state"], row["proven"], row["amount"]) for row in rows[1:]] == [
        ("settled", "no", "0.001"), ("released", "yes", "0.001"), ("signed", "no", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (None, None, [0, 1, 2, 3]),
        ("2026-11-22", None, [1, 2, 3]),
        (None, "2026-11-22", [0, 1]),
        ("2026-11-23", "2026-11-23", [2]),
    ],
)
def test_days_bound_it_and_are_included(
    record: Path, since: str | None, until: str | None, expected: list[int]
) -> None:
    period = Period.parse(since, until)
    assert [int(row["payment_id"], 16) for row in table(record, period)] == expected
    for form in ("beancount", "ledger"):
        transactions = re.findall(r"^2026-\d\d-\d\d [*!] ", text(record, form, period), re.MULTILINE)
        assert len(transactions) == len(set(expected) - {2})


@pytest.mark.parametrize("day", ["2026-13-01", "2026-1-1", "today", "", "2026-11-21T00:00:00Z"])
def test_what_is_no_day_is_refused(day: str) -> None:
    with pytest.raises(LedgerError, match="is not a day"):
        Period.parse(day, None)


@pytest.mark.parametrize("hostile", HOSTILE[:-1])
def test_no_cell_is_a_formula(hostile: str) -> None:
    assert cell(hostile).startswith("'")


@given(st.text())
def test_a_cell_is_one_line_and_begins_with_no_operator(words: str) -> None:
    shown = cell(words)
    assert shown.isprintable()
    assert shown.lstrip()[:1] not in tuple("=+-@")


def test_nothing_after_a_semicolon_is_a_formula_either() -> None:
    """LibreOffice parts cells there, unless told otherwise, and what has no comma in it is not quoted."""
    assert cell("GET /a;=WEBSERVICE(I2); +1;b") == "GET /a;'=WEBSERVICE(I2);' +1;b"
    assert cell("GET /a;b=c") == "GET /a;b=c"


def test_hostile_words_stay_in_their_cell(record: Path) -> None:
    rows = table(record)
    assert len(rows) == 4
    assert all(not value.lstrip().startswith(("=", "+", "-", "@")) for row in rows for value in row.values())


@given(st.integers(0, 2**256), st.integers(0, 40))
def test_amounts_are_exact(units: int, decimals: int) -> None:
    whole, _, fraction = decimal(units, decimals).partition(".")
    assert int(whole) * 10**decimals + int(fraction.ljust(decimals, "0") or 0) == units
    assert not fraction.endswith("0")


def test_beancount_reads_it_and_agrees_on_the_sums(record: Path) -> None:
    loader, realization = (
        pytest.importorskip("beancount.loader"),
        pytest.importorskip("beancount.core.realization"),
    )
    entries, errors, _ = loader.load_string(text(record, "beancount"))
    assert errors == []
    balances = {
        account.account: account.balance.to_string(parens=False)
        for account in realization.iter_children(realization.realize(entries))
        if not account.balance.is_empty()
    }
    assert balances["Expenses:X402"] == "0.001 USD, 1.501 USDC"
    assert balances["Assets:X402:W-default"] == "-1.501 USDC"
    assert balances["Assets:X402:W-w--x"] == "-0.001 USD"
    transactions = [entry for entry in entries if type(entry).__name__ == "Transaction"]
    assert [entry.flag for entry in transactions] == ["*", "!", "!"]
    assert transactions[0].meta["transaction"] == "0x" + "bb" * 32


@pytest.fixture
def ledger_cli(tmp_path: Path) -> Callable[..., str]:
    """Debian's `ledger` on the export: what a report prints."""
    program = shutil.which("ledger")
    if program is None:
        pytest.skip("needs ledger-cli (`apt-get install ledger`)")
    journal = tmp_path / "payments.ledger"

    def report(record: Path, *arguments: str) -> str:
        journal.write_text(text(record, "ledger"), "utf-8")
        command = [
            program,
            "--no-pager",
            "--init-file",
            "/dev/null",
            "-f",
            str(journal),
            *arguments,
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=240).stdout

    return report


@pytest.mark.real
def test_ledger_cli_reads_it_and_agrees_on_the_sums(record: Path, ledger_cli: Callable[..., str]) -> None:
    balances = ledger_cli(
        record, "balance", "--flat", "--no-total", "--balance-format", "%(account): %(scrub(display_total))\n"
    )
    assert [" ".join(line.split()) for line in balances.splitlines()] == [
        "Assets:X402:W-default: -1.501 USDC", "Assets:X402:W-w--x: -0.001 USD",
        "Expenses:X402: 0.001 USD", "1.501 USDC",
    ]  # fmt: skip
    proven = ledger_cli(
        record, "register", "Expenses", "--cleared", "--format", "%(date) %(payee) %(tag('transaction'))\n"
    )
    assert proven == f"2026/11/21 api.example.com {'0x' + 'bb' * 32}\n"
    assert (
        ledger_cli(record, "register", "Expenses", "--basis", "--cleared", "--format", "%(scrub(total))\n")
        == "1.500 USD\n"
    )


@pytest.mark.real
@pytest.mark.parametrize(
    "hostile",
    [
        *HOSTILE,
        "(code) * ! payee",
        "x  ; note",
        "; :tag: ",
        "[2001-01-01]",
        "[2001/01/01]",
        "key:: 1/0",
        "[=2001-01-01] x",
        "*",
        "a|b",
        "x  -5 USD",
    ],
)
def test_no_word_of_a_stranger_means_something_to_ledger_cli(
    path: Path, clock: Any, signed_data: Any, ledger_cli: Callable[..., str], hostile: str
) -> None:
    with closing(Ledger.open(path, clock=clock)) as ledger:
        named = dict.fromkeys(
            ("domain", "caller", "wallet", "network", "asset", "asset_symbol", "purpose"), hostile
        )
        data = signed_data(0, **named | {"asset_decimals": 6, "signed_at": NOON})
        ledger.transact(lambda tx: tx.append("x402.payment.signed", "uid:991", data)).result(20)
    line = "%(date) %(cleared) %(pending) %(has_tag('tag')) %(code) %(scrub(amount))\n"
    (posting,) = ledger_cli(path, "register", "Expenses", "--format", line).splitlines()
    assert posting.split() == ["2026/11/21", "false", "true", "false", "0.001", "USD"]


def test_json_lines_make_the_same_ledger_again(record: Path, tmp_path: Path) -> None:
    lines = tmp_path / "export.jsonl"
    lines.write_text(text(record, "jsonl"), "utf-8")
    assert main(["import", str(lines), str(tmp_path / "again")]) == 0
    assert main(["verify", str(tmp_path / "again"), "--against", str(lines)]) == 0
    assert text(tmp_path / "again", "jsonl") == lines.read_text("utf-8")
    with closing(Ledger.open(tmp_path / "again", clock=lambda: 0)) as ledger:  # and keyd goes on with it
        ledger.transact(lambda tx: tx.append("test.noted", "test", {})).result(20)
    with pytest.raises(LedgerError, match="exists"):
        jsonl.restore(lines, tmp_path / "again")


def test_every_form_of_an_empty_ledger_is_empty_or_a_heading(path: Path, clock: Any) -> None:
    Ledger.open(path, clock=clock).close()
    assert [text(path, form) for form in export.FORMATS] == [
        "", ",".join(export.COLUMNS) + "\r\n", "", ""
    ]  # fmt: skip


def test_what_is_no_ledger_is_not_exported(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"x" * 100)
    for name in ("other", "missing"):
        with pytest.raises(LedgerError, match="cannot export"):
            text(tmp_path / name, "csv")


# --- comparing with what was kept elsewhere


def command(arguments: Iterable[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_an_export_kept_elsewhere_shows_the_first_entry_that_differs(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = text(record, "jsonl").splitlines(keepends=True)
    kept_file = tmp_path / "kept"
    kept_file.write_text("".join(lines), "utf-8")
    other = tmp_path / "other"
    with closing(Ledger.open(other, clock=lambda: 0)) as ledger:
        ledger.transact(lambda tx: [tx.append("test.noted", "test", {}) for _ in lines]).result(20)
    code, said = command(["verify", other, "--against", kept_file], capsys)
    assert (code, said.splitlines()[0]) == (
        1,
        "entry 1: rewritten (the head kept elsewhere names another hash)",
    )
    kept_file.write_text("".join(lines) + lines[-1], "utf-8")
    kept_file.write_text("".join(lines[:4]), "utf-8")
    code, said = command(["verify", record, "--against", kept_file], capsys)
    assert (code, said.splitlines()[-1]) == (0, "heads kept elsewhere: 4 agree")


def test_a_head_as_verify_prints_it_can_be_compared(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = command(["verify", record], capsys)
    head = said.splitlines()[1]
    assert command(["verify", record, "--against", head], capsys)[0] == 0
    _, number, hash_ = head.split()
    later = f"{int(number) + 2}:{hash_}"
    code, said = command(["verify", record, "--against", later], capsys)
    gone = f"entries {int(number) + 1} to {int(number) + 2}: cut off (the head kept elsewhere names entry {int(number) + 2}, the last is {number})"
    assert (code, said.splitlines()[0]) == (1, gone)


@pytest.mark.parametrize("head", ["nothing", "5", "5:zz", "-1:" + "00" * 32])
def test_what_is_no_head_is_refused(head: str) -> None:
    with pytest.raises(LedgerError):
        kept.heads([head])


def test_two_heads_that_contradict_each_other_are_refused() -> None:
    """Whoever has both has the proof that somebody signed two histories."""
    with pytest.raises(LedgerError, match="two heads of 7 entries contradict each other"):
        kept.heads(["7:" + "00" * 32, "7:" + "11" * 32])


def test_progress_is_shown_when_it_is_wanted(
    record: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.progress.REPORT_EVERY_S", 0)
    assert command(["verify", record], capsys)[1].count("%") == 0
    assert "13 of 13 entries, 100 %" in command(["verify", record, "--progress"], capsys)[1]
