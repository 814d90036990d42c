"""Messages about signing in instead of paying (x402 extension `sign-in-with-x`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from keyd.api.base import Message
from keyd.api.payments import Caller, Origin

MAX_CHAINS = 16
"""Chains looked at in one challenge, as offers of a 402."""


class SignInRequest(Message):
    """`POST /x402/signin`: a host where we have paid offers access to whoever proves to be that payer."""

    origin: Origin
    """As in SignRequest: the origin egress really connected to."""
    method: Annotated[str, StringConstraints(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}$")]
    path: Annotated[str, StringConstraints(max_length=2048)]
    """Path of the request without its query, for the record."""
    caller: Caller | None = None
    session: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    info: dict[str, Any]
    """`info` of the extension, as received."""
    supported_chains: Annotated[list[Any], Field(min_length=1, max_length=MAX_CHAINS)]
    """`supportedChains` of the extension, as received."""


class SignInProof(Message):
    """What the header SIGN-IN-WITH-X holds. keyd wrote the signed text itself, of exactly these members (EIP-4361)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    domain: str
    address: str
    uri: str
    version: Literal["1"]
    chain_id: Annotated[str, Field(alias="chainId")]
    type: Literal["eip191"]
    nonce: str
    issued_at: Annotated[str, Field(alias="issuedAt")]
    expiration_time: Annotated[str, Field(alias="expirationTime")]
    request_id: Annotated[str | None, Field(alias="requestId")] = None
    signature: str

    def __repr__(self) -> str:  # whoever has it is let in, once
        return f"SignInProof(domain={self.domain!r}, address={self.address}, signature=…)"

    __str__ = __repr__


class SignInReply(Message):
    """Its ledger entry was durable before the signature existed."""

    proof: SignInProof
