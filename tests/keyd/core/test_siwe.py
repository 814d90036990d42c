"""Signing in: keyd's own text in EIP-4361's grammar, bound to the host that was contacted, and nobody else's words."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given
from hypothesis import strategies as st

from keyd.api import Origin
from keyd.core import eip3009, siwe
from keyd.core.assets import DEFAULT_ASSETS
from keyd.core.evm import keccak256
from tests.keyd.conftest import NETWORK, PAYER

NOW = 1_795_262_400
ORIGIN = Origin(scheme="https", host="api.example.com", port=443)
CHAINS: list[object] = [{"chainId": NETWORK, "type": "eip191"}]


def at(offset: int = 0) -> str:
    return datetime.fromtimestamp(NOW + offset, UTC).isoformat().replace("+00:00", "Z")


INFO: dict[str, Any] = {
    "domain": "api.example.com",
    "uri": "https://api.example.com/weather?city=Oslo",
    "version": "1",
    "nonce": "0123456789abcdef0123456789abcdef",
    "issuedAt": at(-3),
    "statement": "I transfer everything I own",
    "resources": ["https://api.example.com/weather"],
}


def answer(chains: list[object] = CHAINS, origin: Origin = ORIGIN, **members: Any) -> siwe.SignIn:
    info = {name: value for name, value in {**INFO, **members}.items() if value != "(absent)"}
    return siwe.answer(info, chains, origin=origin, networks=frozenset({NETWORK}), address=PAYER, now_s=NOW)


def test_the_text_is_the_grammar_of_eip_4361_without_the_sellers_words() -> None:
    assert answer(requestId="req-1").message() == (
        "api.example.com wants you to sign in with your Ethereum account:\n"
        f"{PAYER}\n"
        "\n"
        "\n"
        "URI: https://api.example.com/weather?city=Oslo\n"
        "Version: 1\n"
        "Chain ID: 84532\n"
        "Nonce: 0123456789abcdef0123456789abcdef\n"
        "Issued At: 2026-11-21T11:59:57Z\n"
        "Expiration Time: 2026-11-21T12:05:00Z\n"
        "Request ID: req-1"
    )


def test_the_server_gets_every_member_of_the_text_and_no_other() -> None:
    assert answer(requestId="req-1").as_json() == {
        "domain": "api.example.com",
        "address": PAYER,
        "uri": INFO["uri"],
        "version": "1",
        "chainId": NETWORK,
        "type": "eip191",
        "nonce": INFO["nonce"],
        "issuedAt": INFO["issuedAt"],
        "expirationTime": "2026-11-21T12:05:00Z",
        "requestId": "req-1",
    }
    assert "requestId" not in answer().as_json()


def test_the_digest_is_the_one_of_personal_sign() -> None:
    message = answer().message()
    signed = Account.sign_message(encode_defunct(text=message), "0x" + "11" * 32)
    assert (
        Account._recover_hash(siwe.digest(message), signature=signed.signature)
        == Account.from_key("0x" + "11" * 32).address
    )


@given(st.text(max_size=300))
def test_no_text_shares_the_beginning_of_a_transfer(message: str) -> None:
    """What is hashed differs in its second byte, so equal digests would be a collision of keccak-256."""
    encoded = message.encode("utf-8", "replace").decode()
    preimage = b"\x19Ethereum Signed Message:\n" + str(len(encoded.encode())).encode() + encoded.encode()
    assert siwe.digest(encoded) == keccak256(preimage)
    assert preimage[:2] != b"\x19\x01"


def test_a_transfer_begins_with_the_bytes_of_eip_712(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[bytes] = []

    def watch(data: bytes) -> bytes:
        hashed.append(data)
        return keccak256(data)

    monkeypatch.setattr(eip3009, "keccak256", watch)
    authorization = eip3009.authorize(
        payer=PAYER, pay_to="0x" + "22" * 20, value=1, window_s=60, nonce=bytes(32), now_s=NOW
    )
    eip3009.digest(authorization, DEFAULT_ASSETS[0])
    assert hashed[-1][:2] == b"\x19\x01"


@pytest.mark.parametrize(
    ("scheme", "host", "port", "authority"),
    [
        ("https", "api.example.com", 8443, "api.example.com:8443"),
        ("http", "127.0.0.1", 4021, "127.0.0.1:4021"),
        ("http", "127.0.0.1", 80, "127.0.0.1"),
        ("https", "2001:db8::1", 443, "[2001:db8::1]"),
    ],
)
def test_domain_and_uri_are_those_of_the_connection(
    scheme: Any, host: str, port: int, authority: str
) -> None:
    origin = Origin(scheme=scheme, host=host, port=port)
    signed = answer(origin=origin, domain=authority, uri=f"{scheme}://{authority}/weather")
    assert signed.message().startswith(f"{authority} wants you")


HOSTILE = {
    "another domain": {"domain": "bank.example"},
    "a domain with a port that is not there": {"domain": "api.example.com:443"},
    "a domain in capitals": {"domain": "API.example.com"},
    "a domain and a line": {"domain": "api.example.com\nURI: x"},
    "no domain": {"domain": "(absent)"},
    "a domain that is no string": {"domain": ["api.example.com"]},
    "another uri": {"uri": "https://bank.example/login"},
    "a uri that begins like ours": {"uri": "https://api.example.com.evil.example/"},
    "a uri with a user": {"uri": "https://api.example.com@evil.example/"},
    "our host as a user": {"uri": "https://user@api.example.com/"},
    "plain http": {"uri": "http://api.example.com/weather"},
    "a uri with a line": {"uri": "https://api.example.com/\nNonce: 1"},
    "a uri with words": {"uri": "https://api.example.com/I agree to pay"},
    "a uri with a fragment": {"uri": "https://api.example.com/#x"},
    "a huge uri": {"uri": "https://api.example.com/" + "x" * 3000},
    "a uri that is none": {"uri": "https://[::1"},
    "no uri": {"uri": "(absent)"},
    "another version": {"version": "2"},
    "a short nonce": {"nonce": "1234567"},
    "a nonce with a line": {"nonce": "12345678\nIssued At: never"},
    "a nonce with words": {"nonce": "I agree to pay"},
    "a huge nonce": {"nonce": "a" * 129},
    "a nonce in another script": {"nonce": "١٢٣٤٥٦٧٨"},
    "a number for a nonce": {"nonce": 1234567890},
    "no nonce": {"nonce": "(absent)"},
    "an old challenge": {"issuedAt": at(-301)},
    "a challenge from the future": {"issuedAt": at(61)},
    "a time without a zone": {"issuedAt": "2026-11-21T12:00:00"},
    "a time that is none": {"issuedAt": "2026-13-41T12:00:00Z"},
    "a time with words": {"issuedAt": at() + " and more"},
    "an expired challenge": {"expirationTime": at(0)},
    "an expiry that is none": {"expirationTime": "tomorrow"},
    "not yet valid": {"notBefore": at(5)},
    "a request id with a line": {"requestId": "a\nResources:"},
    "a huge request id": {"requestId": "a" * 129},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_challenge_that_is_not_bound_fresh_and_plain_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        answer(**HOSTILE[kind])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "chains",
    [
        [],
        [{"chainId": "eip155:1", "type": "eip191"}],
        [{"chainId": NETWORK, "type": "ed25519"}],
        [{"chainId": NETWORK}],
        [{"chainId": "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "type": "eip191"}],
        [NETWORK, None, 7, {"chainId": [NETWORK], "type": "eip191"}],
    ],
)
def test_a_chain_that_is_not_ours_is_not_signed_for(chains: list[object]) -> None:
    with pytest.raises(ValueError, match="no chain"):
        answer(chains)


def test_the_first_chain_that_is_ours_is_taken() -> None:
    chains: list[object] = [{"chainId": "eip155:1", "type": "eip191"}, *CHAINS]
    assert answer(chains).chain_id == 84532


def test_it_expires_when_the_challenge_does_and_never_later_than_five_minutes_from_now() -> None:
    assert answer(expirationTime=at(30)).expires_at == "2026-11-21T12:00:30Z"
    assert answer(expirationTime=at(10**6)).expires_at == "2026-11-21T12:05:00Z"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from([*INFO, "expirationTime", "notBefore", "requestId"]), JSON),
    st.lists(JSON),
)
def test_any_challenge_is_refused_or_signed_line_by_line(
    members: dict[str, Any], chains: list[object]
) -> None:
    try:
        signed = answer([*chains, *CHAINS], **members)
    except ValueError:
        return
    lines = signed.message().split("\n")
    assert len(lines) == 10 + (signed.request_id is not None)
    assert signed.message().isascii()
    assert json.dumps(signed.as_json())
