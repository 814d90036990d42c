"""What is asked of a chain and how its answers are read. Pure.

Calls are those of the Ethereum JSON-RPC specification; `authorizationState` and `AuthorizationUsed` those of
EIP-3009. Every parser takes any JSON value and raises NodeFault, and nothing else, if it is not what was asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from keyd.api import OpenPayment
from reconcile.calls import Call
from reconcile.faults import NodeFault

AUTHORIZATION_STATE: Final = "0xe94a0102"
"""Selector of `authorizationState(address,bytes32)`."""
AUTHORIZATION_USED: Final = "0x98de503528ee59b575ef0c0a2576a82497bfc029a5685b209e9ec333479b10a5"
"""Topic of `AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce)`."""

_QUANTITY: Final = re.compile(r"0x(0|[1-9a-fA-F][0-9a-fA-F]{0,12})", re.ASCII)
"""At most 52 bits: a block number or time beyond that is nonsense, and the ledger's JSON could not hold it."""
_BYTES32: Final = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Block:
    """Of a header: height, hash (lower case, 0x), Unix seconds."""

    number: int
    hash: str
    timestamp: int


def chain_id() -> Call:
    return Call("eth_chainId")


def block_by(tag_or_number: str | int) -> Call:
    """`finalized`, `safe`, `latest`, or a height; without its transactions."""
    block = tag_or_number if isinstance(tag_or_number, str) else hex(tag_or_number)
    return Call("eth_getBlockByNumber", (block, False))


def authorization_state(payment: OpenPayment, number: int) -> Call:
    """`authorizationState(payer, nonce)` of the token, as it was at block `number`."""
    data = AUTHORIZATION_STATE + _address_word(payment.payer) + payment.nonce[2:]
    return Call("eth_call", ({"to": payment.asset, "data": data}, hex(number)))


def authorization_used(payment: OpenPayment, first: int, last: int) -> Call:
    """The events that say that this authorization was used, in blocks `first` to `last` (inclusive)."""
    wanted = {
        "address": payment.asset,
        "topics": _topics(payment),
        "fromBlock": hex(first),
        "toBlock": hex(last),
    }
    return Call("eth_getLogs", (wanted,))


def parse_quantity(value: object) -> int:
    """QUANTITY of the JSON-RPC specification: hexadecimal without leading zeros."""
    if not isinstance(value, str) or _QUANTITY.fullmatch(value) is None:
        raise NodeFault("a number that is not a hexadecimal quantity")
    return int(value, 16)


def parse_block(value: object, number: int | None = None) -> Block:
    """A header; if `number` was asked for, it must be that one."""
    if not isinstance(value, dict):
        raise NodeFault("a block header that is none")
    block = Block(
        parse_quantity(value.get("number")),
        _bytes32(value.get("hash")),
        parse_quantity(value.get("timestamp")),
    )
    if number is not None and block.number != number:
        raise NodeFault(f"block {block.number} for block {number}")
    return block


def parse_bool(value: object) -> bool:
    """An ABI-encoded bool: a 32-byte word that is 0 or 1. A contract that is not there answers `0x`."""
    if value == "0x":
        raise NodeFault("no contract at the token's address")
    word = int(_bytes32(value), 16)
    if word > 1:
        raise NodeFault("a word that is not a bool")
    return word == 1


def parse_events(value: object, payment: OpenPayment, first: int, last: int) -> str | None:
    """The transaction (lower case, 0x) that used this authorization in blocks `first` to `last`, if any did."""
    if not isinstance(value, list):
        raise NodeFault("logs that are not a list")
    transactions = {_event_transaction(log, payment, first, last) for log in value}
    if len(transactions) > 1:  # EIP-3009: an authorization can be used once
        raise NodeFault("several transactions that used one authorization")
    return transactions.pop() if transactions else None


def _event_transaction(log: Any, payment: OpenPayment, first: int, last: int) -> str:
    if not isinstance(log, dict) or not isinstance(log.get("topics"), list) or log.get("removed") is True:
        raise NodeFault("a log that is none")
    asked = [payment.asset.lower(), *_topics(payment)]
    given = [log.get("address"), *log["topics"]]
    if [str(part).lower() for part in given] != asked:
        raise NodeFault("a log that was not asked for")
    if not first <= parse_quantity(log.get("blockNumber")) <= last:
        raise NodeFault("a log outside the range of blocks")
    return _bytes32(log.get("transactionHash"))


def _topics(payment: OpenPayment) -> list[str]:
    return [AUTHORIZATION_USED, "0x" + _address_word(payment.payer), payment.nonce.lower()]


def _address_word(address: str) -> str:
    """An address as a 32-byte word in hex, left-padded."""
    return address[2:].lower().rjust(64, "0")


def _bytes32(value: object) -> str:
    if not isinstance(value, str) or _BYTES32.fullmatch(value) is None:
        raise NodeFault("something that is not 32 bytes")
    return value.lower()
