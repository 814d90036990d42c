"""Spending more than was allowed: many at once, through crashes, clocks, broken files and several proxies."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from demo.programs import ProgramFailed
from keyd.service import REFUSALS_PER_MINUTE
from tests.abuse.support.seller import NETWORK, PRICE, Seller, offer
from tests.abuse.support.stage import Stage, domain
from tests.egress.support.upstream import Upstream
from tests.egress.support.wire import Message, decode, encode, response
from tests.real.support.payer import verify_offline


def said(answers: list[Message]) -> Counter[str]:
    """How often egress said "paid", and how often each reason code."""
    headers = [answer.get("X-402-Egress") or "nothing" for answer in answers]
    return Counter(header.removeprefix("rejected; reason=").partition(";")[0] for header in headers)


@pytest.mark.attack(31)
async def test_a_hundred_payments_just_below_the_cap_meet_the_daily_budget(
    own_stage: Callable[..., Stage], seller: Seller
) -> None:
    stage = own_stage()  # refusals are recorded up to a number in a minute: those of other tests count, too
    seller.offers = [offer(amount="99999")]
    async with stage.serving(seller) as upstream:
        async with stage.policy(daily_budget_usd=await stage.room_for(1_000_000)):
            answers = [
                answer
                for batch in range(10)
                for answer in await asyncio.gather(
                    *(stage.get(upstream, f"/{batch}/{number}") for number in range(10))
                )
            ]
        assert said(answers) == {"paid": 10, "budget_daily": 90}
        assert await stage.spent_at(upstream) == 10 * 99_999
        assert len(stage.entries(upstream, "x402.budget.exceeded")) == 90
        await stage.check_sells(seller, upstream)


@pytest.mark.attack(32)
async def test_two_hundred_at_once_with_room_for_five_are_five(
    own_stage: Callable[..., Stage], seller: Seller, tmp_path: Path
) -> None:
    clock = Clock(tmp_path / "clock")
    clock.stand_still()  # all are of one minute, however long they take
    stage = own_stage(clock=clock.file)
    seller.offers = [offer(maxTimeoutSeconds=600)]
    async with stage.serving(seller, tls=False) as upstream:
        room = await stage.room_for(6 * PRICE - 1)
        async with stage.policy(daily_budget_usd=room, allow=[domain(upstream)]):
            answers = await asyncio.gather(*(stage.get(upstream, f"/{number}") for number in range(200)))
            assert said(answers) == {"paid": 5, "budget_daily": 195}
            assert len(set(seller.payments)) == len(stage.signed(upstream)) == 5
            # A flood is counted: not each of it is an entry of its own.
            assert stage.rejected(upstream) == ["budget_daily"] * REFUSALS_PER_MINUTE
        async with stage.policy(allow=[domain(upstream)]):
            await stage.check_sells(seller, upstream)


@pytest.mark.attack(33)
async def test_kill_9_in_the_middle_of_payments_counts_every_one(stage: Stage, seller: Seller) -> None:
    """What sellers hold is on record and counts as spent, wherever keyd was when it died."""
    enough = asyncio.Event()

    def answer(request: Message) -> bytes:
        if len(seller.payments) >= died_after:
            enough.set()
        return seller.honest_answer(request)

    async with stage.serving(seller) as upstream:
        for died_after in (1, 8, 20):
            seller.forget()
            seller.answer = answer
            enough.clear()
            programs = asyncio.gather(
                *(stage.get(upstream, f"/{died_after}/{number}") for number in range(30))
            )
            await enough.wait()
            stage.payer.keyd.program.kill()
            answers = await programs
            held = {decode(payment)["payload"]["authorization"]["nonce"] for payment in seller.payments}
            assert len(held) >= died_after
            assert set(said(answers)) <= {"paid", "keyd_unreachable"}

            await asyncio.to_thread(stage.payer.keyd.start)
            signed = stage.signed(upstream)
            assert held <= {data["authorization"]["nonce"] for data in signed}
            assert await stage.spent_at(upstream) == sum(data["usd_micros"] for data in signed)
            assert verify_offline(stage.payer.keyd).ok
            seller.forget()
            await stage.check_sells(seller, upstream, f"/{died_after}/control")


@dataclass
class Clock:
    """keyd's clock."""

    file: Path

    def move_to(self, moment: datetime) -> None:
        """It runs on from there."""
        offset = moment - datetime.now(UTC)
        self._write(str(round(offset.total_seconds() * 1_000_000)))

    def stand_still(self) -> None:
        """At the present moment."""
        self._write(f"={time.time_ns() // 1000}")

    def _write(self, text: str) -> None:
        draft = self.file.with_suffix(".new")
        draft.write_text(text)
        draft.rename(self.file)


@pytest.fixture
def clocked_stage(own_stage: Callable[..., Stage], tmp_path: Path) -> tuple[Stage, Clock]:
    """A day's budget of three payments, and a clock that the test moves."""
    clock = Clock(tmp_path / "clock")
    clock.move_to(datetime.now(UTC))
    return own_stage(clock=clock.file, daily_budget_usd="0.003"), clock


def trusting(seller: Seller) -> Seller:
    """Takes payments whatever the time: its own clock is not keyd's."""
    receipt = {"success": True, "transaction": "0x" + "ab" * 32, "network": NETWORK}
    seller.answer = lambda _: response(200, {"PAYMENT-RESPONSE": encode(receipt)}, b"content")
    return seller


async def buy(stage: Stage, upstream: Upstream, purchases: range) -> Counter[str]:
    return said([await stage.get(upstream, f"/{number}") for number in purchases])


@pytest.mark.attack(34)
async def test_a_clock_that_jumps_never_unspends(clocked_stage: tuple[Stage, Clock], seller: Seller) -> None:
    stage, clock = clocked_stage
    noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    async with stage.serving(trusting(seller)) as upstream:
        clock.move_to(noon)
        assert await buy(stage, upstream, range(5)) == {"paid": 3, "budget_daily": 2}
        clock.move_to(noon - timedelta(days=1))
        assert await buy(stage, upstream, range(5, 7)) == {"budget_daily": 2}
        clock.move_to(noon - timedelta(days=3650))
        assert await buy(stage, upstream, range(7, 9)) == {"budget_daily": 2}
        clock.move_to(noon + timedelta(days=1))
        assert await buy(stage, upstream, range(9, 14)) == {"paid": 3, "budget_daily": 2}
        clock.move_to(noon)
        assert await buy(stage, upstream, range(14, 16)) == {"budget_daily": 2}
    assert stage.rejected(upstream) == ["budget_daily"] * 10
    assert verify_offline(stage.payer.keyd).ok


@pytest.mark.attack(34)
async def test_a_burst_over_midnight_meets_both_days_budgets(
    clocked_stage: tuple[Stage, Clock], seller: Seller
) -> None:
    stage, clock = clocked_stage
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    async with stage.serving(trusting(seller)) as upstream:
        clock.move_to(midnight - timedelta(seconds=60))
        before = [stage.get(upstream, f"/{number}") for number in range(20)]
        burst = asyncio.gather(*before)
        await asyncio.to_thread(clock.move_to, midnight)
        answers = [*await burst, *[await stage.get(upstream, f"/{number}") for number in range(20, 30)]]
        paid_on = Counter(data["day"] for data in stage.signed(upstream))
    assert paid_on[midnight.strftime("%Y-%m-%d")] == 3
    assert max(paid_on.values()) == 3
    assert said(answers)["paid"] == paid_on.total()


# -- broken files ----------------------------------------------------------------------------------------


def overwrite(content: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(content)

    return damage


def make_public(path: Path) -> None:
    path.chmod(0o644)


def prepend_typo(path: Path) -> None:
    path.write_bytes(b'sokcet = "/tmp/x"\n' + path.read_bytes())


STOPPED = [
    ("keyd.toml", overwrite(b"[x402\n"), "keyd.toml"),
    ("keyd.toml", prepend_typo, "unknown key 'sokcet'"),
    ("keyd.toml", Path.unlink, "keyd.toml"),
    ("keyd/ledger.sqlite3", overwrite(b"not a ledger" * 1000), "file is not a database"),
    ("keyd/ledger.sqlite3", overwrite(b""), "it is empty, which a ledger never is"),
    ("keyd/ledger.sqlite3", Path.unlink, "is missing, but there are wallets"),
    ("kek", overwrite(b"too short"), "holds no key"),
    ("kek", Path.unlink, "is missing, but there are wallets that it seals"),
    ("kek", make_public, "can be read by others"),
]
"""What is done to which file, and what keyd says when it refuses to start."""


@contextmanager
def damaged(file: Path, damage: Callable[[Path], None]) -> Iterator[None]:
    kept = file.with_name(file.name + ".kept")
    shutil.copy2(file, kept)
    try:
        damage(file)
        yield
    finally:
        kept.replace(file)


async def check_nothing_is_paid(stage: Stage, code: str) -> None:
    seller = Seller()
    async with stage.serving(seller) as upstream:
        answer = await stage.get(upstream)
        assert (answer.status, answer.get("X-402-Egress")) == (402, f"rejected; reason={code}")
        seller.refuse = lambda _: response(200, {}, b"free")
        assert (await stage.get(upstream)).body == b"free"
        assert seller.payments == []


async def check_pays(stage: Stage) -> None:
    async with stage.serving(seller := Seller()) as upstream:
        await stage.check_sells(seller, upstream)


@pytest.mark.attack(35)
async def test_a_broken_policy_ledger_or_key_stops_keyd_and_nothing_else(
    stage: Stage,
) -> None:
    keyd = stage.payer.keyd
    await check_pays(stage)
    keyd.stop()
    for name, damage, words in STOPPED:
        with damaged(stage.payer.folder / name, damage):
            with pytest.raises(ProgramFailed) as failed:
                await asyncio.to_thread(keyd.start)
            words_of_keyd = str(failed.value)
            assert words in words_of_keyd, name
            assert "osmoda-keyd: hint: " in words_of_keyd
            assert "Traceback" not in words_of_keyd
    await check_nothing_is_paid(stage, "keyd_unreachable")
    await asyncio.to_thread(keyd.start)
    await check_pays(stage)


@pytest.mark.attack(35)
@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (overwrite(b"{}"), "wallet_unreadable"),
        (overwrite(b"\xff" * 500), "wallet_unreadable"),
        (overwrite(b""), "wallet_unreadable"),
        (Path.unlink, "wallet_missing"),
    ],
)
async def test_a_broken_wallet_pays_nothing(
    stage: Stage, damage: Callable[[Path], None], code: str, seller: Seller
) -> None:
    async with stage.serving(seller) as upstream:
        with damaged(stage.payer.keyd.state / "wallets/default.json", damage):
            stage.check_refused(await stage.get(upstream), upstream, code)
        await stage.check_sells(seller, upstream)


@pytest.mark.attack(35)
async def test_an_edited_overrides_file_changes_nothing(stage: Stage) -> None:
    """keyd's record says what is in force; the file is for people to read."""
    file = stage.payer.keyd.state / "overrides.toml"
    async with stage.policy(max_payment_usd="0.0005"):
        written = file.read_bytes()
        stage.payer.keyd.stop()
        file.write_bytes(written.replace(b"0.0005", b"5000.0"))
        await asyncio.to_thread(stage.payer.keyd.start)
        assert file.read_bytes() == written
        async with stage.serving(Seller()) as upstream:
            stage.check_refused(await stage.get(upstream), upstream, "cap_per_payment")
    await check_pays(stage)


@pytest.mark.attack(36)
async def test_two_proxies_on_one_keyd_have_one_budget(stage: Stage, seller: Seller, tmp_path: Path) -> None:
    second = stage.payer.another_egress(tmp_path)
    await asyncio.to_thread(second.start)
    try:
        async with stage.serving(seller, tls=False) as upstream:

            async def buy_through(url: str, number: int) -> Message:
                async with stage.app(upstream, url) as app:
                    return await app.get(f"/{number}")

            urls = [stage.payer.egress.url, second.url]
            purchases: list[Awaitable[Message]] = [buy_through(urls[n % 2], n) for n in range(40)]
            room = await stage.room_for(5 * PRICE)
            async with stage.policy(daily_budget_usd=room, allow=[domain(upstream)]):
                answers = await asyncio.gather(*purchases)
            assert said(answers) == {"paid": 5, "budget_daily": 35}
            assert len(set(seller.payments)) == 5
            async with stage.policy(allow=[domain(upstream)]):
                for url, number in zip(urls, (100, 101), strict=True):
                    assert (await buy_through(url, number)).status == 200
    finally:
        second.stop()
