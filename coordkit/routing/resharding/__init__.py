"""Which slots move, in which order, and what an operator may ask for: the rebalancer's work.

Imports `placement`, `fence`, `ways`, `topology`, `moving`.
"""
