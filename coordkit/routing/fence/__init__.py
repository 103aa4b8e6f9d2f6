"""What makes sure at one shard that nobody acts by an old topology, and how a shard is asked for that.

Imports no other room.
"""
