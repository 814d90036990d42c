"""Real counterparts, one of each for the whole run. One that cannot start fails the test that wants it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.programs import Program
from tests.real.support import counterparts
from tests.real.support.authority import make_authority
from tests.real.support.counterparts import Authority, Chain
from tests.real.support.payer import Payer


@pytest.fixture(scope="session")
def counterparts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of the counterparts, and files that they read."""
    return tmp_path_factory.mktemp("counterparts")


@pytest.fixture(scope="session")
def chain(counterparts_folder: Path) -> Iterator[Chain]:
    program = counterparts.chain_program(counterparts_folder)
    ready = program.start()
    yield counterparts.read_chain(ready, counterparts_folder / "chain.json")
    program.stop()


def _running(program: Program) -> Iterator[str]:
    """Its URL, for as long as a fixture lives."""
    yield program.start()["url"]
    program.stop()


@pytest.fixture(scope="session")
def facilitator(chain: Chain, counterparts_folder: Path) -> Iterator[str]:
    """URL of the official facilitator."""
    yield from _running(counterparts.facilitator_program(chain, counterparts_folder))


@pytest.fixture(scope="session")
def authority(counterparts_folder: Path) -> Authority:
    return make_authority(counterparts_folder)


@pytest.fixture(scope="session")
def server_http(chain: Chain, facilitator: str, counterparts_folder: Path) -> Iterator[str]:
    """URL of the official paid server, protocol v2, plain http."""
    yield from _running(counterparts.server_program("v2", chain, facilitator, counterparts_folder))


@pytest.fixture(scope="session")
def server_https(
    chain: Chain, facilitator: str, counterparts_folder: Path, authority: Authority
) -> Iterator[str]:
    """URL of the official paid server, protocol v2, over TLS with a certificate of `authority`."""
    yield from _running(counterparts.server_program("v2", chain, facilitator, counterparts_folder, authority))


@pytest.fixture(scope="session")
def server_v1(chain: Chain, facilitator: str, counterparts_folder: Path) -> Iterator[str]:
    """URL of the official paid server of the SDK before 2.0, protocol v1."""
    yield from _running(counterparts.server_program("v1", chain, facilitator, counterparts_folder))


@pytest.fixture(scope="session")
def server_siwx(chain: Chain, facilitator: str, counterparts_folder: Path) -> Iterator[str]:
    """URL of the official paid server that lets past payers sign in, plain http."""
    yield from _running(counterparts.server_program("siwx", chain, facilitator, counterparts_folder))


@pytest.fixture(scope="session")
def payer(
    chain: Chain,
    authority: Authority,
    server_http: str,
    server_https: str,
    server_v1: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Payer]:
    """keyd and egress, allowed to pay all official servers from the funded account."""
    folder = tmp_path_factory.mktemp("payer")
    origins = [server_http, server_https, server_v1]
    with Payer(folder, origins, chain.keys["payer"], upstream_ca=authority.ca) as running:
        yield running


@pytest.fixture
def seller(chain: Chain, tmp_path: Path) -> Iterator[str]:
    """URL of the demo's seller, which verifies as the official one does (test_seller.py) but needs no chain."""
    yield from _running(counterparts.seller_program(chain.accounts["payee"], tmp_path))
