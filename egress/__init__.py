"""The proxy: it sees traffic and asks for payments, and holds no key."""
