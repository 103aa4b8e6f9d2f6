"""Local processes: what they keep, how they fail, and that none is left behind. Needs redis-server and ZooKeeper."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import redis

from coordkit.testing import ServerFailed, plugin, processes
from coordkit.testing.processes import start_redis, start_redis_servers, start_zookeeper
from coordkit.testing.servers import ask, serves_redis, wait_until


@pytest.fixture(autouse=True)
def _binaries(request):
    """Skip where the programs are missing; fail where the run asked for processes by name."""
    lacks = processes.missing("redis") or processes.missing("zookeeper")
    if lacks:
        (pytest.fail if "process" in request.config.stash[plugin._settings].backends else pytest.skip)(lacks)


def gone(pid: int) -> bool:
    """Whether a process is no more (or a zombie that nobody has reaped yet)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_stopped_server_leaves_neither_process_nor_directory():
    with start_redis() as server:
        pid, directory = server.pid, server.directory
        assert directory.is_dir()
    assert gone(pid)
    assert not directory.exists()
    server.stop()
    with pytest.raises(ServerFailed, match="stopped for good"):
        server.restart()


@pytest.mark.parametrize(("appendonly", "kept"), [("no", None), ("always", b"1")])
def test_what_a_redis_keeps_over_a_crash_is_what_it_was_told_to_keep(appendonly, kept):
    with start_redis(appendonly=appendonly) as server, redis.Redis.from_url(server.url) as client:
        client.set("a", 1)
        server.kill()
        server.restart()
        assert client.get("a") == kept


def test_a_replica_is_in_step_when_it_is_given_out():
    with start_redis(password="p") as primary, redis.Redis.from_url(primary.url) as client:
        client.set("a", 1)
        with start_redis(replica_of=primary, password="p") as replica, redis.Redis.from_url(replica.url) as reader:
            assert reader.get("a") == b"1"
            assert reader.info("replication")["role"] == "slave"


def test_a_server_of_redis_7_allows_debug_commands():
    with start_redis() as server, redis.Redis.from_url(server.url) as client:
        if int(client.info("server")["redis_version"].partition(".")[0]) < 7:
            pytest.skip("Redis before 7 always allows them")
        assert client.execute_command("DEBUG", "SLEEP", "0")


def test_a_wrong_setting_is_a_failure_with_the_servers_own_words():
    with pytest.raises(ServerFailed, match=r"(?s)ended with status 1.*\$ .*--no-such-option.*Bad directive"):
        start_redis(args=["--no-such-option", "yes"])


def test_a_port_that_is_taken_for_a_moment_is_waited_for():
    with start_redis() as server:
        server.kill()
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind((server.host, server.port))
            thief.listen()
            server.start()
            assert wait_until(lambda: not server.running(), 10.0)
        server.wait_ready(10.0)
        assert serves_redis(server.host, server.port)


def test_when_one_of_several_fails_none_is_left(monkeypatch):
    started = []
    plain = processes.RedisProcess

    def second_is_bad(port, **options):
        if started:
            options["args"] = ["--no-such-option", "yes"]
        started.append(plain(port, **options))
        return started[-1]

    monkeypatch.setattr(processes, "RedisProcess", second_is_bad)
    with pytest.raises(ServerFailed):
        start_redis_servers(2)
    assert len(started) == 2
    assert not any(server.running() or server.directory.exists() for server in started)


def test_zookeeper_takes_the_tick_time_that_bounds_its_sessions():
    with start_zookeeper(tick_time=500) as ensemble:
        [node] = ensemble.nodes
        assert b"\nminSessionTimeout=1000\n" in ask(node.host, node.port, b"conf")


ORPHANS = """
import sys, threading, time
from coordkit.testing.processes import start_redis
servers = []
def start(): servers.append(start_redis())
if sys.argv[1] == "thread":
    worker = threading.Thread(target=start)
    worker.start()
    worker.join()
else:
    start()
print(servers[0].pid, servers[0].port, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has died")
@pytest.mark.parametrize("origin", ["main", "thread"])
def test_servers_die_with_a_parent_that_is_killed_and_not_with_the_thread_that_started_them(origin, tmp_path):
    env = {**os.environ, "TMPDIR": str(tmp_path)}  # what a killed parent cannot remove goes with the test
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS, origin], stdout=subprocess.PIPE, text=True, env=env)
    try:
        pid, port = map(int, parent.stdout.readline().split())
        assert serves_redis("127.0.0.1", port)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
    assert wait_until(lambda: gone(pid), 10.0)


def test_a_parent_that_exits_without_stopping_leaves_nothing(tmp_path):
    code = "from coordkit.testing.processes import start_redis; s = start_redis(); print(s.pid)"
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=30, check=True)
    assert gone(int(done.stdout))
    assert not list(tmp_path.iterdir())


def test_a_server_started_in_a_thread_outlives_the_thread():
    servers = []
    worker = threading.Thread(target=lambda: servers.append(start_redis()))
    worker.start()
    worker.join()
    with servers[0] as server:
        assert not wait_until(lambda: not server.running(), 0.3)
