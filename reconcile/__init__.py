"""The reconciler: asks the chain what became of payments, and brings the answer to keyd, which has no network.

It holds no key and decides nothing. It reports facts; keyd judges what they prove.
"""
