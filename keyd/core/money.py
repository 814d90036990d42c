"""USD and token amounts: integers inside, decimal strings at the edges. No float exists in keyd.

USD is counted in micro-USD (1 USD = 1,000,000), tokens in atomic units (1 USDC = 10**6).
"""

from __future__ import annotations

import re
from typing import Final

MICROS_PER_USD: Final = 1_000_000
MAX_UINT256: Final = 2**256 - 1

_USD = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?", re.ASCII)
_ATOMIC = re.compile(r"[1-9][0-9]{0,77}", re.ASCII)
_DECIMAL = re.compile(r"([0-9]{1,78})(?:\.([0-9]{1,78}))?", re.ASCII)


def parse_usd(text: str) -> int:
    """Micro-USD of a decimal string such as "1.00". Raises ValueError: sign, exponent, more than six places."""
    match = _USD.fullmatch(text)
    if match is None:
        raise ValueError(
            f'{text[:40]!r} is not a USD amount: write it like "1.00", at most six decimal places'
        )
    whole, fraction = match.groups()
    return int(whole) * MICROS_PER_USD + int((fraction or "").ljust(6, "0"))


def format_usd(micros: int) -> str:
    """ "1.00", "0.001": at least two decimal places, at most six."""
    return _format(micros, 6, at_least=2)


def parse_atomic(text: object) -> int:
    """Atomic units of a decimal-digit string, 1 to 2**256-1 (x402 `amount`, EIP-3009 `value`).

    Raises ValueError for anything else: numbers, signs, leading zeros, spaces, hex, other scripts' digits.
    """
    if not isinstance(text, str) or _ATOMIC.fullmatch(text) is None or int(text) > MAX_UINT256:
        raise ValueError("not a positive decimal integer below 2^256, as a string")
    return int(text)


def parse_token_amount(text: str, decimals: int) -> int:
    """Atomic units of a decimal number of whole tokens, exactly. Raises ValueError if it is not a whole number of them."""
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError(f'{text[:40]!r} is not a decimal amount like "0.001"')
    whole, fraction = match.group(1), (match.group(2) or "").rstrip("0")
    if len(fraction) > decimals:
        raise ValueError(f"{text[:40]!r} has more than {decimals} decimal places")
    return parse_atomic((whole + fraction.ljust(decimals, "0")).lstrip("0"))


def format_token_amount(atomic: int, decimals: int) -> str:
    """Whole tokens as a decimal string, exactly: 1000 with 6 decimals is "0.001"."""
    return _format(atomic, decimals, at_least=0)


def usd_micros(atomic: int, decimals: int, usd_per_token: int) -> int:
    """What `atomic` units cost in micro-USD, rounded up, so that a budget never gives away a remainder.

    `usd_per_token` is micro-USD for one whole token.
    """
    unit: int = 10**decimals
    return -(-atomic * usd_per_token // unit)


def _format(value: int, decimals: int, *, at_least: int) -> str:
    whole, fraction = divmod(value, 10**decimals)
    digits = str(fraction).rjust(decimals, "0")[:decimals].rstrip("0").ljust(at_least, "0")
    return f"{whole}.{digits}" if digits else str(whole)
