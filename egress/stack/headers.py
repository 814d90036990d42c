"""Header fields looked up the short way.

mitmproxy 12.2.3 calls a function for each field that is not the one looked for, and raises an exception where there is
none. A paid request is looked into fifty times: it was a tenth of what one costs. What is found is the same.
"""

from __future__ import annotations

from mitmproxy import http


def get_all(self: http.Headers, name: str | bytes) -> list[str]:
    wanted = _spelling(name)
    return [
        value.decode("utf-8", "surrogateescape") for field, value in self.fields if field.lower() == wanted
    ]


def get(self: http.Headers, name: str | bytes, default: object = None) -> object:
    """The values in one, as RFC 9110 section 5.3 joins them."""
    values = get_all(self, name)
    return ", ".join(values) if values else default


def contains(self: http.Headers, name: object) -> bool:
    if not isinstance(name, str | bytes):
        return False
    wanted = _spelling(name)
    for field, _ in self.fields:  # noqa: SIM110 - a generator costs more than most headers have fields
        if field.lower() == wanted:
            return True
    return False


def _spelling(name: str | bytes) -> bytes:
    return (name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name).lower()


def install() -> None:
    """Make mitmproxy use these, in this process. Safe to repeat."""
    http.Headers.get_all = get_all  # type: ignore[method-assign]
    http.Headers.get = get  # type: ignore[method-assign, assignment]
    http.Headers.__contains__ = contains  # type: ignore[method-assign, assignment]
