"""How keys get from one shard to another: each once, by whoever touches them first, or by the mover.

Imports `placement`, `fence`, `topology`.
"""
