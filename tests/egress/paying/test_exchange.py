"""What egress keeps of one request."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from egress.paying.exchange import BodyCopy
from egress.paying.room import Room
from keyd.reasons import Reason


@given(st.lists(st.binary(max_size=8), max_size=20), st.integers(0, 60))
def test_a_copy_is_the_body_or_nothing(chunks: list[bytes], limit: int) -> None:
    copy = BodyCopy(limit, Room(limit).share())
    assert [copy(chunk) for chunk in chunks] == chunks
    body = b"".join(chunks)
    assert (copy.refusal is Reason.BODY_TOO_LARGE) == (len(body) > limit)
    assert copy.content() == (b"" if copy.refusal else body)


def test_a_body_in_many_small_chunks_takes_no_more_room_than_it_is_long() -> None:
    copy = BodyCopy(1_000_000, Room(1_000_000).share())
    tracemalloc.start()
    for _ in range(500_000):
        copy(bytes(2))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2_500_000


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=8)), max_size=40), st.integers(0, 60))
def test_all_copies_together_stay_within_the_room_and_give_it_back(
    chunks: list[tuple[int, bytes]], limit: int
) -> None:
    room = Room(limit)
    copies = [BodyCopy(1000, room.share()) for _ in range(4)]
    for which, chunk in chunks:
        assert copies[which](chunk) == chunk
        assert sum(len(copy.content()) for copy in copies) == room.taken <= limit
    for copy in copies:
        copy.discard()
        copy(b"late")
    assert room.taken == 0
