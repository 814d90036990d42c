"""Transcripts of `keyctl x402 spend`, `payments` and `show`."""

from __future__ import annotations

import json

import pytest

from keyd import api
from keyd.cli.story import story_text
from tests.cli.views import PAYMENT, PAYMENT_ID, POLICY, SELLER, STORY, USDC, entry

SPEND = api.Spend(
    by=api.SpendBy.DOMAIN,
    since="2026-11-21",
    rows=[
        api.SpendRow(key="api.quicknode.com", usd="0.28", calls=14),
        api.SpendRow(key="data.example.com", usd="0.0605", calls=2),
    ],
    total="0.3405",
)


def answer_spend(keyd) -> list[dict[str, str]]:
    """Answers, and keeps what was asked."""
    asked: list[dict[str, str]] = []

    def answer(request):
        asked.append(dict(request.query))
        return SPEND

    keyd.answers |= {"spend": answer, "policy": POLICY}
    return asked


def test_spend_shows_where_the_money_went(keyd, ask):
    answer_spend(keyd)
    result = ask("x402", "spend")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "Spent since 2026-11-21 (UTC): $0.3405.\n"
        "\n"
        "DOMAIN               SPENT  CALLS\n"
        "api.quicknode.com    $0.28     14\n"
        "data.example.com   $0.0605      2\n"
    )


def test_spend_of_nothing_is_one_line(keyd, ask):
    keyd.answers["spend"] = SPEND.model_copy(update={"rows": [], "total": "0.00"})
    assert ask("x402", "spend").out == "Spent since 2026-11-21 (UTC): $0.00.\n"


def test_spend_json_is_keyds_answer(keyd, ask):
    answer_spend(keyd)
    assert api.Spend.model_validate_json(ask("x402", "spend", "--json").out) == SPEND


@pytest.mark.parametrize(
    ("options", "query"),
    [
        ([], {"by": "domain"}),
        (["--by", "caller"], {"by": "caller"}),
        (["--since", "2026-01-31"], {"by": "domain", "since": "2026-01-31"}),
        (["--since", "7d"], {"by": "domain", "since": "2026-11-14"}),
        (["--since", "0d", "--by", "asset"], {"by": "asset", "since": "2026-11-21"}),
        (["--since", "365d", "--by", "day"], {"by": "day", "since": "2025-11-21"}),
    ],
)
def test_spend_asks_for_what_its_options_say(keyd, ask, options, query):
    asked = answer_spend(keyd)
    assert ask("x402", "spend", *options).code == 0
    assert asked == [query]


def test_more_days_than_there_were_means_from_the_beginning(keyd, ask):
    asked = answer_spend(keyd)
    keyd.answers["policy"] = POLICY.model_copy(update={"day": "0005-01-01"})
    assert ask("x402", "spend", "--since", "99999d").code == 0
    assert asked[0]["since"] == "0001-01-01"


@pytest.mark.parametrize("since", ["yesterday", "2026-02-30", "-1d", "7", "1.5d", "2026-1-1", "٣d"])
def test_a_since_that_is_no_day_is_a_usage_error(keyd, ask, since):
    result = ask("x402", "spend", "--since", since)
    assert (result.code, keyd.asked) == (2, [])
    assert "is neither a day like 2026-11-21 nor a number of days like 7d" in result.err


def test_payments_are_listed_the_newest_first(keyd, ask):
    other = {"payment_id": "0" * 32, "state": "unknown", "proven": False, "delivered": False}
    keyd.answers["payments"] = api.PaymentList(payments=[PAYMENT, PAYMENT.model_copy(update=other)])
    result = ask("x402", "payments")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "WHEN                  ID            STATE            DELIVERED     AMOUNT    USD  DOMAIN\n"
        "2026-11-21 12:00:00Z  7f3a0c5d9e1b  settled, proven  yes        0.01 USDC  $0.01  api.example.com\n"
        "2026-11-21 12:00:00Z  000000000000  unknown          no         0.01 USDC  $0.01  api.example.com\n"
    )


def test_payments_asks_for_what_its_options_say(keyd, ask):
    asked: list[dict[str, str]] = []

    def answer(request):
        asked.append(dict(request.query))
        return api.PaymentList(payments=[PAYMENT] * 2)

    keyd.answers["payments"] = answer
    result = ask(
        "x402", "payments", "--state", "unknown", "--domain", "https://API.example.com", "--limit", "2"
    )
    assert asked == [{"state": "unknown", "domain": "api.example.com", "limit": "2"}]
    assert result.out.endswith("These are the newest 2; --limit shows more.\n")


def test_no_payments_are_said_to_be_none_and_are_an_empty_list_in_json(keyd, ask):
    keyd.answers["payments"] = api.PaymentList(payments=[])
    assert ask("x402", "payments").out == "no such payments\n"
    assert json.loads(ask("x402", "payments", "--json").out) == {"payments": []}


@pytest.mark.parametrize(
    "options",
    [
        ["--state", "paid"],
        ["--domain", "*.example.com"],
        ["--domain", "*"],
        ["--limit", "0"],
        ["--limit", "9999"],
    ],
)
def test_payments_refuses_what_could_only_find_nothing(keyd, ask, options):
    result = ask("x402", "payments", *options)
    assert (result.code, keyd.asked) == (2, [])


def test_show_tells_the_story_from_the_offer_to_the_proof(keyd, ask):
    keyd.answers["payment"] = STORY
    result = ask("x402", "show", PAYMENT_ID)
    assert (result.code, result.err) == (0, "")
    indent = " " * 32
    assert result.out == (
        f"payment    {PAYMENT_ID}\n"
        "amount     0.01 USDC on eip155:8453, $0.01\n"
        f"paid to    {SELLER}, for api.example.com\n"
        "paid by    uid:1000, from wallet default\n"
        "counts on  2026-11-21 (UTC)\n"
        "state      settled. The chain confirms that the money moved.\n"
        "\n"
        "2026-11-21 12:00:00Z  attempt   GET /weather of api.example.com, asked for by uid:1000\n"
        f"{indent}offer: exact, 10000 of {USDC} on eip155:8453 to {SELLER}\n"
        f"{indent}offer that cannot be read: offer 1: payTo is missing\n"
        f"{indent}(entry 11, by uid:991)\n"
        f"2026-11-21 12:00:00Z  signed    10000 atomic units of USDC to {SELLER}, valid until 2026-11-21 12:01:00Z\n"
        f"{indent}nonce 0x{'ab' * 32}\n"
        f"{indent}overrides on trial would have refused it: budget_daily (it does not fit)\n"
        f"{indent}(entry 12, by uid:991)\n"
        "2026-11-21 12:00:02Z  unknown   the seller answered 200\n"
        f"{indent}payer 'x' is not our wallet\n"
        f"{indent}(entry 13, by uid:991)\n"
        "2026-11-21 12:00:59Z  settled   the chain says at block 22431084: used, 2 RPC servers agree\n"
        f"{indent}block 0x{'cd' * 32}\n"
        f"{indent}transaction 0x{'ef' * 32}\n"
        f"{indent}(entry 14, by uid:991)\n"
        "\n"
        "What to do: nothing.\n"
    )


@pytest.mark.parametrize(
    ("what", "data", "said"),
    [
        (
            "refused",
            {"http_status": 402, "delivered": False},
            "the seller answered 402, the program got no answer",
        ),
        ("unknown", {"http_status": None, "notes": ["no answer: timeout"]}, "the seller did not answer"),
        (
            "released",
            {"proof": {"block_number": 9, "block_hash": "0x00", "sources": 1}},
            "the chain says at block 9: not used, and void\n",
        ),
        (
            "settled",
            {"http_status": 200, "receipt": {"verified": True, "notes": []}},
            "the seller's receipt is on record, signed by the recipient\n",
        ),
        (
            "signed",
            {"signed_offer": {"verified": False, "notes": ["it had expired", "it names another host"]}},
            "offer is on record, signed by nobody we know (it had expired; it names another host)\n",
        ),
    ],
)
def test_every_end_has_its_words(what, data, said):
    assert said in story_text(STORY.model_copy(update={"entries": [entry(15, what, 3, **data)]}))


HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\nstate      settled\u202e"


@pytest.mark.parametrize("what", ["attempt", "signed", "unknown", "settled", "released", HOSTILE])
def test_nothing_in_an_entry_can_steer_the_terminal_or_forge_a_line(what):
    offer = dict.fromkeys(["scheme", "network", "amount", "asset", "pay_to"], HOSTILE)
    data = {
        "method": HOSTILE,
        "path": HOSTILE,
        "domain": HOSTILE,
        "caller": HOSTILE,
        "offers": [offer, {"malformed": HOSTILE}, HOSTILE],
        "amount": HOSTILE,
        "asset_symbol": HOSTILE,
        "authorization": {"to": HOSTILE, "nonce": HOSTILE},
        "would_refuse": {"code": HOSTILE, "detail": HOSTILE},
        "notes": [HOSTILE],
        "transaction": HOSTILE,
        "signed_offer": {"notes": [HOSTILE], "verified": HOSTILE},
        "receipt": {"notes": [HOSTILE], "verified": HOSTILE},
    }
    hostile = entry(15, what, 3, **data).model_copy(update={"actor": HOSTILE, "ts": HOSTILE})
    told = story_text(STORY.model_copy(update={"entries": [hostile]}))
    assert all(line.isprintable() for line in told.split("\n"))
    assert sum(line.startswith("state ") for line in told.split("\n")) == 1


@pytest.mark.parametrize("what", ["attempt", "signed", "refused", "settled", "released", "new"])
@pytest.mark.parametrize(
    "data", [{}, {"offers": 1, "authorization": 2, "proof": 3, "notes": 4, "transaction": 5, "receipt": 6}]
)
def test_a_story_is_told_whatever_its_entries_lack(what, data):
    told = story_text(STORY.model_copy(update={"entries": [entry(15, what, 3, **data)]}))
    assert f"2026-11-21 12:00:03Z  {what}" in told


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"prepaid": True}, "sent with the request, before the server asked"),
        ({"repeat_of": PAYMENT_ID}, "a repeat: it got the same authorization, and costs nothing more"),
    ],
)
def test_an_attempt_says_what_is_special_about_it(data, words):
    def told(**data: object) -> str:
        attempt = entry(15, "attempt", 3, method="GET", path="/weather", **data)
        return story_text(STORY.model_copy(update={"entries": [attempt]}))

    assert words in told(**data)
    assert words not in told(repeat_of=None)


def test_show_json_is_keyds_answer(keyd, ask):
    keyd.answers["payment"] = STORY
    assert api.PaymentStory.model_validate_json(ask("x402", "show", PAYMENT_ID, "--json").out) == STORY


def test_the_beginning_of_an_id_finds_its_payment(keyd, ask):
    keyd.answers |= {"payments": api.PaymentList(payments=[PAYMENT]), "payment": STORY}
    assert ask("x402", "show", "7F3A").code == 0
    assert [name for name, _ in keyd.asked] == ["payments", "payment"]


def test_a_beginning_of_two_ids_is_refused(keyd, ask):
    other = PAYMENT.model_copy(update={"payment_id": "7f3a" + "0" * 28})
    keyd.answers["payments"] = api.PaymentList(payments=[PAYMENT, other])
    result = ask("x402", "show", "7f3a")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"keyctl: error: 2 payments begin with '7f3a'\nkeyctl: hint: {PAYMENT_ID} is the newest of them\n"
    )


def test_a_payment_that_is_not_there_is_said_so(keyd, ask):
    keyd.answers["payments"] = api.PaymentList(payments=[])
    assert "none of the newest 0 payments begins with 'ab'" in ask("x402", "show", "ab").err
    keyd.answers["payment"] = api.Refusal(code="payment_unknown", detail="payment 'x'", hint="List them.")
    result = ask("x402", "show", "0" * 32)
    assert (result.code, result.out) == (1, "")
    assert "(payment_unknown)" in result.err
