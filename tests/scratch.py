"""Where tests put their files: TMPDIR, unless they could not work there."""

from __future__ import annotations

from pathlib import Path
from typing import Final

LONGEST: Final = 30
"""Characters. The path of a Unix socket has 107 at most (unix(7)), of which pytest's own folders take some 60."""


def suits(folder: Path) -> bool:
    """Whether sockets fit below it, and the other users that some tests become can reach what is in it."""
    resolved = folder.resolve()
    open_to_all = all(each.stat().st_mode & 0o001 for each in (resolved, *resolved.parents))
    return len(str(resolved)) <= LONGEST and open_to_all
