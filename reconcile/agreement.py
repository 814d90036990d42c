"""What several servers say about one authorization, weighed against each other. Pure.

A used authorization stays used, and after `validBefore` an unused one stays unused (EIP-3009). So servers that look
at different blocks can differ honestly, and only in one way: the one that says "used" looks at a later block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reconcile.chain import Block


@dataclass(frozen=True, slots=True)
class Word:
    """One server's statement: `authorizationState` at `block`."""

    server: str
    block: Block
    used: bool

    def __str__(self) -> str:
        return f"{self.server}: {'used' if self.used else 'unused'} at block {self.block.number}"


@dataclass(frozen=True, slots=True)
class Agreed:
    """What `servers` servers say. `block` is the one for which the word of each of them implies it."""

    used: bool
    block: Block
    servers: int


@dataclass(frozen=True, slots=True)
class Contradiction:
    """At least one server is wrong; nothing is concluded."""

    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class TooFew:
    """`answers` servers answered, and more are needed."""

    answers: int


@dataclass(frozen=True, slots=True)
class Lagging:
    """Some servers have not reached the block yet at which others saw the authorization used."""


def weigh(
    words: Sequence[Word], *, needed: int, valid_before: int
) -> Agreed | Contradiction | TooFew | Lagging:
    """`needed` of the words must agree, and none may contradict another. `valid_before` is in Unix seconds."""
    if any(_contradict(one, other, valid_before) for one in words for other in words):
        return Contradiction(tuple(words))
    if len(words) < needed:
        return TooFew(len(words))
    used = [word.block for word in words if word.used]
    unused = [word.block for word in words if not word.used]
    if len(used) >= needed:
        # Used stays used, so each of them implies it for the latest of their blocks.
        return Agreed(True, max(used, key=lambda block: block.number), len(used))
    if used:
        return Lagging()
    # Unused at a later block implies unused before. A proof is never stronger than its weakest witness.
    return Agreed(False, min(unused, key=lambda block: block.timestamp), len(unused))


def _contradict(one: Word, other: Word, valid_before: int) -> bool:
    if one.block.number == other.block.number and one.block != other.block:
        return True  # two forks
    if not one.used or other.used:
        return False
    used, unused = one.block, other.block
    return unused.number >= used.number or unused.timestamp >= valid_before
