"""Server-sent events as they pass: cut into events without losing, delaying or changing a byte that is passed on.

Pure. Source: WHATWG HTML, section 9.2.6 (interpreting an event stream).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_BLANK_LINE: Final = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")  # atomic: CR LF is one line end, never two
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_LONGEST_BLANK_LINE: Final = 4


@dataclass(frozen=True, slots=True)
class Event:
    """One event, or a piece of one that is too long to be looked at."""

    raw: bytes
    """Its bytes with the blank line that ends it: joined, they are the stream."""
    whole: bool = True

    @property
    def message(self) -> bytes | None:
        """The data of an event of the default type `message`; None for any other, and for comments."""
        if not self.whole:
            return None
        data: list[bytes] = []
        for line in _LINE_END.split(self.raw):
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"event" and value != b"message":
                return None
            if name == b"data":
                data.append(value)
        return b"\n".join(data) if data else None


class EventStream:
    """Cuts a stream into events. Keeps at most `limit` bytes: of a longer event, pieces come out as they arrive."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pending = bytearray()
        self._scanned = 0
        self._overlong = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that `data` completes."""
        self._pending += data
        while (end := self._find_end()) is not None:
            raw, self._overlong, whole = bytes(self._pending[:end]), False, not self._overlong
            del self._pending[:end]
            self._scanned = 0
            yield Event(raw, whole)
        if self._overlong or len(self._pending) > self._limit:
            # The last bytes may begin the blank line that ends this event.
            self._overlong, cut = True, max(0, len(self._pending) - _LONGEST_BLANK_LINE + 1)
            raw = bytes(self._pending[:cut])
            del self._pending[:cut]
            self._scanned = 0
            if raw:
                yield Event(raw, whole=False)

    def rest(self) -> bytes:
        """What is left when the stream ends: an event without its end, which a client discards."""
        rest = bytes(self._pending)
        self._pending.clear()
        return rest

    def _find_end(self) -> int | None:
        found = _BLANK_LINE.search(self._pending, self._scanned)
        if found is None:
            self._scanned = max(0, len(self._pending) - _LONGEST_BLANK_LINE + 1)
            return None
        return found.end()
