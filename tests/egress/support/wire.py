"""HTTP/1 messages read from raw streams, and the base64 JSON of x402 headers: the same for both ends."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass, field
from typing import Any

TX = "0x" + "ab" * 32


@dataclass
class Message:
    start: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.start.split()[1])

    @property
    def method(self) -> str:
        return self.start.split()[0]

    @property
    def target(self) -> str:
        return self.start.split()[1]

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


def encode(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def decode(value: str | None) -> Any:
    assert value is not None
    return json.loads(base64.b64decode(value, validate=True))


OFFER: dict[str, Any] = {
    "scheme": "exact",
    "network": "eip155:84532",
    "amount": "1000",
    "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e",
    "payTo": "0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
    "maxTimeoutSeconds": 60,
    "extra": {"name": "USDC", "version": "2"},
    "unknown": ["kept", 60],
}
TERMS = {"x402Version": 2, "accepts": [OFFER], "resource": {"url": "https://seller.example/a"}}
TERMS_V1 = {
    "x402Version": 1,
    "error": "X-PAYMENT header is required",
    "accepts": [
        {**OFFER, "network": "base-sepolia", "maxAmountRequired": "1000", "resource": "https://s.example/v1"}
    ],
}
SETTLED = {"success": True, "transaction": TX, "network": "eip155:84532"}


def response(
    status: int, headers: dict[str, str] | None = None, body: bytes = b"", *, length: bool = True
) -> bytes:
    lines = [f"HTTP/1.1 {status} Status"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def payment_required(body: bytes = b"pay first", **headers: str) -> bytes:
    return response(402, {"PAYMENT-REQUIRED": encode(TERMS), **headers}, body)


def paid_answer(body: bytes = b"content", status: int = 200, **headers: str) -> bytes:
    return response(status, {"PAYMENT-RESPONSE": encode(SETTLED), **headers}, body)


async def read_message(reader: asyncio.StreamReader, *, head_only: bool = False) -> Message:
    """Raises IncompleteReadError at the end of the stream."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    start, *lines = head[:-4].split("\r\n")
    message = Message(start, [_field(line) for line in lines])
    if head_only or message.start.split()[1].startswith("1"):
        return message
    if "chunked" in (message.get("transfer-encoding") or ""):
        await _read_chunks(reader, message)
    elif (length := message.get("content-length")) is not None:
        message.body = await reader.readexactly(int(length))
    elif start.startswith("HTTP/") and message.status not in (204, 304):
        message.body = await reader.read()
    return message


async def _read_chunks(reader: asyncio.StreamReader, message: Message) -> None:
    while size := int((await reader.readline()).strip(), 16):
        message.body += await reader.readexactly(size)
        await reader.readexactly(2)
    while (line := (await reader.readline()).rstrip(b"\r\n")) != b"":
        message.trailers.append(_field(line.decode("latin-1")))


def _field(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name, value.strip()
