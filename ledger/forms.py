"""Canonical texts of one form: alike but for their strings and small natural numbers. Pure.

A ledger's entries have few forms. Once one text of a form is known to be canonical, a regular expression recognises
the others, in a fifth of the time that parsing them and writing them again takes. Whatever it matches is canonical
(RFC 8785): keys, nesting, `true`, `false` and `null` are those of the first, letter by letter; a string has nothing in
it that is spelled otherwise than it must be; a number has no sign, no fraction, no leading zero, and 15 digits at most.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from ledger import canonical

type Path = tuple[str | int, ...]
"""Where a value is: `("data", "facts", 0, "key")`."""

PLAIN: Final = r"[ !#-\[\]-~]*+"
"""A string of printable ASCII without quote and backslash."""
_QUOTING: Final = r'(?:[ !#-\[\]-~]|\\["\\])*+'  # with them, in the one spelling that is canonical
_NATURAL: Final = "0|[1-9][0-9]{0,14}+"
_TEXT: Final = re.compile(r'(?:[ -\[\]-~]|\\["\\])*+')


class Form(NamedTuple):
    """What texts of one form have in common."""

    pattern: re.Pattern[str]
    groups: Mapping[Path, int]
    """Which of the match's `groups()` is which value: what is between the quotes of a string, as it is written, and the
    text of all else."""


def may_have_form(text: str) -> bool:
    """Whether it is worth the time to make one of `text`, some milliseconds."""
    return _TEXT.fullmatch(text) is not None


def form_of(text: str, *, strings: Mapping[Path, str], captured: Collection[Path]) -> Form | None:
    """The form of `text`, which is canonical JSON; None if it has something in it that no form allows.

    `strings` are patterns that single strings must match, of characters of `PLAIN` alone. `captured` says which values are
    wanted, as far as the text has them.
    """
    groups: dict[Path, int] = {}
    pattern = re.compile(_pattern(canonical.parse(text), (), strings, captured, groups))
    return Form(pattern, groups) if pattern.fullmatch(text) else None


def _pattern(
    value: object,
    path: Path,
    strings: Mapping[Path, str],
    captured: Collection[Path],
    groups: dict[Path, int],
) -> str:
    wanted = path in captured
    if wanted:
        groups[path] = len(groups)  # before those inside: groups are numbered by their opening brackets
    begin = "(" if wanted else "(?:"
    if isinstance(value, str):
        usual = _QUOTING if '"' in value or "\\" in value else PLAIN
        return f'"{begin}{strings.get(path, usual)})"'
    if isinstance(value, dict):
        members = (
            f"{re.escape(json.dumps(key))}:{_pattern(member, (*path, key), strings, captured, groups)}"
            for key, member in value.items()
        )
        return rf"{begin}\{{{','.join(members)}\}})"
    if isinstance(value, list):
        items = (_pattern(item, (*path, i), strings, captured, groups) for i, item in enumerate(value))
        return rf"{begin}\[{','.join(items)}\])"
    if isinstance(value, bool) or value is None:
        return f"{begin}{json.dumps(value)})"
    return f"{begin}{_NATURAL})"
