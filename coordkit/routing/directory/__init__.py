"""What a sharded client knows without asking: its shards, their clients, and what it refuses.

Imports `placement`, `balance`, `commands`, `ways`, `replicas`, `topology`.
"""
