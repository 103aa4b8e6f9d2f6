"""The blocking facade: signatures, and one line each."""
