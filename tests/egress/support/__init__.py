"""Parts for the tests of egress: a keyd that answers by script, servers and clients on raw sockets."""
