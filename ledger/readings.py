"""What entries say to the projection, read off their text by its form (`ledger.forms`), without parsing it.

A form is learnt of an entry that was parsed, found canonical, and folded by `ledger.projection`. What the projection
asks of its members besides their patterns (are they there, of what type, is there a proof) has the same answer for
every entry of the form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import Final, NamedTuple

from ledger import entry, forms, projection
from ledger.agreement import SIGNED_NUMBERS, SIGNED_TEXTS, Agreement, Doubt
from ledger.entry import Entry
from ledger.forms import Path
from ledger.states import Event

MAX_FORMS: Final = 8
"""Forms that are kept of entries with the same end, those used last: each may have to be tried."""
MAX_LEARNT: Final = 500
"""Learning takes milliseconds. Sellers decide on part of an entry's form, and could have us learn for ever."""
MAX_TEXT: Final = 4096
"""Characters of a text to learn from, for the same reason; of keyd's entries few are longer than 1500."""

_TAIL: Final = -len('"type":"?"}')
"""Where the last characters of an entry begin that depend on nothing but its type."""
_PAYMENT_ID: Final[Path] = ("data", "payment_id")

type _Groups = tuple[str, ...]
"""What a form's pattern captured."""
type _Fold = Callable[[_Groups, int, Agreement], None]
"""Folds an entry, by what was captured of it and its seq, into the tables."""


class _Reading(NamedTuple):
    match: Callable[[str], re.Match[str] | None]
    folds: tuple[_Fold, ...]


class Readings:
    """The forms met so far, by the end of the entries' texts, where the type is."""

    def __init__(self) -> None:
        self._by_tail: dict[str, list[_Reading]] = {}
        self._learnt = 0

    def fold(self, text: str, seq: int, tables: Agreement) -> bool:
        """Whether `text` is of a known form. If so, it is the canonical entry `seq`, and folded.

        Raises Doubt if it is another entry, or if `tables` do not agree.
        """
        readings = self._by_tail.get(text[_TAIL:], [])
        for place, (match, folds) in enumerate(readings):
            if found := match(text):
                if place:
                    readings.insert(0, readings.pop(place))
                groups = found.groups()
                if groups[-1] != str(seq):  # of the members after it, nothing is captured
                    raise Doubt
                for fold in folds:
                    fold(groups, seq, tables)
                return True
        return False

    def learn(self, text: str, read: Entry) -> None:
        """From now on, know entries of the form of this one, which is canonical and folds without an error."""
        if self._learnt == MAX_LEARNT or len(text) > MAX_TEXT or not forms.may_have_form(text):
            return
        self._learnt += 1
        if reading := _reading(text, read):
            readings = self._by_tail.setdefault(text[_TAIL:], [])
            readings.insert(0, reading)
            del readings[MAX_FORMS:]


def _reading(text: str, read: Entry) -> _Reading | None:
    taken: set[Path] = set()  # as it is written, so without anything that is spelled otherwise
    if read.type == projection.SIGNED:
        taken = {("data", name) for name in SIGNED_TEXTS + SIGNED_NUMBERS}
    elif read.type in projection.OUTCOMES:
        taken = {_PAYMENT_ID}
    places = range(len(read.data.get("facts", ())))
    taken |= {("data", "facts", place, "kind") for place in places}
    strings = dict.fromkeys(taken, forms.PLAIN)
    strings |= {("ts",): entry.TIMESTAMP.pattern, ("type",): re.escape(read.type)}
    strings |= {
        ("data", name): one.pattern for name, one in projection.PATTERNS.items() if ("data", name) in taken
    }
    others = {("data", "facts", place, name) for place in places for name in ("key", "value")}
    captured = {("seq",)} | taken | others
    form = forms.form_of(text, strings=strings, captured=captured)
    return form and _Reading(form.pattern.fullmatch, tuple(_folds(read, form.groups)))


def _folds(read: Entry, groups: Mapping[Path, int]) -> Iterator[_Fold]:
    """What `projection.fold` does with an entry of this form, in its order."""
    if read.type == projection.SIGNED:
        yield _signing(groups)
    elif read.type in projection.OUTCOMES:
        yield _moving(
            groups[_PAYMENT_ID], projection.event_of(read), delivered=projection.says_delivered(read)
        )
    for place, fact in enumerate(read.data.get("facts", ())):
        kind, key, value = (groups["data", "facts", place, name] for name in ("kind", "key", "value"))
        yield _putting(kind, key, value, fact)


def _signing(groups: Mapping[Path, int]) -> _Fold:
    texts, numbers = (
        itemgetter(*(groups["data", name] for name in names)) for names in (SIGNED_TEXTS, SIGNED_NUMBERS)
    )

    def fold(found: _Groups, seq: int, tables: Agreement) -> None:
        tables.sign((*texts(found), *map(int, numbers(found)), seq))

    return fold


def _moving(payment_id: int, event: Event, *, delivered: bool) -> _Fold:
    def fold(found: _Groups, seq: int, tables: Agreement) -> None:
        tables.move(found[payment_id], event, delivered, seq)

    return fold


def _putting(kind: int, key: int, value: int, example: Mapping[str, object]) -> _Fold:
    """Null has a form of its own; and of a string the quotes are not captured, which belong to its JSON."""
    plain, gone = _is_plain(str(example["key"])), example["value"] is None
    quote = '"' if isinstance(example["value"], str) else ""

    def fold(found: _Groups, seq: int, tables: Agreement) -> None:
        name = found[key] if plain else json.loads(f'"{found[key]}"')
        said = None if gone else f"{quote}{found[value]}{quote}"
        tables.put_fact(found[kind], name, said, seq)

    return fold


def _is_plain(text: str) -> bool:
    return re.fullmatch(forms.PLAIN, text) is not None
