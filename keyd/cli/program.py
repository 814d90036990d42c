"""The name by which keyctl was called: what it tells people to type has to exist on their machine.

Installed beside Debian's keyutils it is `osmoda-keyctl`, and `keyctl` would be that other program.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

_LONG: Final = "osmoda-keyctl"


def as_called(text: str) -> str:
    """`text` with each `keyctl COMMAND` under the name that this process was called by."""
    if Path(sys.argv[0]).name != _LONG:
        return text
    return re.sub(r"(?<![\w./-])keyctl (?=[a-z-])", f"{_LONG} ", text)
