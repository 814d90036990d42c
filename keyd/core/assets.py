"""keyd's own table of tokens: decimals, EIP-712 domain and USD value never come from a server.

`DEFAULT_ASSETS` are the EVM default assets of the official x402 SDK (a test compares them); the
administrator adds more under [[assets]].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from keyd.core.money import MICROS_PER_USD


class TransferMethod(StrEnum):
    EIP3009 = "eip3009"
    PERMIT2 = "permit2"


@dataclass(frozen=True, slots=True)
class Asset:
    """One token contract, with the name and version of its EIP-712 domain."""

    network: str
    """CAIP-2, for example "eip155:8453"."""
    address: str
    """EIP-55."""
    symbol: str
    eip712_name: str
    eip712_version: str
    decimals: int
    method: TransferMethod = TransferMethod.EIP3009
    usd_per_token: int = MICROS_PER_USD
    """Micro-USD that one whole token counts for in budgets."""

    @property
    def chain_id(self) -> int:
        return int(self.network.removeprefix("eip155:"))

    def __str__(self) -> str:
        return f"{self.symbol}@{self.network}"


class AssetTable:
    """Look-up by network and contract address; the address's spelling does not matter."""

    def __init__(self, assets: Iterable[Asset]) -> None:
        self._assets = {(a.network, a.address.lower()): a for a in assets}
        self.networks = frozenset(a.network for a in self._assets.values())

    def find(self, network: str, address: str) -> Asset | None:
        return self._assets.get((network, address.lower()))

    def by_symbol(self, network: str, symbol: str) -> Asset | None:
        """The only token of that name on the network; None if there is none, or more than one."""
        found = [a for a in self._assets.values() if a.network == network and a.symbol == symbol]
        return found[0] if len(found) == 1 else None

    def payable(self, networks: Iterable[str]) -> list[Asset]:
        """Tokens of these networks that can be paid with EIP-3009."""
        wanted = frozenset(networks)
        return [
            a for a in self._assets.values() if a.network in wanted and a.method is TransferMethod.EIP3009
        ]


def _default(
    chain_id: int, address: str, symbol: str, name: str, version: str, decimals: int, method: str = "eip3009"
) -> Asset:
    return Asset(f"eip155:{chain_id}", address, symbol, name, version, decimals, TransferMethod(method))


DEFAULT_ASSETS: Final = (
    _default(8453, "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "USDC", "USD Coin", "2", 6),
    _default(84532, "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC", "USDC", "2", 6),
    _default(1, "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48", "USDC", "USD Coin", "2", 6),
    _default(43114, "0xB97EF9Ef8734C71904D8002F8b6Bc66Dd9c48a6E", "USDC", "USD Coin", "2", 6),
    _default(4326, "0xFAfDdbb3FC7688494971a79cc65DCa3EF82079E7", "MegaUSD", "MegaUSD", "1", 18, "permit2"),
    _default(143, "0x754704Bc059F8C67012fEd69BC8A327a5aafb603", "USDC", "USDC", "2", 6),
    _default(10143, "0x534b2f3A21130d7a60830c2Df862319e593943A3", "USDC", "USDC", "2", 6),
    _default(988, "0x779Ded0c9e1022225f8E0630b35a9b54bE713736", "USDT0", "USDT0", "1", 6),
    _default(2201, "0x78Cf24370174180738C5B8E352B6D14c83a6c9A9", "USDT0", "USDT0", "1", 6),
    _default(137, "0x3c499c542cEF5E3811e1192ce70d8cC03d5c3359", "USDC", "USD Coin", "2", 6),
    _default(42161, "0xaf88d065e77c8cC2239327C5EDb3A432268e5831", "USDC", "USD Coin", "2", 6),
    _default(421614, "0x75faf114eafb1BDbe2F0316DF893fd58CE46AA4d", "USDC", "USD Coin", "2", 6),
    _default(31612, "0xdD468A1DDc392dcdbEf6db6e34E89AA338F9F186", "mUSD", "Mezo USD", "1", 18, "permit2"),
    _default(31611, "0x118917a40FAF1CD7a13dB0Ef56C86De7973Ac503", "mUSD", "Mezo USD", "1", 18, "permit2"),
    _default(723487, "0x33ad9e4BD16B69B5BFdED37D8B5D9fF9aba014Fb", "SBC", "Stable Coin", "1", 6, "permit2"),
    _default(72344, "0x33ad9e4BD16B69B5BFdED37D8B5D9fF9aba014Fb", "SBC", "Stable Coin", "1", 6, "permit2"),
    _default(36900, "0x9cb8142aEBBcdc60AF7c97Af897A67A8f3CA71C2", "USDC.e", "USDC.e", "2", 6),
    _default(190415, "0x401eCb1D350407f13ba348573E5630B83638E30D", "USDC.e", "Bridged USDC", "2", 6),
    _default(181228, "0x401eCb1D350407f13ba348573E5630B83638E30D", "USDC.e", "Bridged USDC", "2", 6),
    _default(50, "0xfA2958CB79b0491CC627c1557F441eF849Ca8eb1", "USDC", "USDC", "2", 6),
    _default(51, "0xb5AB69F7bBada22B28e79C8FFAECe55eF1c771D4", "USDC", "USDC", "2", 6),
    _default(38833, "0xA5b8BF902b2844dA17d4506cc827F7F1681735E7", "USDC", "USDC", "1", 6, "permit2"),
    _default(14, "0xe7cd86e13AC4309349F30B3435a9d337750fC82D", "USDT0", "USD₮0", "1", 6),
    _default(42220, "0xcebA9300f2b948710d2653dD7B07f33A8B32118C", "USDC", "USDC", "2", 6),
    _default(42220, "0x48065fbBE25f71C9282ddf5e1cD6D6A887483D5e", "USDT", "Tether USD", "1", 6),
    _default(42220, "0xD2ab3C9A02DBBAB236BfEC45D1d755DF4267F771", "USAT", "Tether America USD", "1", 6),
    _default(11142220, "0x01C5C0122039549AD1493B8220cABEdD739BC44E", "USDC", "USDC", "2", 6),
    _default(1329, "0xe15fC38F6D8c56aF07bbCBe3BAf5708A2Bf42392", "USDC", "USDC", "2", 6),
    _default(1328, "0x4fCF1784B31630811181f670Aea7A7bEF803eaED", "USDC", "USDC", "2", 6),
    _default(5042, "0x3600000000000000000000000000000000000000", "USDC", "USDC", "2", 6),
    _default(5042002, "0x3600000000000000000000000000000000000000", "USDC", "USDC", "2", 6),
)

V1_NETWORKS: Final[Mapping[str, str]] = {
    "base": "eip155:8453",
    "base-sepolia": "eip155:84532",
    "ethereum": "eip155:1",
    "polygon": "eip155:137",
    "polygon-amoy": "eip155:80002",
    "avalanche": "eip155:43114",
    "avalanche-fuji": "eip155:43113",
    "abstract": "eip155:2741",
    "abstract-testnet": "eip155:11124",
    "iotex": "eip155:4689",
    "sei": "eip155:1329",
    "sei-testnet": "eip155:1328",
    "peaq": "eip155:3338",
    "story": "eip155:1513",
    "educhain": "eip155:656476",
    "skale-base-sepolia": "eip155:1444673419",
    "megaeth": "eip155:4326",
    "monad": "eip155:143",
    "monad-testnet": "eip155:10143",
    "stable": "eip155:988",
    "stable-testnet": "eip155:2201",
    "celo": "eip155:42220",
    "flare": "eip155:14",
}
"""Network names of protocol v1 and their CAIP-2 ids. A name that is not here is not guessed."""
