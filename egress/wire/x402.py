"""The x402 wire format over HTTP: terms in, payment out, settlement in. Pure: no I/O, no clock.

Sources: x402 specs/transports-v2/http.md and specs/x402-specification-v2.md (version 2, headers);
specs/transports-v1/http.md (version 1, terms in the body). Header values are base64 of UTF-8 JSON; what
arrives is decoded liberally, what leaves is strict.

Every entry of `accepts` stays the JSON value that was received: keyd judges each one alone, and the seller
compares the echoed entry with its own, member by member.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from egress.wire import extensions, strictjson

PAYMENT_REQUIRED: Final = "PAYMENT-REQUIRED"
PAYMENT_SIGNATURE: Final = "PAYMENT-SIGNATURE"
X_PAYMENT: Final = "X-PAYMENT"
PAYMENT_RESPONSE: Final = "PAYMENT-RESPONSE"
X_PAYMENT_RESPONSE: Final = "X-PAYMENT-RESPONSE"

MAX_HEADER: Final = 128 * 1024
"""Bytes of an incoming header value. Six offers take 2 KB and a bazaar extension up to 6 KB more; the
largest seen is below 64 KB, which must be readable."""
MAX_BODY: Final = 256 * 1024
"""Bytes of a 402 body that are read as terms. The largest version 1 body seen is 6 KB."""
MAX_PAYMENT_HEADER: Final = 7500
"""Bytes of an outgoing PAYMENT-SIGNATURE. nginx, Apache and aiohttp refuse a header line above 8 KiB."""

_MAX_PAYMENT_JSON: Final = MAX_PAYMENT_HEADER // 4 * 3  # base64 makes four characters of three bytes

_LONGEST_PAYLOAD: Final = {
    "signature": "0x" + "0" * 130,
    "authorization": {
        "from": "0x" + "0" * 40,
        "to": "0x" + "0" * 40,
        "value": "0" * 78,
        "validAfter": "0" * 20,
        "validBefore": "0" * 20,
        "nonce": "0x" + "0" * 64,
    },
}
"""What the `exact` scheme signs on EVM, every member at its longest (a uint256 has 78 digits)."""
_ANY_PAYMENT_ID: Final = "0" * 32

_TX_HASH: Final = re.compile(r"0x[0-9a-fA-F]{64}")


class X402Error(ValueError):
    """What was received is not of this protocol, or is out of bounds. The text names the fault only."""


class HeaderTooLong(X402Error):
    """The payment for this offer does not fit into a header that common servers accept."""


@dataclass(frozen=True, slots=True)
class PaymentRequired:
    """The terms of one 402."""

    version: Literal[1, 2]
    accepts: tuple[Any, ...]
    """PaymentRequirements as received, not judged. None: only an extension is offered."""
    resource: Mapping[str, Any] | None = None
    extensions: Mapping[str, Any] | None = None
    error: str | None = None
    dialect: Literal["x402", "flat"] = "x402"
    """`flat`: the one entry is osModa's `{amount, asset, chain, payTo, expiry}`, which keyd puts into x402's terms."""

    @property
    def resource_url(self) -> str | None:
        """The URL that the seller says is paid for: hearsay, for the record only."""
        stated: Any = None
        if self.resource is not None:
            stated = self.resource.get("url")
        elif self.accepts and isinstance(first := self.accepts[0], dict):
            stated = first.get("resource")
        return stated if isinstance(stated, str) else None


@dataclass(frozen=True, slots=True)
class Header:
    """A request header of ours. One that pays is a bearer instrument, so the value stays out of repr()."""

    name: str
    value: str = field(repr=False)


def read_payment_required(
    header_values: Sequence[str], body: bytes, *, flat_dialect: bool = False
) -> PaymentRequired:
    """The terms of a 402 from its PAYMENT-REQUIRED header lines, else from its body.

    The header wins over the body; a malformed or repeated header falls back to it. `flat_dialect`: the header may
    be osModa's flat form. Raises X402Error if neither can be read.
    """
    if len(header_values) == 1:
        try:
            value = _decode(header_values[0])
            if flat_dialect and _is_flat(value):
                return PaymentRequired(2, (value,), dialect="flat")
            return payment_required(value, default_version=2)
        except X402Error as error:
            fault = f"header: {error}"
    else:
        fault = "more than one header" if header_values else "no header"
    if len(body) > MAX_BODY:
        raise X402Error(f"{fault}; body: too large")
    try:
        return payment_required(strictjson.loads(body), default_version=None)
    except (X402Error, strictjson.JsonError) as error:
        raise X402Error(f"{fault}; body: {error}") from None


def sendable(required: PaymentRequired) -> PaymentRequired | None:
    """The terms with only those entries whose payment could be sent; None if none could.

    To be asked before anything is signed: a payment that does not fit into a header would be open for nothing.
    """
    try:
        slim = _without_what_never_fits(required)
    except extensions.NoRoom:
        return None
    fits = []
    for i, entry in enumerate(required.accepts):
        try:
            encode_payment(slim, i, _LONGEST_PAYLOAD, _ANY_PAYMENT_ID)
        except HeaderTooLong:
            continue
        except X402Error:
            pass  # malformed: keyd says why, and never chooses it
        fits.append(entry)
    return replace(required, accepts=tuple(fits)) if fits else None


def _without_what_never_fits(required: PaymentRequired) -> PaymentRequired:
    """Makes no difference to what is sent. Without it a seller with thousands of extensions would have them measured
    anew for each offer, and everybody's traffic waits meanwhile."""
    if required.version == 1 or not required.extensions:
        return required
    return replace(required, extensions=extensions.fitting(required.extensions, _MAX_PAYMENT_JSON))


def encode_payment(
    required: PaymentRequired, accepted: int, payload: Mapping[str, Any], payment_id: str
) -> Header:
    """The header that pays `required.accepts[accepted]` with `payload`, the scheme's signed data.

    Raises HeaderTooLong if it does not fit, and X402Error as `payment_payload` does.
    """
    name = X_PAYMENT if required.version == 1 else PAYMENT_SIGNATURE
    return _payment_header(
        name, payment_payload(required, accepted, payload, payment_id, room=_MAX_PAYMENT_JSON)
    )


def payment_payload(
    required: PaymentRequired, accepted: int, payload: Mapping[str, Any], payment_id: str, *, room: int
) -> dict[str, Any]:
    """PaymentPayload: `payload` with what it pays for.

    Version 2 echoes the entry, the resource and the extensions (`egress.wire.extensions`), of which as much is left out
    as `room` bytes of JSON have no place for. Raises HeaderTooLong if a required extension is among those, and
    X402Error if the entry lacks what its version has to name.
    """
    if not 0 <= accepted < len(required.accepts):
        raise X402Error("no such offer")
    entry = required.accepts[accepted]
    if required.version == 1:
        if not isinstance(entry, dict) or not {"scheme", "network"} <= entry.keys():
            raise X402Error("the offer names no scheme or network")
        named = {"scheme": entry["scheme"], "network": entry["network"]}
        return {"x402Version": 1, **named, "payload": payload}
    message: dict[str, Any] = {"x402Version": 2, "accepted": entry, "payload": payload}
    if required.resource is not None:
        message["resource"] = required.resource
    if required.extensions:
        left = room - extensions.size({**message, "extensions": {}})
        try:
            echoed = extensions.fitting(extensions.answered(required.extensions, payment_id), left)
        except extensions.NoRoom as error:
            raise HeaderTooLong(str(error)) from None
        if echoed is not None:
            message["extensions"] = echoed
    return message


def read_settlement(header_values: Sequence[str]) -> dict[str, Any] | None:
    """The SettlementResponse of a paid answer, as received; None if there is none that can be read."""
    if len(header_values) != 1:
        return None
    try:
        value = _decode(header_values[0])
    except X402Error:
        return None
    return value if isinstance(value, dict) else None


def transaction_hash(settlement: Mapping[str, Any] | None) -> str | None:
    """`transaction` of a SettlementResponse, if it has the shape of an EVM transaction hash."""
    stated = None if settlement is None else settlement.get("transaction")
    return stated if isinstance(stated, str) and _TX_HASH.fullmatch(stated) else None


def payment_required(value: Any, *, default_version: Literal[2] | None) -> PaymentRequired:
    """PaymentRequired from its JSON value. `default_version` stands in for a missing x402Version. Raises X402Error."""
    if not isinstance(value, dict):
        raise X402Error("not an object")
    version = value.get("x402Version")
    if version is None:
        version = default_version
    # `True == 1` in Python: a boolean is no version.
    if isinstance(version, bool) or version not in (1, 2):
        raise X402Error("unknown x402Version")
    accepts = value.get("accepts")
    resource, extensions, error = value.get("resource"), value.get("extensions"), value.get("error")
    # A route that is open to past payers alone may offer nothing but an extension.
    if not isinstance(accepts, list) or not (accepts or extensions):
        raise X402Error("no accepts")
    return PaymentRequired(
        version=1 if version == 1 else 2,
        accepts=tuple(accepts),
        resource=resource if isinstance(resource, dict) else None,
        extensions=extensions if isinstance(extensions, dict) else None,
        error=error if isinstance(error, str) else None,
    )


def _is_flat(value: Any) -> bool:
    """x402's own form is told by `accepts`: a version 2 object may lack its version."""
    named = value.keys() if isinstance(value, dict) else frozenset()
    return not {"accepts", "x402Version"} & named and named >= {"amount", "asset", "chain", "payTo"}


def _payment_header(name: str, message: Mapping[str, Any]) -> Header:
    encoded = extensions.encode(message)
    if len(encoded) > _MAX_PAYMENT_JSON:
        raise HeaderTooLong("the payment does not fit into a header")
    return Header(name, base64.b64encode(encoded).decode())


def _decode(value: str) -> Any:
    if len(value) > MAX_HEADER:
        raise X402Error("too large")
    compact = "".join(value.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        raw = base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):  # ValueError: not even ASCII
        raise X402Error("not base64") from None
    try:
        return strictjson.loads(raw)
    except strictjson.JsonError as error:
        raise X402Error(str(error)) from None
