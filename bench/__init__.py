"""What `make bench` runs: osmoda-x402 against what people would use instead, in pairs, on one machine, in one run.

A module of this folder that is named in `bench.__main__.MODULES` has a function `comparisons(stage)`. It sets things
up, yields a `Comparison`, which is measured while the generator waits, and tears down. Where nothing is compared, it
yields a `Result`. Nothing here is a test: a busy machine makes figures worse, never a build red.
"""
