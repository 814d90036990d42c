"""mitmproxy's protocol stack where it is not transparent enough, and the paid retry within it."""
