"""The EIP-712 encoder against a published vector and against eth-account."""

import coincurve
import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given, settings
from hypothesis import strategies as st

from keyd.core import eip3009
from keyd.core.assets import DEFAULT_ASSETS, Asset, TransferMethod
from keyd.core.eip3009 import Authorization
from keyd.core.evm import checksum_address
from keyd.custody.keystore import Payer, parse_private_key

DEV_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
BASE_SEPOLIA_USDC = next(a for a in DEFAULT_ASSETS if a.network == "eip155:84532")
VECTOR = Authorization(
    from_="0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
    to="0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
    value=10000,
    valid_after=1740672089,
    valid_before=1740672154,
    nonce=bytes.fromhex("f3746613c2d920b5fdabc0856f2aeb2d4f88ee6037b8cc5d04a71a4462f13480"),
)

ADDRESSES = st.binary(min_size=20, max_size=20).map(lambda raw: checksum_address("0x" + raw.hex()))
UINT256 = st.integers(0, 2**256 - 1)
AUTHORIZATIONS = st.builds(
    Authorization, ADDRESSES, ADDRESSES, UINT256, UINT256, UINT256, st.binary(min_size=32, max_size=32)
)
TOKENS = st.sampled_from([a for a in DEFAULT_ASSETS if a.method is TransferMethod.EIP3009])


def typed_data(authorization: Authorization, asset: Asset) -> dict[str, object]:
    uints = ["value", "validAfter", "validBefore"]
    members = [("from", "address"), ("to", "address"), *((u, "uint256") for u in uints), ("nonce", "bytes32")]
    domain_types = [
        ("name", "string"),
        ("version", "string"),
        ("chainId", "uint256"),
        ("verifyingContract", "address"),
    ]
    as_types = lambda pairs: [{"name": name, "type": kind} for name, kind in pairs]  # noqa: E731
    return {
        "types": {
            "EIP712Domain": as_types(domain_types),
            "TransferWithAuthorization": as_types(members),
        },
        "primaryType": "TransferWithAuthorization",
        "domain": {
            "name": asset.eip712_name,
            "version": asset.eip712_version,
            "chainId": asset.chain_id,
            "verifyingContract": asset.address,
        },
        "message": {
            "from": authorization.from_,
            "to": authorization.to,
            "value": authorization.value,
            "validAfter": authorization.valid_after,
            "validBefore": authorization.valid_before,
            "nonce": authorization.nonce,
        },
    }


def test_the_known_answer_vector_comes_out_byte_for_byte() -> None:
    digest = eip3009.digest(VECTOR, BASE_SEPOLIA_USDC)
    assert digest.hex() == "50708d3bf7216e1aeabe7bf22081b9f36c7c287530f92510318f13a03d89dc86"
    payer = Payer("dev", parse_private_key(DEV_KEY))
    assert payer.address == VECTOR.from_
    assert payer.sign(digest) == (
        "0xdc53a4a579de989368a0fae2ef2172ff2f474b4297013f865d171239f17ef4c3"
        "157b4b4030f1bebc53d55ace15c2377dff501a60e1e56c291f1000d6e78f082f1b"
    )


@settings(max_examples=60, deadline=None)
@given(AUTHORIZATIONS, TOKENS, st.integers(1, 2**255))
def test_digest_and_signature_are_those_of_eth_account(
    authorization: Authorization, asset: Asset, key: int
) -> None:
    secret = key.to_bytes(32, "big").hex()
    ours = Payer("any", parse_private_key(secret)).sign(eip3009.digest(authorization, asset))
    theirs = Account.from_key(secret).sign_message(
        encode_typed_data(full_message=typed_data(authorization, asset))
    )
    assert ours == "0x" + theirs.signature.hex().removeprefix("0x")


@given(st.binary(min_size=32, max_size=32))
def test_the_same_digest_gets_the_same_bytes_every_time(digest: bytes) -> None:
    payers = [Payer("dev", parse_private_key(DEV_KEY)) for _ in range(2)]
    assert payers[0].sign(digest) == payers[1].sign(digest)


@given(st.binary(min_size=32, max_size=32))
def test_signatures_have_a_low_s_and_recover_to_the_wallet(digest: bytes) -> None:
    payer = Payer("dev", parse_private_key(DEV_KEY))
    signature = bytes.fromhex(payer.sign(digest)[2:])
    assert (
        int.from_bytes(signature[32:64], "big")
        <= 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 // 2
    )
    key = coincurve.PublicKey.from_signature_and_message(
        signature[:64] + bytes([signature[64] - 27]), digest, hasher=None
    )
    assert key == coincurve.PrivateKey.from_hex(DEV_KEY[2:]).public_key


@given(AUTHORIZATIONS)
def test_an_authorization_survives_the_round_trip_through_the_ledger(authorization: Authorization) -> None:
    assert Authorization.from_json(authorization.as_json()) == authorization


@given(st.integers(1, 2**63), st.integers(10**9, 10**11))
def test_no_window_is_longer_than_the_cap(window_s: int, now_s: int) -> None:
    made = eip3009.authorize(
        payer=VECTOR.from_, pay_to=VECTOR.to, value=1, window_s=window_s, nonce=bytes(32), now_s=now_s
    )
    assert made.valid_before == now_s + min(window_s, eip3009.MAX_WINDOW_S)
    assert made.valid_after < now_s


@pytest.mark.parametrize("window_s", [0, -1, -(10**9)])
def test_a_window_that_is_not_positive_is_refused(window_s: int) -> None:
    with pytest.raises(ValueError, match="at least a second"):
        eip3009.authorize(
            payer=VECTOR.from_, pay_to=VECTOR.to, value=1, window_s=window_s, nonce=bytes(32), now_s=10**9
        )


def test_a_clock_at_its_beginning_makes_no_negative_time() -> None:
    early = eip3009.authorize(
        payer="0x" + "11" * 20, pay_to="0x" + "22" * 20, value=1, window_s=60, nonce=bytes(32), now_s=5
    )
    assert (early.valid_after, early.valid_before) == (0, 65)
