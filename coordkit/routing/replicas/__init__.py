"""A shard that is more than one server: who is read from, how far it may lag, how writes are copied.

Imports `balance`, `commands`, `fence`, `ways`.
"""
