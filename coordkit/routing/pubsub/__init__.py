"""Publish and subscribe over many shards, blocking and asyncio. Imports `commands`, `fence`, `ways`, `directory`."""
