"""Server-sent events are cut where the standard cuts them, and no byte of them changes."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from egress.wire.sse import EventStream

LINES = st.sampled_from(
    [b"data: a", b"data:b", b"event: message", b"event: ping", b"id: 1", b": comment", b""]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    return b"".join(line + end for line, end in draw(st.lists(st.tuples(LINES, ENDS), max_size=40)))


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    return [stream[a:b] for a, b in pairwise(places)]


@given(streams(), st.lists(st.integers(0, 200)), st.integers(1, 40))
def test_whatever_the_chunks_and_the_limit_the_bytes_come_out_in_order_and_complete(
    stream: bytes, cuts: list[int], limit: int
) -> None:
    events = EventStream(limit)
    out = b"".join(event.raw for piece in pieces(stream, cuts) for event in events.feed(piece))
    assert out + events.rest() == stream


@given(streams(), st.lists(st.integers(0, 200)))
def test_messages_are_the_same_however_the_stream_arrives(stream: bytes, cuts: list[int]) -> None:
    def messages(chunks: list[bytes]) -> list[bytes]:
        events = EventStream(1000)
        found = [event.message for chunk in chunks for event in events.feed(chunk)]
        return [message for message in found if message is not None]

    assert messages(pieces(stream, cuts)) == messages([stream])


def test_an_event_is_a_message_unless_it_says_otherwise() -> None:
    stream = b": hi\n\nevent: ping\ndata: x\n\ndata: a\ndata:b\n\nevent: message\r\nid: 3\r\ndata: c\r\n\r\n"
    assert [event.message for event in EventStream(100).feed(stream)] == [None, None, b"a\nb", b"c"]


def test_an_event_longer_than_the_limit_passes_in_pieces_and_the_next_is_read_again() -> None:
    events = EventStream(10)
    first = list(events.feed(b"data: " + b"x" * 100))
    assert first
    assert all(not event.whole and event.message is None for event in first)
    rest = list(events.feed(b"x\n\ndata: y\n\n"))
    assert [event.message for event in rest] == [None, b"y"]
    assert b"".join(event.raw for event in [*first, *rest]) == b"data: " + b"x" * 101 + b"\n\ndata: y\n\n"


def test_a_stream_of_many_small_chunks_keeps_no_more_than_the_limit() -> None:
    events = EventStream(64)
    for _ in range(10_000):
        list(events.feed(b"x"))
        assert len(events.rest()) <= 65
