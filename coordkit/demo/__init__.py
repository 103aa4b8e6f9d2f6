"""``coordkit demo``: the main job of the library, told as a story on live processes and real servers.

Read ``command`` first, then a scene: each is one file with both sides, the demo's (``play``) and its worker processes'
(``work``). ``story`` is what a scene speaks through, ``crew`` and ``worker`` are the two ends of a worker process,
``servers`` starts Redis and ZooKeeper, ``output`` writes lines or draws bars.

It promises that each scene's checks compare what was observed on the servers with what coordkit promises, and that it
leaves nothing behind: no process, file, key or znode. It is no benchmark; the figures are those of one short run.
"""
