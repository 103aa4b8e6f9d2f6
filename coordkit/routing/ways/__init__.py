"""How one server is spoken to: connections, batches, what replies and errors mean; blocking and asyncio.

Imports `commands`, `fence`.
"""
