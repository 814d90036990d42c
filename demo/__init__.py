"""What `make demo` runs: a paid API, keyd and egress on loopback, with throw-away keys and nothing left behind.

The tests start the same programs, so there is one way to do it.
"""
