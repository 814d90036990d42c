"""What is done at each step of a request, what keyd is asked, and what is remembered of it."""
