"""The checks of `keyctl doctor`, one module for each part of an installation.

A check is a function that looks at one thing and returns findings. It changes nothing, never prints a key, and says
how to mend what it finds.
"""
