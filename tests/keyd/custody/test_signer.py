"""Every endpoint once, with a witness beside the wallet's key: who has something signed, and who wrote it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data

from keyd import api
from keyd.custody.keystore import Payer
from tests.keyd.conftest import PAYER, USDC, Keyd, offer, sign_request
from tests.keyd.test_signins import request_at

PASSPHRASE = "correct horse battery"
MALICE = {"nonce": "0x" + "66" * 32, "validBefore": "99999999999", "digest": "0x" + "66" * 32}
"""What a seller could write beside his terms."""


@dataclass
class Questions:
    """Asks keyd, and notes which endpoints were asked and which of them made the wallet's key sign."""

    keyd: Keyd
    asked: set[str] = field(default_factory=set)
    signing: list[str] = field(default_factory=list)
    name: str = ""

    async def ask(self, name: str, body: Any = None, id_: str = "") -> dict[str, Any]:
        endpoint = api.ENDPOINTS[name]
        self.name = name
        self.asked.add(name)
        status, answer = await self.keyd.raw(endpoint.method, endpoint.path.replace("{id}", id_), body)
        assert status == 200, (name, answer)
        return answer


@pytest.fixture
def questions(keyd: Keyd, monkeypatch: pytest.MonkeyPatch) -> Questions:
    questions = Questions(keyd)
    real = Payer.sign

    def witnessed(payer: Payer, digest: bytes) -> str:
        questions.signing.append(questions.name)
        return real(payer, digest)

    monkeypatch.setattr(Payer, "sign", witnessed)
    return questions


async def test_only_a_payment_and_a_sign_in_are_signed_whatever_is_asked(
    keyd: Keyd, questions: Questions
) -> None:
    """An endpoint that is new has to be asked here, too."""
    ask = questions.ask
    for name in ("health", "metrics", "policy", "wallet_list", "kek", "ledger_entries", "ledger_head"):
        await ask(name)
    payment = (await ask("sign", sign_request().model_dump(mode="json")))["payment_id"]
    await ask("outcome", {"payment_id": payment, "http_status": 200})
    keyd.rig.clock.now_us += 120_000_000
    proof = {"block_number": 1, "block_hash": "0x" + "11" * 32, "sources": 1}
    stamp = {"block_timestamp": keyd.rig.clock.now_us // 1_000_000}
    await ask("evidence", {"payment_id": payment, "used": True} | proof | stamp)
    await ask("policy_change", {"signin_allow": ["api.example.com"]})
    await ask("signin", request_at(keyd.rig).model_dump(mode="json"))
    for name in ("spend", "payments", "refusals", "open_payments"):
        await ask(name)
    await ask("payment", id_=payment)
    await held_payments(keyd, questions)
    await ask("freeze", {"reason": "test"})
    await ask("unfreeze")
    await sessions_and_quotes(questions)
    await wallets(questions)
    await ask("policy_reset", {})
    await ask("ledger_checkpoint")
    await ask("ledger_verify", {"against": []})
    assert questions.asked == api.ENDPOINTS.keys()
    assert questions.signing == ["sign", "signin"]


async def held_payments(keyd: Keyd, questions: Questions) -> None:
    """Approved or not: a held payment is signed when its program asks again, and not before."""
    keyd.rig.policy(approve_above=1)
    for what, decision in ((8, "reject"), (9, "approve")):
        dear = sign_request(offer("50000"), what=what).model_dump(mode="json")
        status, _ = await keyd.raw("POST", "/x402/sign", dear)
        assert status == 403
        (waiting,) = (await questions.ask("policy"))["pending"]
        await questions.ask(decision, id_=waiting["id"])


async def sessions_and_quotes(questions: Questions) -> None:
    opened = await questions.ask("session_open", {"label": "research", "budget_usd": "1.00"})
    await questions.ask("session_list")
    await questions.ask("session_close", id_=opened["session"]["id"])
    terms = sign_request().model_dump(mode="json")
    asked = {name: terms[name] for name in ("origin", "method", "path", "x402_version", "offers")}
    await questions.ask("quote", asked)


async def wallets(questions: Questions) -> None:
    ask = questions.ask
    await ask("wallet_create", {"label": "second"})
    await ask("wallet_import", {"label": "third", "private_key": "11" * 32})
    await ask("wallet_show", id_="second")
    await ask("wallet_archive", {"label": "second"})
    await ask("wallet_restore", {"label": "second"})
    await ask("wallet_default", {"label": "default"})
    await ask("wallet_export", {"label": "second", "confirm": "second", "passphrase": PASSPHRASE})
    made = await ask("backup", {"passphrase": PASSPHRASE})
    await ask("backup_part", id_=made["id"])
    await ask("kek_rotate", {"new_kek": "11" * 32})


async def test_the_signed_payment_is_of_keyds_own_making(keyd: Keyd) -> None:
    """Rebuilt by another implementation from what keyd answered, and from constants of the token."""
    asked = sign_request(offer("1000", extra={"name": "Other", "version": "9"} | MALICE, **MALICE))
    status, answer = await keyd.raw("POST", "/x402/sign", asked.model_dump(mode="json"))
    assert status == 403, "name and version that are not the token's"
    asked = sign_request(offer("1000", extra={"name": "USDC", "version": "2"} | MALICE, **MALICE))
    status, answer = await keyd.raw("POST", "/x402/sign", asked.model_dump(mode="json"))
    assert status == 200
    made = answer["payload"]["authorization"]
    assert MALICE["nonce"] != made["nonce"]
    assert int(made["validBefore"]) < int(MALICE["validBefore"])
    domain = {"name": "USDC", "version": "2", "chainId": 84532, "verifyingContract": USDC}
    fields = {"from": "address", "to": "address", "value": "uint256", "validAfter": "uint256"}
    fields |= {"validBefore": "uint256", "nonce": "bytes32"}
    types = {"TransferWithAuthorization": [{"name": n, "type": t} for n, t in fields.items()]}
    message = {name: int(made[name]) if fields[name] == "uint256" else made[name] for name in fields}
    text = encode_typed_data(domain, types, message)
    assert Account.recover_message(text, signature=answer["payload"]["signature"]) == PAYER


@pytest.mark.parametrize("foreign", ["digest", "typed_data", "nonce", "authorization", "message", "payload"])
async def test_a_request_with_something_to_sign_in_it_is_malformed(
    keyd: Keyd, questions: Questions, foreign: str
) -> None:
    for path, body in (
        ("/x402/sign", sign_request().model_dump(mode="json")),
        ("/x402/signin", request_at(keyd.rig).model_dump(mode="json")),
        ("/wallet/export", {"label": "default", "confirm": "default", "passphrase": PASSPHRASE}),
    ):
        status, answer = await keyd.raw("POST", path, body | {foreign: "0x" + "66" * 32})
        assert (status, answer["code"]) == (400, "request_malformed")
    assert questions.signing == []
