"""Canonical JSON: one value, one sequence of bytes (RFC 8785, JSON Canonicalization Scheme).

Of JSON's numbers only integers up to 2^53-1 exist here: money is integers, larger ones are decimal
strings, and without floats the number formatting of RFC 8785 section 3.2.2.3 is that of plain integers.
"""

from __future__ import annotations

import json
from typing import Final, NoReturn

from ledger.errors import CanonicalError

MAX_INTEGER: Final = 2**53 - 1
"""The largest integer that every JSON reader keeps exact (RFC 8785 section 3.2.2.3, I-JSON RFC 7493)."""
MAX_DEPTH: Final = 64
"""Nesting of lists and objects. Offers come from strangers; `[[[[…` must end in an error, not in a
RecursionError half way through a transaction."""

_JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_SORTING: Final = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), sort_keys=True, check_circular=False
)
_TOO_LARGE: Final = "an integer is larger than 2^53-1: write it as a decimal string"


def encode(value: object) -> bytes:
    """The canonical bytes of `value`: str, bool, None, int, list, and dict with str keys.

    Raises CanonicalError for anything else, also for tuples and bytes: a value that does not come back
    as itself when the ledger is read does not go in.
    """
    return encode_and_parse(value)[0]


def encode_and_parse(value: object) -> tuple[bytes, object]:
    """The canonical bytes of `value`, and the value that whoever reads them gets: equal, and nobody else's."""
    try:
        text = encode_plain(value)
        if is_plain(encoded := text.encode()) and (parsed := parse(text)) == value:
            return encoded, parsed
    except (TypeError, ValueError, RecursionError, CanonicalError):
        pass  # the long way says what is wrong with it
    text = _JSON.encode(_sorted(value, 0))
    try:
        return text.encode(), parse(text)
    except UnicodeEncodeError as error:
        raise CanonicalError("a string holds a lone surrogate, which has no UTF-8 form") from error


def decode(data: bytes) -> object:
    """The value whose canonical bytes are `data`. Raises CanonicalError if they are not canonical.

    Duplicate keys, white space, other escapes or orders are all refused by encoding again and comparing.
    """
    try:
        text = data.decode()
        value = parse(text)
    except (ValueError, RecursionError) as error:
        raise CanonicalError("not JSON") from error
    if (encode_plain(value) if is_plain(data) else encode(value).decode()) != text:
        raise CanonicalError("not canonical JSON (RFC 8785)")
    return value


def parse(text: str) -> object:
    """The value of `text`, canonical or not. Raises ValueError, RecursionError; CanonicalError for a number that is
    no integer or too large."""
    value, end = _DECODER.raw_decode(text)
    if end != len(text):
        raise ValueError("something follows the JSON value")
    return value


def is_plain(data: bytes) -> bool:
    """Whether `encode_plain` is right for what `data` is parsed into: in ASCII the order of characters is the order
    of UTF-16 code units, and with so few brackets nothing is nested too deep."""
    return data.isascii() and data.count(b"{") + data.count(b"[") <= MAX_DEPTH


def encode_plain(value: object) -> str:
    """The same as `encode`, in a quarter of the time, for a value that is parsed from a plain text, or equal to one."""
    return _SORTING.encode(value)


def _sorted(value: object, depth: int) -> object:
    """`value` with the keys of every object in canonical order, and nothing in it that JSON would bend."""
    if depth > MAX_DEPTH:
        raise CanonicalError(f"nested deeper than {MAX_DEPTH} levels")
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, dict):
        return {key: _sorted(value[key], depth + 1) for key in sorted(value, key=_utf16_code_units)}
    if isinstance(value, list):
        return [_sorted(item, depth + 1) for item in value]
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise CanonicalError(_TOO_LARGE)
        return value
    raise CanonicalError(f"a {type(value).__name__} has no canonical form")


def _utf16_code_units(key: object) -> bytes:
    """Sort key of RFC 8785 section 3.2.3. It differs from Python's order of strings beyond U+FFFF."""
    if not isinstance(key, str):
        raise CanonicalError(f"an object's key is a {type(key).__name__}, not a string")
    return key.encode("utf-16-be", "surrogatepass")


def _integer(digits: str) -> int:
    if len(digits) > 15 and abs(int(digits)) > MAX_INTEGER:  # 15 digits always fit
        raise CanonicalError(_TOO_LARGE)
    return int(digits)


def _refuse_number(text: str) -> NoReturn:
    raise CanonicalError("a number is not an integer")


_DECODER: Final = json.JSONDecoder(
    parse_int=_integer, parse_float=_refuse_number, parse_constant=_refuse_number
)
