"""Staging of attacks. One keyd and one egress for each topic: a host that was attacked is told by its port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.abuse.support.pki import Pki, make_pki
from tests.abuse.support.seller import Seller
from tests.abuse.support.stage import Stage, staged
from tests.real.support.payer import Payer


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def payer(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Payer]:
    """Shared by a topic: no test may break it."""
    with staged(tmp_path_factory.mktemp("payer"), pki) as payer:
        yield payer


@pytest.fixture(scope="module")
def known_ports() -> set[int]:
    """Ports of sellers that the topic's keyd has met."""
    return set()


@pytest.fixture
async def stage(payer: Payer, pki: Pki, known_ports: set[int]) -> AsyncIterator[Stage]:
    stage = Stage(payer, pki, known_ports)
    try:
        yield stage
    finally:
        await stage.keyd.close()


@pytest.fixture
async def own_stage(pki: Pki, tmp_path: Path) -> AsyncIterator[Callable[..., Stage]]:
    """`own_stage(**x402)`: keyd and egress that the test may break, stopped at its end."""
    stages: list[Stage] = []
    with ExitStack() as running:

        def start(**x402: Any) -> Stage:
            context: AbstractContextManager[Payer] = staged(tmp_path, pki, **x402)
            stages.append(Stage(running.enter_context(context), pki, set()))
            return stages[-1]

        yield start
        for stage in stages:
            await stage.keyd.close()


@pytest.fixture
def seller() -> Seller:
    return Seller()
