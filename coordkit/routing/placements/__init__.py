"""The algorithms that say which shard owns a key, one to a file; `coordkit.routing` exports them.

What all can do is in `coordkit.routing.placement`. `slot_map`, `rendezvous` and `bounded_loads` fill a table of slots;
`maglev` and `modula` a `table` of other sizes; `ketama` and `envoy_ring` a `ring`; `jump` and `hrw` compute. `shares`
has the quotas and the checks, `hashes` and `xxh64` the hash functions of other routers.
"""
