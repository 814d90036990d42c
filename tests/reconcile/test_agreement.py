"""Weighing: honest servers are never taken for liars, and one honest witness is enough to stop a false release."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconcile.agreement import Agreed, Contradiction, Lagging, TooFew, Word, weigh
from reconcile.chain import Block

VALID_BEFORE = 1_000
BLOCK_S = 10


def block(number: int) -> Block:
    return Block(number, f"0x{number:064x}", number * BLOCK_S)


def word(number: int, used: bool, server: str = "rpc.example.com") -> Word:
    return Word(server, block(number), used)


blocks = st.integers(min_value=0, max_value=200)
settled_in = st.none() | st.integers(min_value=0, max_value=VALID_BEFORE // BLOCK_S - 1)
"""The block that used the authorization, if any: only one from before `validBefore` can (EIP-3009)."""


def truth(number: int, settled: int | None) -> bool:
    return settled is not None and settled <= number


@given(settled_in, st.lists(blocks, min_size=1, max_size=5), st.data())
def test_honest_servers_at_any_blocks_agree_or_are_waited_for(
    settled: int | None, at: list[int], data: st.DataObject
) -> None:
    needed = data.draw(st.integers(1, len(at)))
    verdict = weigh([word(n, truth(n, settled)) for n in at], needed=needed, valid_before=VALID_BEFORE)
    assert isinstance(verdict, Agreed | Lagging)
    if isinstance(verdict, Agreed):
        assert verdict.used == truth(verdict.block.number, settled)
        assert verdict.servers >= needed


@given(
    settled_in,
    st.lists(st.tuples(blocks, st.booleans()), max_size=4),
    st.lists(blocks, min_size=1, max_size=3),
    st.data(),
)
def test_with_one_honest_witness_liars_cannot_release_a_payment_that_was_settled(
    settled: int | None, lies: list[tuple[int, bool]], honest: list[int], data: st.DataObject
) -> None:
    words = [word(n, used) for n, used in lies] + [word(n, truth(n, settled)) for n in honest]
    words = data.draw(st.permutations(words))
    verdict = weigh(words, needed=len(words), valid_before=VALID_BEFORE)
    if isinstance(verdict, Agreed) and not verdict.used and verdict.block.timestamp >= VALID_BEFORE:
        assert settled is None
    if isinstance(verdict, Agreed) and verdict.used:
        assert settled is not None


@given(st.lists(blocks, min_size=1, max_size=5))
def test_unused_is_told_at_the_oldest_block_and_used_at_the_newest(at: list[int]) -> None:
    unused = weigh([word(n, False) for n in at], needed=1, valid_before=VALID_BEFORE)
    assert unused == Agreed(False, block(min(at)), len(at))
    used = weigh([word(n, True) for n in at], needed=1, valid_before=VALID_BEFORE)
    assert used == Agreed(True, block(max(at)), len(at))


@given(st.integers(0, 4), st.integers(1, 5), st.booleans())
def test_fewer_words_than_needed_are_too_few(given_words: int, missing: int, used: bool) -> None:
    words = [word(7, used)] * given_words
    verdict = weigh(words, needed=given_words + missing, valid_before=VALID_BEFORE)
    assert verdict == TooFew(given_words)


def test_unused_after_used_is_a_contradiction() -> None:
    for later in (5, 6):
        words = [word(5, True), word(later, False)]
        assert isinstance(weigh(words, needed=1, valid_before=VALID_BEFORE), Contradiction)


def test_unused_before_used_is_a_lag_while_the_authorization_is_valid() -> None:
    words = [word(99, False), word(150, True)]
    assert weigh(words, needed=2, valid_before=VALID_BEFORE) == Lagging()
    assert weigh(words, needed=1, valid_before=VALID_BEFORE) == Agreed(True, block(150), 1)


def test_used_after_it_was_seen_unused_and_void_is_a_contradiction() -> None:
    words = [word(100, False), word(150, True)]
    assert isinstance(weigh(words, needed=1, valid_before=VALID_BEFORE), Contradiction)


def test_two_blocks_of_one_height_are_a_contradiction_even_if_both_say_the_same() -> None:
    fork = Word("other.example.com", Block(7, "0x" + "f" * 64, 70), False)
    assert isinstance(weigh([word(7, False), fork], needed=1, valid_before=VALID_BEFORE), Contradiction)
    late = Word("other.example.com", Block(7, block(7).hash, 9999), False)
    assert isinstance(weigh([word(7, False), late], needed=1, valid_before=VALID_BEFORE), Contradiction)
