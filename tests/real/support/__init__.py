"""What the tests with real counterparts share."""
