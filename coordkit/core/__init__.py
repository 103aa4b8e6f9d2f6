"""The protocols, written once: coroutines that await only the ports of ``_ports`` and ``_ports_zookeeper``.

No file here knows asyncio, threads, time, redis or kazoo; the facades (``_sync``, ``_async``) give each a runtime.
Here they are by subject, and within each in the order in which to read them.

What is held, whatever keeps it
    ``token`` ``grantor`` ``lease`` ``pulse`` ``held`` ``contend`` ``waiting`` ``answer``; renewed by ``keeper``
    ``keepers`` ``rounds``; described by ``checks`` ``holder``
Locks on Redis
    ``lock`` ``rwlock`` ``semaphore`` ``multi`` ``reentrant`` ``interop``; for operators ``inspection`` ``handover``
The quorum lock
    ``ballot`` ``roster`` ``quorum_set`` ``quorum`` ``majority`` ``debts``
Refusing the past
    ``fence`` ``sql``
A session of ZooKeeper
    ``session`` ``proofs`` ``proven`` ``removals`` ``doubts`` ``guard`` ``portions``; what znodes are named and say:
    ``znodes`` ``records``; what may be passed: ``zk_checks``
A line of znodes: elections, and locks on ZooKeeper
    ``place`` ``entering`` ``standing`` ``succession``; then ``candidate`` ``leadership`` ``transaction`` ``election``;
    or ``turn`` ``zk_rwlock`` ``zk_semaphore``. In no line: ``zk_barrier`` ``zk_double_barrier``
Primary and backup
    ``roles`` ``primacy`` ``following`` ``in_sync`` ``unfenced``
Groups
    ``group`` ``own_znode`` ``oversize`` ``membership``; who is there: ``roll`` ``rolls`` ``changes`` ``balance``
    ``data``; shares of work: ``share`` ``shift`` ``claim`` ``weighing``
Streams of what a znode says
    ``stream`` ``views``
Shards
    ``shards`` (locks over them) ``topologies`` ``adoption`` ``rebalancing``
Several things at once
    ``beside``
"""
