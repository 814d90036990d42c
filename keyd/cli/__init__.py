"""`keyctl`: what an administrator asks of keyd, in words or as JSON. Holds no state and no keys of its own."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of `keyctl` and `osmoda-keyctl`."""
    try:
        from keyd.cli.app import run  # half a second, in which Ctrl-C would otherwise end in a traceback

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
