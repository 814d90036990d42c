"""What egress keeps of one request."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from egress.exchange import BodyCopy


@given(st.lists(st.binary(max_size=8), max_size=20), st.integers(0, 60))
def test_a_copy_is_the_body_or_nothing(chunks: list[bytes], limit: int) -> None:
    copy = BodyCopy(limit)
    assert [copy(chunk) for chunk in chunks] == chunks
    body = b"".join(chunks)
    assert copy.overflowed == (len(body) > limit)
    assert copy.content() == (b"" if copy.overflowed else body)


def test_a_body_in_many_small_chunks_takes_no_more_room_than_it_is_long() -> None:
    copy = BodyCopy(1_000_000)
    tracemalloc.start()
    for _ in range(500_000):
        copy(bytes(2))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2_500_000
