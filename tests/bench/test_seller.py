"""The seller of the benches verifies what it sells for, however little that costs."""

from __future__ import annotations

import pytest
from eth_account import Account

from bench.peers.seller import check_hash, signer_of
from demo import seller

ACCOUNT = Account.from_key("0x" + "11" * 32)
AUTHORIZATION = {
    "from": ACCOUNT.address,
    "to": seller.USDC,
    "value": "1000",
    "validAfter": "1700000000",
    "validBefore": "1700000600",
    "nonce": "0x" + "ab" * 32,
}
SIGNATURE = "0x" + ACCOUNT.sign_message(seller.signable(AUTHORIZATION)).signature.hex()


def test_it_finds_the_signer_that_eth_account_finds() -> None:
    check_hash()
    assert signer_of(AUTHORIZATION, SIGNATURE) == ACCOUNT.address.lower()


@pytest.mark.parametrize("member", ["to", "value", "validAfter", "validBefore", "nonce"])
def test_a_changed_authorization_has_another_signer(member: str) -> None:
    other = {"to": "0x" + "22" * 20, "nonce": "0x" + "cd" * 32}.get(member, "1")
    assert signer_of({**AUTHORIZATION, member: other}, SIGNATURE) != ACCOUNT.address.lower()


@pytest.mark.parametrize("signature", ["0x" + "00" * 65, "0x" + "ff" * 65, "0x"])
def test_what_nobody_signed_has_no_signer(signature: str) -> None:
    with pytest.raises(ValueError, match="nobody signed this"):
        signer_of(AUTHORIZATION, signature)
