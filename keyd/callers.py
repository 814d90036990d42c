"""Lists of callers in [x402]: who may pay at all, who in a session only. As written, and resolved to the ledger's names."""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Iterable, Iterator
from typing import Final

from keyd.configfile import ConfigError

_ENTRY: Final = re.compile(
    r"\*|uid:(?:0|[1-9][0-9]{0,9})|proxy:[a-z0-9][a-z0-9._-]{0,31}|@?[A-Za-z_][A-Za-z0-9_.-]{0,63}\$?",
    re.ASCII,
)


def check_entry(value: object) -> str:
    """Raises ValueError, in words, for what is no entry. Does not look whether user and group exist."""
    if not isinstance(value, str) or _ENTRY.fullmatch(value) is None:
        raise ValueError(
            f'{value!r} is no caller: write "uid:1000", a user name, "@group", "proxy:NAME", or "*" for '
            "everyone whom egress can identify"
        )
    return value


def resolve(entries: Iterable[str], key: str) -> frozenset[str]:
    """ "uid:1000" for every user and every member of a group; the rest as written. Done once, at start. `key`: of [x402].

    Raises ConfigError for a user or group that does not exist.
    """
    try:
        return frozenset(name for entry in entries for name in _names(entry))
    except LookupError as missing:
        raise ConfigError(f"x402.{key}: there is no {missing}", "create it, or correct the name") from None


def _names(entry: str) -> Iterator[str]:
    if entry == "*" or ":" in entry:
        yield entry
    elif entry.startswith("@"):
        yield from (f"uid:{uid}" for uid in _members(entry[1:]))
    else:
        try:
            yield f"uid:{pwd.getpwnam(entry).pw_uid}"
        except KeyError:
            raise LookupError(f"user {entry!r}") from None


def _members(name: str) -> Iterator[int]:
    """Users who have the group as their first one, and those whom it lists."""
    try:
        group = grp.getgrnam(name)
    except KeyError:
        raise LookupError(f"group {name!r}") from None
    for user in pwd.getpwall():
        if user.pw_gid == group.gr_gid or user.pw_name in group.gr_mem:
            yield user.pw_uid
