"""The asyncio facade: signatures, and one line each."""
