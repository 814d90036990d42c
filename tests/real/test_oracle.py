"""keyd's own table and encoder against the official SDK, which runs in an environment of its own."""

from __future__ import annotations

import random
from typing import Any

import pytest

from keyd.core import eip3009
from keyd.core.assets import DEFAULT_ASSETS, Asset
from tests.real.support.counterparts import ask_oracle

pytestmark = pytest.mark.real

MAX_UINT256 = 2**256 - 1


def test_the_asset_table_is_that_of_the_sdk() -> None:
    theirs = {
        (network, asset["asset"]): (
            asset["symbol"],
            asset["name"],
            asset["version"],
            asset["decimals"],
            asset.get("asset_transfer_method", "eip3009"),
        )
        for network, assets in ask_oracle({"assets": None}).items()
        for asset in assets
    }
    ours = {
        (a.network, a.address): (a.symbol, a.eip712_name, a.eip712_version, a.decimals, a.method.value)
        for a in DEFAULT_ASSETS
    }
    assert ours == theirs


def _random_authorization(rng: random.Random) -> eip3009.Authorization:
    def address() -> str:
        return "0x" + rng.randbytes(20).hex()

    return eip3009.Authorization(
        from_=address(),
        to=address(),
        value=rng.choice([1, MAX_UINT256, rng.randrange(1, 10**9), rng.getrandbits(256)]),
        valid_after=rng.choice([0, rng.randrange(2**32)]),
        valid_before=rng.choice([2**32, rng.getrandbits(64)]),
        nonce=rng.randbytes(32),
    )


def _question(authorization: eip3009.Authorization, asset: Asset) -> dict[str, Any]:
    return {
        "authorization": authorization.as_json(),
        "chain_id": asset.chain_id,
        "token": asset.address,
        "name": asset.eip712_name,
        "version": asset.eip712_version,
    }


def test_the_digest_of_random_authorizations_is_that_of_the_sdk() -> None:
    rng = random.Random(3009)
    cases = [(_random_authorization(rng), rng.choice(DEFAULT_ASSETS)) for _ in range(300)]

    theirs = ask_oracle({"digests": [_question(authorization, asset) for authorization, asset in cases]})

    ours = [eip3009.digest(authorization, asset).hex() for authorization, asset in cases]
    assert len(set(ours)) == len(cases)
    assert ours == theirs
