"""What closed connections leave behind goes soon, and open ones hold little.

mitmproxy's layers and connections refer to each other, so that they are freed by the garbage collector alone. It counts
objects, and does not see that some of them hold 100 KB of OpenSSL's: as Python sets it up, a process with 80,000 objects of
modules and classes, which never go, waits for another 20,000 before it looks at what has lived long. That took 10 MB over
some thousand https connections, and much of it never went back to the kernel, since what had come in between stayed.
"""

from __future__ import annotations

import gc
from typing import Any, Final

from mitmproxy.net import tls as net_tls
from OpenSSL import SSL

_GENERATIONS: Final = (2000, 5, 2)
"""Young objects are looked at as often as ever, all others after some dozen closed connections. Without what was there at
the start, these are few: it takes a millisecond or two."""

_create_ssl_context = net_tls._create_ssl_context


def settle() -> None:
    """To be called once, when this process is ready: what is there now stays, and is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GENERATIONS)


def lighten_tls() -> None:
    """Make mitmproxy's TLS connections keep no buffers (34 KB each way) while they are quiet. Safe to repeat."""
    net_tls._create_ssl_context = _create_light_context


def _create_light_context(**settings: Any) -> SSL.Context:
    context = _create_ssl_context(**settings)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    return context
