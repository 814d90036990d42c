"""Asks a JSON-RPC server what an address holds (ERC-20 `balanceOf`)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal, localcontext
from typing import Any, Final

import aiohttp

from keyd.api import WalletToken

_BALANCE_OF: Final = "0x70a08231"  # first four bytes of keccak256("balanceOf(address)")
_TIMEOUT_S: Final = 10.0
_MAX_ANSWER: Final = 64 * 1024  # a balance is 100 bytes; whatever is longer is no answer to this
_QUANTITY: Final = re.compile(r"0x[0-9a-fA-F]{1,64}", re.ASCII)


class RpcFault(Exception):
    """The server did not answer, or not what was asked; in words, without its URL."""


async def balances(url: str, address: str, tokens: Sequence[WalletToken]) -> list[tuple[WalletToken, str]]:
    """What `address` holds of those `tokens` that are of the server's network, in whole tokens. Raises RpcFault."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
            chain_id = await _quantity(session, url, "eth_chainId", [])
            found = []
            for token in tokens:
                if token.network == f"eip155:{chain_id}":
                    data = _BALANCE_OF + address.removeprefix("0x").lower().rjust(64, "0")
                    call = [{"to": token.address, "data": data}, "latest"]
                    found.append(
                        (token, whole(await _quantity(session, url, "eth_call", call), token.decimals))
                    )
            return found
    except TimeoutError:
        raise RpcFault(f"no answer within {_TIMEOUT_S:.0f} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise RpcFault(f"cannot be asked ({type(error).__name__})") from None


async def _quantity(session: aiohttp.ClientSession, url: str, method: str, params: list[Any]) -> int:
    question = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    async with session.post(url, json=question) as response:
        answer = json.loads(await response.content.read(_MAX_ANSWER))
    result = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(result, str) or _QUANTITY.fullmatch(result) is None:
        raise RpcFault(f"{method} was not answered with a number")
    return int(result, 16)


def whole(atomic: int, decimals: int) -> str:
    """Atomic units as a decimal string of whole tokens, exactly, without zeros at its end."""
    with localcontext(prec=78 + decimals):  # 2**256 has 78 digits
        text = f"{Decimal(atomic).scaleb(-decimals):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
