"""The images that Redis and ZooKeeper containers are made of, for the fixtures, the demo and compose alike.

====================================================  ==========================================================
COORDKIT_REDIS_IMAGE, COORDKIT_ZOOKEEPER_IMAGE        used wherever coordkit starts a container, in place of these
COORDKIT_TEST_REDIS_IMAGE, COORDKIT_TEST_ZK_IMAGE     for the fixtures only, and there before the two above
====================================================  ==========================================================

The fixtures read ``--coordkit-redis-image`` and ``--coordkit-zk-image`` first, then the second pair, then the ini
file, then the first pair. An empty variable is one that is not set. docker-compose.yml cannot read this file: it names
the same two images, and a test compares them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["REDIS", "ZOOKEEPER", "redis_image", "zookeeper_image"]

REDIS = "redis:7.4"
ZOOKEEPER = "zookeeper:3.8"


def redis_image(env: Mapping[str, str] = os.environ) -> str:
    """Return the image of Redis containers."""
    return env.get("COORDKIT_REDIS_IMAGE") or REDIS


def zookeeper_image(env: Mapping[str, str] = os.environ) -> str:
    """Return the image of ZooKeeper containers."""
    return env.get("COORDKIT_ZOOKEEPER_IMAGE") or ZOOKEEPER
