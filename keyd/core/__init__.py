"""The pure core: what is asked, what policy says to it, and what is signed. No I/O; clock and randomness are arguments."""
