"""The proxy: it sees traffic and asks for payments, and holds no key."""

from egress.left_out import leave_out

leave_out()
