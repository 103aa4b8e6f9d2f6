"""Which shard owns a key: the slots, and the algorithms that share them or the keys out, one to a file.

Imports no other room.
"""
