"""What the tests of unmodified programs share."""
