"""A paid shop over http and https, a keyd and an egress that may pay it, and programs started by `keyctl x402 run`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.programs.support.goods import make_goods
from tests.programs.support.machine import Machine, shop_program
from tests.real.support.authority import make_authority
from tests.real.support.payer import Payer

DEV_KEY = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
"""Known to everybody (the first account of local test chains)."""


@dataclass(frozen=True)
class Shops:
    http: str
    https: str
    untouched: str
    """https, and not on keyd's list: egress tunnels it."""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Shops, Machine]]:
    folder = tmp_path_factory.mktemp("programs")
    authority = make_authority(folder)
    goods = make_goods(folder / "goods")
    state = folder / "payer"
    state.mkdir()
    plain = shop_program(folder / "http.log", goods)
    secure = shop_program(folder / "https.log", goods, authority)
    other = shop_program(folder / "other.log", goods, authority)
    try:
        shops = Shops(plain.start()["url"], secure.start()["url"], other.start()["url"])
        payable = [shops.http, shops.https.removeprefix("https://")]
        with Payer(state, payable, DEV_KEY, upstream_ca=authority.ca) as payer:
            yield shops, Machine(folder / "home", payer, authority.ca)
    finally:
        for program in (plain, secure, other):
            program.stop()


@pytest.fixture
def shops(world: tuple[Shops, Machine]) -> Shops:
    return world[0]


@pytest.fixture
def machine(world: tuple[Shops, Machine], tmp_path: Path) -> Machine:
    world[1].work = tmp_path
    return world[1]
