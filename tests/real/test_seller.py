"""The demo's seller stands in for the official server where speed counts. It must judge as that one does."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from keyd.api import Caller, Origin, SignReply, SignRequest
from keyd.client import KeydClient
from tests.real.support import counterparts
from tests.real.support.counterparts import Chain
from tests.real.support.payer import Payer

pytestmark = pytest.mark.real

Payload = dict[str, Any]


def _flip(text: str, at: int) -> str:
    return text[:at] + ("1" if text[at] != "1" else "2") + text[at + 1 :]


def _forge_signature(payload: Payload) -> None:
    payload["payload"]["signature"] = _flip(payload["payload"]["signature"], 20)


def _raise_value(payload: Payload) -> None:
    payload["payload"]["authorization"]["value"] = "1001"


def _expire(payload: Payload) -> None:
    payload["payload"]["authorization"]["validBefore"] = "1"


def _change_recipient(payload: Payload) -> None:
    payload["payload"]["authorization"]["to"] = "0x00000000000000000000000000000000000000AA"


@pytest.fixture
def paying(chain: Chain, seller: str, tmp_path: Path) -> Iterator[Payer]:
    folder = tmp_path / "payer"
    folder.mkdir()
    with Payer(folder, [seller], chain.keys["payer"]) as running:
        yield running


async def _sign(payer: Payer, url: str) -> tuple[Payload, dict[str, Any]]:
    """A payment for `url`, as egress would send it, and the requirements that it answers."""
    async with httpx.AsyncClient(timeout=60) as client:
        refused = await client.get(url)
    required = json.loads(base64.b64decode(refused.headers["PAYMENT-REQUIRED"]))
    request = SignRequest(
        origin=Origin(scheme="http", host="127.0.0.1", port=int(url.split(":")[2].split("/")[0])),
        method="GET",
        path="/weather",
        fingerprint="ab" * 32,
        caller=Caller(uid=1000),
        x402_version=2,
        offers=required["accepts"],
    )
    async with KeydClient(str(payer.keyd.socket)) as keyd:
        reply: SignReply = await keyd.sign(request)
    inner = reply.payload.model_dump(by_alias=True)
    accepted = required["accepts"][reply.accepted]
    return {"x402Version": 2, "accepted": accepted, "payload": inner}, accepted


def _seller_accepts(url: str, payload: Payload) -> bool:
    header = base64.b64encode(json.dumps(payload).encode()).decode()
    answer = httpx.get(url, headers={"PAYMENT-SIGNATURE": header}, timeout=60)
    assert answer.status_code in (200, 402)
    return answer.status_code == 200


async def test_seller_and_official_facilitator_accept_the_same_payment(
    paying: Payer, seller: str, facilitator: str
) -> None:
    payload, requirements = await _sign(paying, f"{seller}/weather")

    assert counterparts.ask_facilitator(facilitator, payload, requirements)["isValid"] is True
    assert _seller_accepts(f"{seller}/weather", payload)
    # Only the seller took it: the facilitator was asked to verify, not to settle.
    assert not _seller_accepts(f"{seller}/weather", payload), "an authorization is good for one answer"


@pytest.mark.parametrize("damage", [_forge_signature, _raise_value, _expire, _change_recipient])
async def test_seller_and_official_facilitator_refuse_the_same_payment(
    damage: Callable[[Payload], None], paying: Payer, seller: str, facilitator: str
) -> None:
    payload, requirements = await _sign(paying, f"{seller}/weather")

    damage(payload)

    assert counterparts.ask_facilitator(facilitator, payload, requirements)["isValid"] is False
    assert not _seller_accepts(f"{seller}/weather", payload)
