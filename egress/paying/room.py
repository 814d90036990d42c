"""Memory for what is kept of requests and answers, so that many connections together cannot fill it."""

from __future__ import annotations


class Room:
    """What all requests of this process may keep together: at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def share(self) -> Share:
        """A request's part of it, nothing yet."""
        return Share(self)


class Share:
    """What one request has taken. Whoever ends the request calls `give_back`."""

    __slots__ = ("_room", "_taken")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._taken = 0

    def take(self, size: int) -> bool:
        """Whether there is room for `size` bytes more; then they are taken."""
        if self._room.taken + size > self._room.limit:
            return False
        self._room.taken += size
        self._taken += size
        return True

    def give_back(self) -> None:
        """All of it. Safe to repeat."""
        self._room.taken -= self._taken
        self._taken = 0
