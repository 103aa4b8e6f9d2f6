"""The list of shards that changes while it is in use: its document, its transitions, routing by it.

Imports `placement`, `commands`, `fence`, `ways`.
"""
