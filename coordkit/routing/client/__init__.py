"""`ShardedRedis` and its pipelines, scripts and scans, over a fixed list of shards or a live topology.

Imports `placement`, `balance`, `commands`, `fence`, `ways`, `replicas`, `topology`, `moving`, `directory`, `pubsub`.
"""
