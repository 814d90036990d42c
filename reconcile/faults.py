"""The one exception of this package."""

from __future__ import annotations


class NodeFault(Exception):
    """An RPC server cannot be used: no answer, or one that is malformed or contradicts itself.

    Never quotes the URL. Ends at `reconcile.node` or `reconcile.reconciler`; a pass survives every server.
    """
