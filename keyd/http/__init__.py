"""HTTP/1.1 over the Unix socket: connections, within each peer's share, and messages in bounded size (docs/adr/0008)."""
