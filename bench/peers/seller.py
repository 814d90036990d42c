"""A paid API that costs next to nothing: what is measured in front of it is the buyer.

It sells what demo.seller sells, and keeps the same books: terms, signature and nonce of every payment are verified. Only
the hash that was signed (EIP-712) is worked out by hand, because eth_account takes ten times as long for it. At the
start the two are held against each other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
from collections.abc import Mapping

from coincurve import PublicKey
from Crypto.Hash import keccak
from eth_account import Account

from demo import seller
from demo.seller import CHAIN_ID, PRICES, USDC, Books, PaymentRefused

_ANSWER = (
    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{more}\r\n{body}"
)
_CONTENT = json.dumps({"weather": "sunny", "temperature": 21})


def _keccak(data: bytes) -> bytes:
    return keccak.new(digest_bits=256, data=data).digest()


def _address(address: str) -> bytes:
    return bytes(12) + bytes.fromhex(address.removeprefix("0x"))


_DOMAIN_SEPARATOR = _keccak(
    _keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
    + _keccak(b"USDC")
    + _keccak(b"2")
    + CHAIN_ID.to_bytes(32)
    + _address(USDC)
)
_TYPE_HASH = _keccak(
    b"TransferWithAuthorization(address from,address to,uint256 value,"
    b"uint256 validAfter,uint256 validBefore,bytes32 nonce)"
)


def signer_of(authorization: Mapping[str, str], signature: str) -> str:
    """As demo.seller.signer_of. Raises ValueError."""
    struct = b"".join(
        (
            _TYPE_HASH,
            _address(authorization["from"]),
            _address(authorization["to"]),
            *(int(authorization[name]).to_bytes(32) for name in ("value", "validAfter", "validBefore")),
            bytes.fromhex(authorization["nonce"].removeprefix("0x")),
        )
    )
    digest = _keccak(b"\x19\x01" + _DOMAIN_SEPARATOR + _keccak(struct))
    signed = bytes.fromhex(signature.removeprefix("0x"))
    try:
        key = PublicKey.from_signature_and_message(
            signed[:64] + bytes([signed[64] - 27]), digest, hasher=None
        )
    except Exception as error:
        raise ValueError("nobody signed this") from error
    return "0x" + _keccak(key.format(compressed=False)[1:])[-20:].hex()


class Connection(asyncio.Protocol):
    """Keep-alive, GET alone, one request at a time."""

    asked_for_payment = 0
    """How many 402s were answered, on all connections."""

    def __init__(self, books: Books, away_s: float) -> None:
        self._books = books
        self._away_s = away_s
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._received.endswith(b"\r\n\r\n"):
            return
        answer, self._received = self._answer(self._received.decode("latin-1")), b""
        if self._away_s:
            asyncio.get_running_loop().call_later(self._away_s, self._transport.write, answer)
        else:
            self._transport.write(answer)

    def _answer(self, request: str) -> bytes:
        start, *lines = request.split("\r\n")
        path = start.split(" ")[1]
        if path == "/free":
            return _message("200 OK", '{"free": true}')
        if path == "/books":
            return _message("200 OK", json.dumps(self._books.sales))
        if path == "/asked":
            return _message("200 OK", json.dumps(Connection.asked_for_payment))
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        price = PRICES["/" + path.split("/")[1]]
        if (payment := fields.get("payment-signature")) is None:
            return self._payment_required(fields["host"] + path, price, "Payment required")
        try:
            settled = self._books.settle(payment, price, path)
        except PaymentRefused as refusal:
            return self._payment_required(fields["host"] + path, price, str(refusal))
        return _message("200 OK", _CONTENT, f"PAYMENT-RESPONSE: {seller.encode(settled)}\r\n")

    def _payment_required(self, where: str, price: int, error: str) -> bytes:
        Connection.asked_for_payment += 1
        terms = seller.required(f"http://{where}", self._books.requirements(price), error)
        return _message("402 Payment Required", "{}", f"PAYMENT-REQUIRED: {terms}\r\n")


def _message(status: str, body: str, more: str = "") -> bytes:
    return _ANSWER.format(status=status, length=len(body), more=more, body=body).encode()


def check_hash() -> None:
    """Raises AssertionError if the two ways to find a signer do not agree."""
    account = Account.create()
    authorization = {
        "from": account.address,
        "to": USDC,
        "value": "1000",
        "validAfter": "1700000000",
        "validBefore": "1700000600",
        "nonce": "0x" + secrets.token_hex(32),
    }
    signature = account.sign_message(seller.signable(authorization)).signature.hex()
    found = {ours(authorization, signature).lower() for ours in (signer_of, seller.signer_of)}
    assert found == {account.address.lower()}, found


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pay-to", required=True, help="address that is to be paid")
    parser.add_argument("--away-ms", type=float, default=0.0, help="how much later each answer leaves")
    arguments = parser.parse_args()
    check_hash()
    books = Books(arguments.pay_to, signer_of)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(books, arguments.away_ms / 1e3), "127.0.0.1", 0, backlog=1024
    )
    port = server.sockets[0].getsockname()[1]
    print(json.dumps({"event": "seller.ready", "url": f"http://127.0.0.1:{port}"}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
