"""The official Python SDK and eth_account, as people use them. Runs in an environment of its own.

ECC_BACKEND_CLASS says what eth_account signs with (eth_keys.backends); it fails if that cannot be had.

Answers each line of JSON on standard input with one on standard output:

{"sign": n}             → milliseconds of each of n `sign_typed_data`, by eth_account
{"payload": n}          → milliseconds of each of n `create_payment_payload`
{"pay": url, "n": n}    → milliseconds of each of n paid requests with the SDK's httpx client, to `url`/NUMBER
{"versions": null}      → what is installed
"""

import asyncio
import json
import logging
import os
import sys
import time
from importlib.metadata import version
from typing import Any

import eth_keys.backends
from eth_account import Account
from x402 import x402Client
from x402.http.clients.httpx import x402HttpxClient
from x402.mechanisms.evm.exact import register_exact_evm_client
from x402.mechanisms.evm.signers import EthAccountSigner
from x402.schemas import PaymentRequired

KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"  # public, holds nothing
SELLER = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
REQUIRED = {
    "x402Version": 2,
    "error": "Payment required",
    "resource": {"url": "https://api.example.com/weather", "description": "", "mimeType": "application/json"},
    "accepts": [
        {
            "scheme": "exact",
            "network": "eip155:84532",
            "amount": "1000",
            "asset": USDC,
            "payTo": SELLER,
            "maxTimeoutSeconds": 60,
            "extra": {"name": "USDC", "version": "2"},
        }
    ],
}
TYPES = {
    "TransferWithAuthorization": [
        {"name": "from", "type": "address"},
        {"name": "to", "type": "address"},
        {"name": "value", "type": "uint256"},
        {"name": "validAfter", "type": "uint256"},
        {"name": "validBefore", "type": "uint256"},
        {"name": "nonce", "type": "bytes32"},
    ]
}
DOMAIN = {"name": "USDC", "version": "2", "chainId": 84532, "verifyingContract": USDC}

account = Account.from_key(KEY)
client = x402Client()
register_exact_evm_client(client, EthAccountSigner(account))


def sign(rounds: int) -> list[float]:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        now = int(time.time())
        message = {
            "from": account.address,
            "to": SELLER,
            "value": 1000,
            "validAfter": now - 600,
            "validBefore": now + 60,
            "nonce": os.urandom(32),
        }
        account.sign_typed_data(DOMAIN, TYPES, message)
        taken.append((time.perf_counter() - began) * 1e3)
    return taken


async def create_payloads(rounds: int) -> list[float]:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        await client.create_payment_payload(PaymentRequired.model_validate(REQUIRED))
        taken.append((time.perf_counter() - began) * 1e3)
    return taken


class Buyer:
    """One client for all rounds: its connections stay open, as in a program that calls an API often."""

    def __init__(self) -> None:
        self._http = x402HttpxClient(client, timeout=30)
        self._number = 0

    async def pay(self, url: str, rounds: int) -> list[float]:
        taken = []
        for _ in range(rounds):
            self._number += 1
            began = time.perf_counter()
            response = await self._http.get(f"{url}/{self._number}")
            await response.aread()
            taken.append((time.perf_counter() - began) * 1e3)
            if response.status_code != 200:
                raise RuntimeError(f"the SDK was not served: {response.status_code} {response.headers}")
        return taken


def versions() -> dict[str, str]:
    return {f"peer {name}": version(name) for name in ("x402", "eth-account", "coincurve", "httpx")}


def main() -> None:
    logging.disable(logging.INFO)
    signs_with = type(eth_keys.backends.get_backend()).__name__
    if signs_with != os.environ["ECC_BACKEND_CLASS"].rpartition(".")[2]:
        raise RuntimeError(f"eth_account signs with {signs_with}")
    buyer = Buyer()
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            question = json.loads(line)
            answer: Any
            if "sign" in question:
                answer = sign(question["sign"])
            elif "payload" in question:
                answer = runner.run(create_payloads(question["payload"]))
            elif "pay" in question:
                answer = runner.run(buyer.pay(question["pay"], question["n"]))
            else:
                answer = versions()
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
