"""Who pays: egress asks the kernel, keyd decides by the answer, the ledger keeps it. Programs of real users."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.real.support.counterparts import Chain
from tests.real.support.payer import Payer

ME = f"uid:{os.getuid()}"
NOBODY_UID = 65534
NOBODY = f"uid:{NOBODY_UID}"
TOKEN = hashlib.sha256(os.urandom(32)).hexdigest()

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.getuid() != 0, reason="only root can run a program as another user"),
]


@dataclass
class Shop:
    payer: Payer
    seller: str

    def buy(self, what: str, *options: str, uid: int | None = None, proxy: str | None = None) -> str:
        """Status and X-402-Egress, as curl, run by user `uid`, sees them."""
        done = subprocess.run(
            [
                *("curl", "-sS", "-o", "/dev/null", "--proxy", proxy or self.payer.egress.url, *options),
                *("-w", "%{http_code} %header{x-402-egress}", f"{self.seller}/item/{what}"),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
            user=uid,
            check=True,
        )
        return done.stdout

    def reason(self, what: str, *options: str, uid: int | None = None) -> str:
        status, _, outcome = self.buy(what, *options, uid=uid).partition(" ")
        assert status == "402", outcome
        return outcome.removeprefix("rejected; reason=")

    def pays(self, what: str, *options: str, uid: int | None = None, proxy: str | None = None) -> bool:
        return self.buy(what, *options, uid=uid, proxy=proxy).startswith("200 paid; amount=0.001;")

    @property
    def callers(self) -> list[str]:
        return [entry["data"]["caller"] for entry in self.payer.entries("x402.payment.signed")]


@pytest.fixture
def shop(request: pytest.FixtureRequest, seller: str, chain: Chain, tmp_path: Path) -> Iterator[Shop]:
    ci = {"name": "ci", "token_sha256": hashlib.sha256(TOKEN.encode()).hexdigest()}
    x402 = getattr(request, "param", {})
    with Payer(tmp_path, [seller], chain.keys["payer"], egress={"callers": [ci]}, **x402) as payer:
        yield Shop(payer, seller)


def test_the_ledger_names_the_user_whose_program_paid(shop: Shop) -> None:
    assert shop.pays("1")
    assert shop.pays("2", uid=NOBODY_UID)
    assert shop.callers == [ME, NOBODY]


@pytest.mark.parametrize("shop", [{"callers": [ME]}], indirect=True)
def test_a_user_who_is_not_listed_does_not_pay(shop: Shop) -> None:
    assert shop.reason("1", uid=NOBODY_UID) == "caller_not_allowed"
    assert shop.pays("1")
    assert shop.callers == [ME]
    refused = shop.payer.entries("x402.payment.rejected")[0]["data"]
    assert (refused["caller"], refused["code"]) == (NOBODY, "caller_not_allowed")


@pytest.mark.parametrize(
    "shop",
    [{"callers": ["nobody"], "budgets": [{"caller": NOBODY, "daily_usd": "0.002"}]}],
    indirect=True,
)
def test_a_listed_user_pays_up_to_its_own_budget(shop: Shop) -> None:
    assert shop.pays("1", uid=NOBODY_UID)
    assert shop.pays("2", uid=NOBODY_UID)
    assert shop.reason("3", uid=NOBODY_UID) == "budget_caller"
    assert shop.reason("4") == "caller_not_allowed"
    assert shop.callers == [NOBODY, NOBODY]


@pytest.mark.parametrize(
    "shop",
    [{"callers": ["proxy:ci"], "budgets": [{"caller": "proxy:ci", "daily_usd": "0.001"}]}],
    indirect=True,
)
def test_a_token_makes_its_bearer_the_caller_it_names(shop: Shop) -> None:
    with_token = shop.payer.egress.url.replace("http://", f"http://ci:{TOKEN}@")
    assert shop.reason("1") == "caller_not_allowed"
    assert shop.pays("1", uid=NOBODY_UID, proxy=with_token)
    assert shop.reason("2", "--proxy-user", f"ci:{TOKEN}") == "budget_caller"
    assert shop.buy("3", "--proxy-user", "ci:wrong").startswith("407")
    assert shop.callers == ["proxy:ci"]
    written = shop.payer.keyd.log.read_text() + shop.payer.egress.log.read_text()
    assert TOKEN not in written
    assert "ci:wrong" not in written
