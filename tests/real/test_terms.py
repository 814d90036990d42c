"""Terms in the forms in which official servers hide, require or extend them."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.real.support.counterparts import Chain
from tests.real.support.payer import Payer

pytestmark = pytest.mark.real

BROWSER = {"Accept": "text/html,application/xhtml+xml", "User-Agent": "Mozilla/5.0 (X11; Linux x86_64)"}


def test_a_browser_that_is_shown_the_official_paywall_gets_the_paid_answer(
    payer: Payer, server_v1: str, chain: Chain
) -> None:
    shown = httpx.get(f"{server_v1}/weather", headers=BROWSER, trust_env=False, timeout=60)
    assert (shown.status_code, shown.headers["content-type"].split(";")[0]) == (402, "text/html")
    before = chain.balance("payer")

    with httpx.Client(proxy=payer.egress.url, trust_env=False, timeout=60) as browser:
        answer = browser.get(f"{server_v1}/weather", headers=BROWSER)

    assert (answer.status_code, json.loads(answer.content)) == (200, {"weather": "sunny"})
    assert answer.headers["X-402-Egress"].startswith("paid; amount=0.001; ")
    payer.settled()
    assert before - chain.balance("payer") == 1_000
