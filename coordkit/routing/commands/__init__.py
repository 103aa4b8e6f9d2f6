"""What is sent where for a command: which keys it has, what it does, and how its replies are joined.

Imports `placement`.
"""
