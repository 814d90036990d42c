"""`keyctl x402 sessions`, and what `run` refuses before it opens one."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from click import BadParameter
from hypothesis import given
from hypothesis import strategies as st

from keyd import api
from keyd.cli.environment import Proxy
from keyd.cli.session_commands import Duration
from tests.cli.conftest import FakeKeyd, Result

SESSION = api.Session(
    id="5891b5b522d5df08",
    label="research",
    caller="uid:1000",
    budget="0.50",
    spent="0.12",
    expires_at=1_795_262_400,
)


def test_open_sessions_are_a_table(keyd: FakeKeyd, keyctl) -> None:
    keyd.answers["session_list"] = api.SessionList(sessions=[SESSION])
    found: Result = keyctl("--socket", keyd.socket, "x402", "sessions")
    assert (found.code, found.err) == (0, "")
    header, row = found.out.splitlines()
    assert header.split() == ["ID", "LABEL", "CALLER", "SPENT", "BUDGET", "UNTIL"]
    assert row.split()[:5] == ["5891b5b522d5df08", "research", "uid:1000", "$0.12", "$0.50"]
    shown = keyctl("--socket", keyd.socket, "x402", "sessions", "--json").out
    assert json.loads(shown)["sessions"][0]["spent"] == "0.12"


def test_nothing_open_is_said(keyd: FakeKeyd, keyctl) -> None:
    keyd.answers["session_list"] = api.SessionList(sessions=[])
    assert keyctl("--socket", keyd.socket, "x402", "sessions").out == "no session is open\n"


def test_a_session_is_closed_by_its_id(keyd: FakeKeyd, keyctl) -> None:
    keyd.answers["session_close"] = SESSION
    found = keyctl("--socket", keyd.socket, "x402", "sessions", "--close", SESSION.id)
    assert found.out == "ended: session research/5891b5b522d5df08: $0.12 of $0.50 spent\n"
    keyd.answers["session_close"] = api.Refusal(code="session_unknown", detail="none", hint="look")
    assert "(session_unknown)" in keyctl("--socket", keyd.socket, "x402", "sessions", "--close", "x").err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--label", "a", "true"], "--label and --budget go together"),
        (["--budget", "1", "true"], "--label and --budget go together"),
        (["--label", "Mr X", "--budget", "1", "true"], "up to 32 of a-z"),
        (["--label", "a:b", "--budget", "1", "true"], "up to 32 of a-z"),
        (["--label", "a", "--budget", "-1", "true"], "not a USD amount"),
        (["--label", "a", "--budget", "1", "--expires", "8 days", "true"], "from a minute to a week"),
        (["--label", "a", "--budget", "1", "--expires", "59s", "true"], "from a minute to a week"),
        (["--label", "a", "--budget", "1", "--expires", "8d", "true"], "from a minute to a week"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_keyd_is_asked(
    keyd: FakeKeyd, keyctl, options: list[str], said: str
) -> None:
    found = keyctl("--socket", keyd.socket, "x402", "run", *options)
    assert found.code == 2
    assert said in found.err
    assert keyd.asked == []


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("8h", 28800), ("7d", 604800)])
def test_times_are_written_with_a_unit(text: str, seconds: int) -> None:
    assert Duration().convert(text, None, None) == seconds


@given(st.text())
def test_a_time_is_within_bounds_or_refused(text: str) -> None:
    with suppress(BadParameter):
        assert 60 <= Duration().convert(text, None, None) <= api.MAX_SESSION_S


def test_the_token_of_a_session_is_in_the_url_and_in_no_message() -> None:
    proxy = Proxy.parse("http://[::1]:19999").in_session("token")
    assert proxy.url == "http://session:token@[::1]:19999"
    assert f"{proxy} {proxy!r}" == "http://[::1]:19999 Proxy(http://[::1]:19999)"
    assert Proxy.parse(proxy.url) == proxy
    with pytest.raises(ValueError, match="its user's"):
        proxy.in_session("another")
