"""After paid traffic, no file and no log has the key, a signature or a payment header in it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data

from keyd.core.assets import DEFAULT_ASSETS
from tests.real.support.clients import fetch
from tests.real.support.counterparts import Chain
from tests.real.support.payer import Payer, contents

pytestmark = pytest.mark.real

FIELDS = {
    "from": "address",
    "to": "address",
    "value": "uint256",
    "validAfter": "uint256",
    "validBefore": "uint256",
    "nonce": "bytes32",
}


def _signature(authorization: dict[str, str], key: str) -> bytes:
    """The signature that keyd gave: signing is deterministic (RFC 6979), so it can be made again."""
    usdc = next(asset for asset in DEFAULT_ASSETS if asset.network == "eip155:84532")
    domain = {
        "name": usdc.eip712_name,
        "version": usdc.eip712_version,
        "chainId": usdc.chain_id,
        "verifyingContract": usdc.address,
    }
    types = {"TransferWithAuthorization": [{"name": name, "type": kind} for name, kind in FIELDS.items()]}
    message = {
        name: int(value) if FIELDS[name] == "uint256" else value for name, value in authorization.items()
    }
    typed = encode_typed_data(domain_data=domain, message_types=types, message_data=message)
    return bytes(Account.sign_message(typed, key).signature)


def _spellings(secret: bytes) -> list[bytes]:
    """Raw, in hex, and the hex inside base64 at each of the three alignments it can have there."""
    digits = secret.hex().encode()
    # Characters that mix with what stands before or after are cut off.
    in_base64 = [base64.b64encode(b"x" * shift + digits)[4:-4] for shift in range(3)]
    return [secret, digits, digits.upper(), *in_base64]


def _files_with(secret: bytes, folder: Path) -> list[str]:
    return [
        str(file.relative_to(folder))
        for file, content in contents(folder).items()
        if any(spelling in content for spelling in _spellings(secret))
    ]


def test_secrets_stay_out_of_files_and_logs(chain: Chain, server_http: str, tmp_path: Path) -> None:
    key = chain.keys["payer"]
    with Payer(tmp_path, [server_http], key) as payer:
        for path in ("weather", "weather", "boom", "dear"):
            fetch("curl", f"{server_http}/{path}", payer.environment)
        signed = [entry["data"]["authorization"] for entry in payer.entries("x402.payment.signed")]
        while_running = _files_with(bytes.fromhex(key), tmp_path)
        tails = [payer.succeed("ledger", "tail", "--json"), payer.succeed("wallet", "list")]
    assert len(signed) == 3

    assert while_running == _files_with(bytes.fromhex(key), tmp_path) == []
    assert all(key not in text for text in tails)
    for authorization in signed:
        signature = _signature(authorization, key)
        for part in (signature, signature[:32], signature[32:64]):  # all of it, r, s
            assert _files_with(part, tmp_path) == []
            assert all(part.hex() not in text for text in tails)
    # The search finds what is there: nonces are no secrets, and the ledger has them.
    nonce = bytes.fromhex(signed[0]["nonce"][2:])
    assert "keyd/ledger.sqlite3" in _files_with(nonce, tmp_path)


def test_the_search_finds_a_secret_inside_a_payment_header(tmp_path: Path) -> None:
    secret = bytes(range(65))
    for padding in ("", "1", "12"):
        payload = {"x402Version": 2, "pad": padding, "payload": {"signature": "0x" + secret.hex()}}
        header = base64.b64encode(json.dumps(payload).encode())
        (tmp_path / "egress.log").write_bytes(b"GET /weather PAYMENT-SIGNATURE: " + header + b"\n")
        assert _files_with(secret, tmp_path) == ["egress.log"]
