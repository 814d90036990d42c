"""What is asked, byte for byte, and parsers that no input makes raise anything but NodeFault."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyd.api import OpenPayment
from keyd.core.evm import keccak256
from reconcile import chain
from reconcile.chain import Block
from reconcile.faults import NodeFault

PAYMENT = OpenPayment(
    payment_id="7f" * 16,
    state="unknown",
    network="eip155:84532",
    asset="0x036CbD53842c5426634e7929541eC2318f3dCF7e",
    payer="0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
    pay_to="0x209693Bc6afc0C5328bA36FaF03C514EF312287C",
    amount="1000",
    nonce="0x" + "ab" * 32,
    signed_at=1_795_262_400,
    valid_before=1_795_262_460,
)
PAYER_WORD = "000000000000000000000000f39fd6e51aad88f6f4ce6ab8827279cfffb92266"

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.from_regex(r"\A0x[0-9a-fA-F]*\Z"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def test_selector_and_topic_are_those_of_eip_3009() -> None:
    assert keccak256(b"authorizationState(address,bytes32)")[:4].hex() == chain.AUTHORIZATION_STATE[2:]
    assert keccak256(b"AuthorizationUsed(address,bytes32)").hex() == chain.AUTHORIZATION_USED[2:]


def test_the_state_is_asked_of_the_token_about_payer_and_nonce_at_one_block() -> None:
    call = chain.authorization_state(PAYMENT, 255)
    data = "0xe94a0102" + PAYER_WORD + "ab" * 32
    assert (call.method, call.params) == ("eth_call", ({"to": PAYMENT.asset, "data": data}, "0xff"))


def test_the_event_is_asked_of_the_token_about_payer_and_nonce() -> None:
    [wanted] = chain.authorization_used(PAYMENT, 16, 31).params
    assert wanted == {
        "address": PAYMENT.asset,
        "topics": [chain.AUTHORIZATION_USED, "0x" + PAYER_WORD, PAYMENT.nonce],
        "fromBlock": "0x10",
        "toBlock": "0x1f",
    }


@given(st.integers(min_value=0, max_value=2**52 - 1))
def test_quantities_are_read_as_they_are_written(number: int) -> None:
    assert chain.parse_quantity(hex(number)) == number


@pytest.mark.parametrize(
    "value",
    ["", "0x", "0X1", "1", 1, None, True, "0x00", "0x01", "-0x1", "0x1 ", "0x1\n", "0xg", "0x١", hex(2**52)],
)
def test_other_spellings_of_a_quantity_are_refused(value: object) -> None:
    with pytest.raises(NodeFault):
        chain.parse_quantity(value)


def test_a_word_is_a_bool_only_if_it_is_0_or_1() -> None:
    assert chain.parse_bool("0x" + "0" * 64) is False
    assert chain.parse_bool("0x" + "0" * 63 + "1") is True
    for word in ("0x" + "0" * 63 + "2", "0x1" + "0" * 63, "0x" + "0" * 62, "0x" + "0" * 66, "0x"):
        with pytest.raises(NodeFault):
            chain.parse_bool(word)


def header(**members: Any) -> dict[str, Any]:
    return {"number": "0x10", "hash": "0x" + "AB" * 32, "timestamp": "0x20", "extra": 1} | members


def test_a_header_is_number_hash_and_time() -> None:
    assert chain.parse_block(header()) == Block(16, "0x" + "ab" * 32, 32)
    assert chain.parse_block(header(), 16).number == 16
    with pytest.raises(NodeFault, match="block 16 for block 17"):
        chain.parse_block(header(), 17)


def event(**members: Any) -> dict[str, Any]:
    return {
        "address": PAYMENT.asset.lower(),
        "topics": [chain.AUTHORIZATION_USED, "0x" + PAYER_WORD, PAYMENT.nonce],
        "blockNumber": "0x10",
        "transactionHash": "0x" + "CD" * 32,
    } | members


def test_the_event_names_the_transaction() -> None:
    assert chain.parse_events([event()], PAYMENT, 16, 16) == "0x" + "cd" * 32
    assert chain.parse_events([event(address=PAYMENT.asset)], PAYMENT, 0, 99) == "0x" + "cd" * 32
    assert chain.parse_events([], PAYMENT, 0, 99) is None


@pytest.mark.parametrize("bounds", [(0, 15), (17, 99)])
def test_an_event_outside_the_blocks_that_were_asked_for_is_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(NodeFault):
        chain.parse_events([event()], PAYMENT, *bounds)


@given(json_values, st.none() | st.integers(min_value=0, max_value=100))
@example({"number": "0x10", "hash": 1, "timestamp": "0x1"}, None)
@example({"topics": [[], {}], "address": []}, 5)
def test_no_answer_makes_a_parser_raise_anything_but_node_fault(value: Any, number: int | None) -> None:
    for parse in (
        chain.parse_quantity,
        chain.parse_bool,
        lambda v: chain.parse_block(v, number),
        lambda v: chain.parse_block(header(hash=v)),
        lambda v: chain.parse_block(header(timestamp=v)),
        lambda v: chain.parse_events(v, PAYMENT, 0, 99),
        lambda v: chain.parse_events([v], PAYMENT, 0, 99),
        lambda v: chain.parse_events([event(topics=v)], PAYMENT, 0, 99),
        lambda v: chain.parse_events([event(transactionHash=v)], PAYMENT, 0, 99),
        lambda v: chain.parse_events([event(blockNumber=v)], PAYMENT, 0, 99),
    ):
        with contextlib.suppress(NodeFault):
            parse(value)
