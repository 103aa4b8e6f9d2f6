"""When a server's word that it is no primary is taken for its word, and when for that of a connection too old."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError, ReadOnlyError  # noqa: A004  redis-py's own

from coordkit._redis_answers import Primary

NO = [ReadOnlyError("You can't write against a read only replica.")]


def test_an_older_connection_is_not_believed_and_a_later_one_is() -> None:
    primary = Primary()
    primary.check(["OK"], made=1.0, began=10.0)
    with pytest.raises(ConnectionError):
        primary.check(NO, made=1.0, began=10.0)
    primary.check(NO, made=12.0, began=11.0)


def test_a_connection_that_somebody_else_has_made_since_is_believed() -> None:
    """A give-back in the background made one just before each of three tries: all were told that no answer came."""
    primary = Primary()
    with pytest.raises(ConnectionError):
        primary.check(NO, made=1.0, began=10.0)
    primary.check(NO, made=10.5, began=11.0)
    with pytest.raises(ConnectionError):
        primary.check(NO, made=9.0, began=11.0)


def test_it_is_not_believed_for_ever() -> None:
    primary = Primary()
    with pytest.raises(ConnectionError):
        primary.check(NO, made=1.0, began=10.0)
    with pytest.raises(ConnectionError):
        primary.check(NO, made=10.5, began=60.0)
