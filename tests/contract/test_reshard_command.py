"""``coordkit reshard``, as a person types it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from coordkit import BadTopology, ShardedRedis, Topology, TopologyStore, cli
from coordkit.routing import slot_of
from coordkit.testing.servers import wait_until

pytestmark = pytest.mark.empties_servers

KEYS = 600


class Terminal:
    """The command line of one topology."""

    def __init__(self, hosts: str, path: str, urls: dict[str, str], name: str) -> None:
        self.where = ["--zookeeper", hosts, "--path", path]
        self.urls, self.name = urls, name

    def words(self, action: str, *rest: str) -> list[str]:
        return [sys.executable, "-m", "coordkit.cli", "reshard", action, *rest, *self.where]

    def run(self, action: str, *rest: str, **environment: str) -> tuple[int, str, str]:
        done = subprocess.run(
            self.words(action, *rest),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **environment},
        )
        return done.returncode, done.stdout, done.stderr

    def start(self, action: str, *rest: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words(action, *rest),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=dict(os.environ),
            start_new_session=True,
        )

    def address(self, shard: str) -> str:
        return f"{shard}={self.urls[shard]}"

    def status(self) -> Any:
        status, said, error = self.run("status", "--json")
        assert status == 0, error
        return json.loads(said)


@pytest.fixture
def plain(coordkit_redis_shards: Any) -> Iterator[dict[str, redis.Redis]]:
    again = Retry(ConstantBackoff(0.01), 50)  # the fence drops these connections, too
    clients = {
        s: redis.Redis.from_url(server.url, retry=again, retry_on_error=[redis.ConnectionError])
        for s, server in zip("abc", coordkit_redis_shards, strict=True)
    }
    for client in clients.values():
        client.flushdb()
    yield clients
    for client in clients.values():
        client.flushdb()
        client.close()


@pytest.fixture
def terminal(
    coordkit_redis_shards: Any, coordkit_zk: Any, coordkit_zk_server: Any, coordkit_namespace: str, plain: Any
) -> Terminal:
    urls = {s: server.url for s, server in zip("abc", coordkit_redis_shards, strict=True)}
    hosts = f"{coordkit_zk_server.hosts}/{coordkit_namespace}"
    made = Terminal(hosts, "/users", urls, coordkit_namespace)
    assert made.run("init", made.address("a"), made.address("b"), "--name", made.name) == (0, "", "")
    store = TopologyStore(coordkit_zk, "/users")
    shards = ShardedRedis.from_topology(store, lambda _, address: redis.Redis.from_url(address))
    for i in range(KEYS):
        shards.set(f"k{i}", i)
    shards.close()
    return made


def ended(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def check(plain: dict[str, redis.Redis], topology: Any) -> None:
    found = {}
    for shard, client in plain.items():
        found.update({key: (shard, client.get(key)) for key in client.keys("k*")})
    assert {key: value for key, (_, value) in found.items()} == {f"k{i}".encode(): b"%d" % i for i in range(KEYS)}
    if topology is not None:
        assert all(topology.owners.lookup(key) == shard for key, (shard, _) in found.items())


def test_add_status_reweight_and_drain(terminal: Terminal, plain: Any, coordkit_zk: Any) -> None:
    store = TopologyStore(coordkit_zk, "/users")
    status, said, error = terminal.run("add", terminal.address("c"), "--weight", "2", "--batch", "8000")
    assert (status, said) == (0, "")
    assert "100.0%" in error.splitlines()[-1]
    assert "done" in error.splitlines()[-1]
    check(plain, store.read())
    status, said, _ = terminal.run("status")
    assert status == 0
    assert f"c: 8192 slots, weight 2, {terminal.urls['c']}" in said
    assert "clients: 0, of which 0" in said
    status, said, _ = terminal.run("reweight", "c", "1", "--json", "--keys-per-second", "0", "--bytes-per-second", "0")
    lines = [json.loads(line) for line in said.splitlines()]
    assert status == 0
    assert lines[-1]["phase"] == "done"
    assert lines[-1]["share"] == 1.0
    assert lines[-1]["keys"] > 0
    check(plain, store.read())
    assert terminal.run("drain", "a", "--batch", "16384")[0] == 0
    check(plain, store.read())
    found = terminal.status()
    assert (sorted(found["shards"]), found["moves"], found["planned"]) == (["b", "c"], [], [])


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_it_may_be_stopped_and_killed_and_is_resumed(
    terminal: Terminal, plain: Any, coordkit_zk: Any, sent: int, status: int
) -> None:
    store = TopologyStore(coordkit_zk, "/users")
    moving = terminal.start("add", terminal.address("c"), "--keys-per-second", "100", "--batch", "16384")
    try:
        assert wait_until(lambda: plain["c"].dbsize() > 20, 30)
        moving.send_signal(sent)
        _, error = moving.communicate(timeout=30)
        assert moving.returncode == status, error
    finally:
        ended(moving)
    if sent != signal.SIGKILL:
        assert "`coordkit reshard resume` goes on" in error
    assert len(terminal.status()["moves"]) == 1
    check(plain, None)
    # Until the session of one that was killed has ended, another stands in line and says so.
    for _ in range(10):
        code, _, error = terminal.run("resume")
        if code != 75:
            break
    assert code == 0, error
    check(plain, store.read())
    assert terminal.status()["planned"] == []


def test_one_moves_at_a_time_and_who_has_lost_that_says_so(terminal: Terminal, plain: Any, coordkit_zk: Any) -> None:
    store = TopologyStore(coordkit_zk, "/users")
    moving = terminal.start("add", terminal.address("c"), "--keys-per-second", "2", "--batch", "16384")
    try:
        assert wait_until(lambda: plain["c"].dbsize() > 5, 30)
        code, _, error = terminal.run("resume")
        assert (code, "coordkit: " in error) == (75, True), error
        for name in coordkit_zk.get_children("/users/rebalancer/candidates"):
            coordkit_zk.delete(f"/users/rebalancer/candidates/{name}")
        _, error = moving.communicate(timeout=30)
        assert moving.returncode == 76, error  # at its next step, and not in front of the next write of the topology
        assert len(plain["c"].keys("k*")) < 80  # of about a hundred of the first batch
    finally:
        ended(moving)
    check(plain, None)
    assert terminal.run("resume")[0] == 0
    check(plain, store.read())


def test_a_rollback(terminal: Terminal, plain: Any, coordkit_zk: Any) -> None:
    store = TopologyStore(coordkit_zk, "/users")
    moving = terminal.start("add", terminal.address("c"), "--keys-per-second", "100", "--batch", "16384")
    try:
        assert wait_until(lambda: plain["c"].dbsize() > 20, 30)
        moving.send_signal(signal.SIGINT)
        moving.communicate(timeout=30)
    finally:
        ended(moving)
    assert terminal.run("rollback")[0] == 0
    assert plain["c"].keys("k*") == []
    check(plain, store.read())
    assert terminal.run("rollback")[0] == 3
    assert len(terminal.status()["planned"]) > 0, "what is to be is as it was; drain takes that back, too"
    assert terminal.run("drain", "c")[0] == 0
    assert sorted(terminal.status()["shards"]) == ["a", "b"]


def test_a_bar_on_a_terminal(terminal: Terminal) -> None:
    pytest.importorskip("rich", reason="the bar is drawn by rich, an extra")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        terminal.words("add", terminal.address("c"), "--batch", "16384"),
        stderr=theirs,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "160", "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    try:
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # that is how Linux says that nobody has it open any more
                break
            if not part:
                break
            shown += part
    finally:
        os.close(ours)
        assert process.wait(30) == 0
    assert "━".encode() in shown
    assert b"keys/s" in shown


def test_what_is_wrong_is_said(terminal: Terminal, capsys: Any) -> None:
    """In this process, which is quicker than a program for each."""
    where = {"elsewhere": [*terminal.where[:3], "/nothing"]}
    for words, status, said in [
        (("drain", "z"), 2, "name='z'"),
        (("add", "c"), 2, "NAME=ADDRESS"),
        (("add", f"a={terminal.urls['c']}"), 2, "is a shard already"),
        (("add", terminal.address("c"), "--batch", "0"), 2, "batch=0"),
        (("add", "c=redis://127.0.0.1:1/0"), 3, "cannot be reached"),
        (("rollback",), 3, "no move is under way"),
        (("repair", "z"), 2, "name='z'"),
        (("elsewhere",), 3, "there is no topology"),
        (("repair", "a"), 0, ""),
    ]:
        line = (
            ["reshard", *words, *terminal.where] if words[0] not in where else ["reshard", "status", *where[words[0]]]
        )
        assert cli.main(line) == status, words
        assert said in capsys.readouterr().err, words


def test_a_password_comes_from_the_environment(terminal: Terminal, plain: Any, coordkit_zk: Any) -> None:
    for client in plain.values():
        client.acl_setuser("mover", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"], commands=["+@all"])
    try:
        words = ("add", terminal.address("c"), "--username", "mover", "--batch", "16384")
        code, _, error = terminal.run(*words)
        assert code == 3, error
        assert terminal.run(*words, COORDKIT_REDIS_PASSWORD="secret")[0] == 0
        for client in plain.values():
            client.acl_setuser("mover", enabled=True, commands=["-client|kill"])
        words = ("drain", "a", "--username", "mover", "--batch", "16384", "--lease", "0.1")
        code, _, error = terminal.run(*words, COORDKIT_REDIS_PASSWORD="secret")
        assert code == 0, error
        assert "CLIENT KILL is forbidden on a and" in error
        assert "0.1 s longer" in error
    finally:
        for client in plain.values():
            client.acl_deluser("mover")
    check(plain, TopologyStore(coordkit_zk, "/users").read())


def test_the_slots_of_keys_are_those_of_the_topology(terminal: Terminal, coordkit_zk: Any) -> None:
    topology: Topology = TopologyStore(coordkit_zk, "/users").read()
    assert topology.name == terminal.name
    assert topology.state_of(slot_of("k1")).serving in {"a", "b"}


def test_init_refuses_what_would_lose_data(
    coordkit_zk: Any, coordkit_zk_server: Any, coordkit_namespace: str, coordkit_redis_shards: Any, plain: Any
) -> None:
    """One server under two names, keys of slots that are another shard's, a topology of other shards: none is made."""
    urls = {s: server.url for s, server in zip("abc", coordkit_redis_shards, strict=True)}
    urls["z"] = urls["a"].replace("127.0.0.1", "localhost")
    made = Terminal(f"{coordkit_zk_server.hosts}/{coordkit_namespace}", "/users", urls, coordkit_namespace)
    store = TopologyStore(coordkit_zk, "/users")
    status, _, said = made.run("init", made.address("a"), made.address("z"), "--name", made.name)
    assert (status, "z: it is the same database as shard 'a'" in said) == (3, True), said
    plain["a"].mset({f"k{i}": i for i in range(40)})
    status, _, said = made.run("init", made.address("a"), made.address("b"), "--name", made.name)
    assert (status, "a: it has keys of slots that it does not own" in said) == (3, True), said
    with pytest.raises(BadTopology, match="there is no topology"):
        store.read()
    assert made.run("init", made.address("a"), "--name", made.name) == (0, "", "")
    assert made.run("init", made.address("a"), "--name", made.name) == (0, "", "")
    status, _, said = made.run("init", made.address("b"), "--name", made.name)
    assert (status, "has a topology of ['a'] already: use add" in said) == (2, True), said
    assert len(plain["a"].keys("k*")) == 40
    assert plain["b"].dbsize() == 0


def test_a_drain_is_taken_back(terminal: Terminal, plain: Any, coordkit_zk: Any) -> None:
    store = TopologyStore(coordkit_zk, "/users")
    moving = terminal.start("drain", "a", "--keys-per-second", "20", "--batch", "4000")
    try:
        assert wait_until(lambda: bool(store.read().moves), 30)
        moving.send_signal(signal.SIGINT)
        moving.communicate(timeout=30)
    finally:
        ended(moving)
    assert terminal.run("undrain", "a")[0] == 0
    found = terminal.status()
    assert (found["shards"]["a"]["slots"], found["shards"]["a"]["state"]) == (8192, "up")
    assert found["planned"] == []
    check(plain, store.read())


def test_replicas_are_named_and_a_shard_is_elsewhere_then(terminal: Terminal, plain: Any, coordkit_zk: Any) -> None:
    status, _, said = terminal.run("readdress", f"b={terminal.urls['c']}")
    assert (status, "b: at the new address it knows no epoch" in said) == (3, True), said
    for key in plain["b"].scan_iter():
        plain["c"].restore(key, 0, plain["b"].dump(key))
    assert terminal.run("readdress", f"b={terminal.urls['c']},{terminal.urls['b']}") == (0, "", "")
    assert terminal.status()["shards"]["b"]["primary"] == terminal.urls["c"]
    assert terminal.status()["shards"]["b"]["replicas"] == [terminal.urls["b"]]
    assert f"weight 1, {terminal.urls['c']}, {terminal.urls['b']}" in terminal.run("status")[1]
    store = TopologyStore(coordkit_zk, "/users")
    shards = ShardedRedis.from_topology(store, lambda _, address: redis.Redis.from_url(address))
    assert shards.mget([f"k{i}" for i in range(KEYS)]) == [b"%d" % i for i in range(KEYS)]
    shards.close()


def dead(coordkit_zk: Any, shard: str) -> TopologyStore:
    """Have the topology say that a shard is where nobody answers, as if its server were gone."""
    store = TopologyStore(coordkit_zk, "/users")
    with store.rebalancer("test") as leadership:
        there = store.read()
        store.publish(there.with_addresses(shard, "redis://127.0.0.1:1/0"), expected=there, leadership=leadership)
    return store


def test_a_dead_shard_of_a_cache_is_abandoned(
    coordkit_zk: Any, coordkit_zk_server: Any, coordkit_namespace: str, coordkit_redis_shards: Any, plain: Any
) -> None:
    urls = {s: server.url for s, server in zip("abc", coordkit_redis_shards, strict=True)}
    made = Terminal(f"{coordkit_zk_server.hosts}/{coordkit_namespace}", "/users", urls, coordkit_namespace)
    shards = [made.address(shard) for shard in "abc"]
    assert made.run("init", *shards, "--name", made.name, "--cache") == (0, "", "")
    status, _, said = made.run("init", *shards, "--name", made.name)
    assert (status, "was declared a cache, which cannot be changed" in said) == (2, True), said
    assert made.status()["cache"] is True
    assert f"{made.name}: a cache, epoch 1" in made.run("status")[1]
    status, _, said = made.run("abandon", "c")
    assert (status, "c: it answers (1), so nothing was changed" in said) == (3, True), said
    dead(coordkit_zk, "c")
    status, said, error = made.run("abandon", "c", "--json")
    assert status == 0, error
    assert json.loads(said.splitlines()[-1])["slots_lost"] == 5461
    assert "shard 'c' (redis://127.0.0.1:1/0) was given up: 5461 of 16384 slots (33.3 %)" in error
    assert error.splitlines()[-1].startswith("GIVEN UP: 5461 of 16384 slots, with all keys that shard 'c' had.")
    assert sorted(made.status()["shards"]) == ["a", "b"]
    assert made.run("abandon", "c")[0] == 2


def test_a_dead_shard_of_what_is_no_cache(terminal: Terminal, plain: Any, coordkit_zk: Any) -> None:
    store = dead(coordkit_zk, "b")
    status, _, said = terminal.run("abandon", "b")
    assert (status, "was not declared a cache: 8192 slots" in said, "--lose-keys-and-locks" in said) == (3, True, True)
    abandoning = terminal.start("abandon", "b", "--lose-keys-and-locks", "--lease", "60")
    try:
        assert wait_until(lambda: bool(store.read().leaving), 30)
        found = terminal.status()
        assert [(m["state"], m["source"], m["target"]) for m in found["moves"]] == [("abandoning", "b", "a")]
        abandoning.send_signal(signal.SIGINT)
        _, error = abandoning.communicate(timeout=30)
        assert abandoning.returncode == 130, error
    finally:
        ended(abandoning)
    assert terminal.run("rollback")[0] == 3
    assert terminal.run("undrain", "b")[0] == 2
    status, _, error = terminal.run("resume", "--lease", "0.1")
    assert status == 0
    assert "GIVEN UP: 8192 of 16384 slots, with all keys, locks and token counters that a shard had" in error
    assert terminal.status()["shards"]["a"]["slots"] == 16384
    kept = plain["a"].keys("k*")
    assert len(kept) == KEYS - len(plain["b"].keys("k*"))
