"""Transcripts of `keyctl x402 policy test`: the ledger's past offers under another keyd.toml."""

from __future__ import annotations

import json

import pytest

from keyd import api
from keyd.cli.replay_command import CAVEATS
from tests.cli.views import POLICY, SELLER, USDC

HASH = "ab" * 32


def entry(seq: int, what: str, day: int, data: dict[str, object]) -> api.LedgerEntry:
    ts = f"2026-11-{day:02d}T12:00:{seq:02d}.000000Z"
    return api.LedgerEntry(seq=seq, ts=ts, type=f"x402.payment.{what}", actor="uid:991", data=data, hash=HASH)


def asked(seq: int, amount: str, *, day: int = 21, domain: str = "api.example.com", repeat: bool = False):
    return entry(
        seq,
        "attempt",
        day,
        {
            "caller": "uid:1000",
            "domain": domain,
            "fingerprint": f"{seq:064x}",
            "intent": None,
            "method": "GET",
            "offers": [
                {
                    "scheme": "exact",
                    "network": "eip155:8453",
                    "amount": amount,
                    "asset": USDC,
                    "pay_to": SELLER,
                    "max_timeout_seconds": 60,
                }
            ],
            "path": f"/{seq}",
            "repeat_of": "0" * 32 if repeat else None,
            "resource_url": None,
            "x402_version": 2,
        },
    )


def paid(seq: int, micros: int, *, day: int = 21):
    data = {"attempt": seq - 1, "payment_id": f"{seq:032x}", "usd_micros": micros}
    return entry(seq, "signed", day, data)


def refused(seq: int, code: str, *, day: int = 21):
    return entry(seq, "rejected", day, {"attempt": seq - 1, "code": code})


LEDGER = [
    asked(1, "20000", day=20),
    paid(2, 20_000, day=20),
    asked(3, "10000"),
    paid(4, 10_000),
    asked(5, "10000", domain="bad.example.com"),
    paid(6, 10_000),
    asked(7, "60000"),
    refused(8, "cap_per_payment"),
    asked(9, "60000"),
    refused(10, "cap_per_payment"),
    asked(11, "60000", domain="c.example.com"),
    refused(12, "domain_not_allowed"),
    asked(13, "10000", repeat=True),
]


@pytest.fixture
def ledger(keyd):
    def page(request):
        after, limit = int(request.query["after"]), int(request.query["limit"])
        return api.LedgerEntries(entries=LEDGER[after:][: min(limit, 4)])

    keyd.answers |= {
        "policy": POLICY,
        "ledger_head": api.LedgerHead(seq=len(LEDGER), hash=HASH),
        "ledger_entries": page,
    }


@pytest.fixture
def other(tmp_path):
    def write(*lines: str):
        file = tmp_path / "other.toml"
        file.write_text("\n".join(["[x402]", 'allowed_domains = ["api.example.com"]', *lines]))
        return file

    return write


@pytest.mark.usefixtures("ledger")
def test_a_policy_test_shows_totals_and_what_would_have_differed(ask, other):
    result = ask("x402", "policy", "test", other())
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "                PAID    USD  REFUSED\n"
        "as it was          3  $0.04        3\n"
        "as it would be     4  $0.15        2\n"
        "\n"
        "DOMAIN           ATTEMPTS    USD  WAS              WOULD BE\n"
        "api.example.com         2  $0.12  cap_per_payment  paid\n"
        "bad.example.com         1  $0.01  paid             domain_not_allowed\n"
        "\n" + CAVEATS + "\n"
    )


@pytest.mark.usefixtures("ledger")
def test_since_counts_from_a_day_on(ask, other):
    assert (
        "as it was          2  $0.02        3\n"
        in ask("x402", "policy", "test", other(), "--since", "2026-11-21").out
    )
    assert (
        ask("x402", "policy", "test", other(), "--since", "0d").out
        == ask("x402", "policy", "test", other(), "--since", "2026-11-21").out
    )
    assert (
        "as it was          0  $0.00        0\n"
        in ask("x402", "policy", "test", other(), "--since", "2026-11-22").out
    )


@pytest.mark.usefixtures("ledger")
def test_a_policy_test_in_json_names_every_attempt(ask, other):
    result = json.loads(ask("x402", "policy", "test", other(), "--json").out)
    assert result["was"] == {"paid": 3, "refused": 3, "usd": "0.04"}
    assert result["would_be"] == {"paid": 4, "refused": 2, "usd": "0.15"}
    assert [found["seq"] for found in result["differences"]] == [5, 7, 9]
    assert result["differences"][1] == {
        "seq": 7,
        "ts": "2026-11-21T12:00:07.000000Z",
        "domain": "api.example.com",
        "caller": "uid:1000",
        "was": {"code": "cap_per_payment", "usd": "0.00"},
        "would_be": {"code": None, "usd": "0.06"},
    }


@pytest.mark.usefixtures("ledger")
def test_no_difference_is_said_and_other_reasons_are_counted(ask, other):
    file = other('max_payment_usd = "0.05"')
    file.write_text(file.read_text().replace('"api.example.com"', '"api.example.com", "*"'))
    out = ask("x402", "policy", "test", file, "--since", "2026-11-22").out
    assert "The same offers would have been paid and refused.\n" in out
    out = ask("x402", "policy", "test", other("enable = false"), "--since", "2026-11-21").out
    assert "x402_disabled" in out
    assert "\n3 attempts would be refused for another reason.\n" in out


@pytest.mark.usefixtures("ledger")
def test_a_repeat_that_was_refused_is_left_out(ask, other, keyd):
    repeat = [asked(1, "10000"), refused(2, "cool_down")]
    keyd.answers["ledger_entries"] = lambda _request: api.LedgerEntries(entries=repeat)
    keyd.answers["ledger_head"] = api.LedgerHead(seq=2, hash=HASH)
    out = ask("x402", "policy", "test", other()).out
    assert "\n1 attempt repeated an open payment and cost nothing: left out.\n" in out
    assert "as it was          0  $0.00        0\n" in out


def test_a_policy_test_asks_nobody_about_a_file_that_is_wrong(keyd, ask, other):
    result = ask("x402", "policy", "test", other('daily_budget = "1.00"'))
    assert (result.code, result.out, keyd.asked) == (1, "", [])
    assert "unknown key 'x402.daily_budget'" in result.err
    assert ask("x402", "policy", "test", "/nonexistent/keyd.toml").code == 1


def test_a_policy_test_of_users_that_are_not_here_says_which(keyd, ask, other):
    result = ask("x402", "policy", "test", other('callers = ["nobody-of-this-name"]'))
    assert (result.code, result.out, keyd.asked) == (1, "", [])
    assert "nobody-of-this-name" in result.err


def test_a_policy_test_is_for_administrators(keyd, ask, other):
    keyd.answers["policy"] = POLICY
    keyd.answers["ledger_head"] = api.Refusal(code="role_insufficient", detail="uid 7 is not admin", hint="")
    result = ask("x402", "policy", "test", other())
    assert (result.code, result.out) == (1, "")
    assert "(role_insufficient)" in result.err
