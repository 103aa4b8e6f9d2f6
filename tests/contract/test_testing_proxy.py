"""Each fault of the proxy, between a real client and a real server."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time

import pytest
import redis
from kazoo.protocol.states import KazooState
from redis.backoff import NoBackoff
from redis.retry import Retry

from coordkit.testing import FaultProxy
from coordkit.testing.cleaning import close_kazoo, start_kazoo
from coordkit.testing.servers import ask, wait_until


@pytest.fixture
def proxy(coordkit_redis_server, coordkit_faults):
    """Give a proxy before the Redis server."""
    return coordkit_faults.proxy(coordkit_redis_server)


@pytest.fixture
def far(proxy):
    """Give a client behind the proxy, which tells each failure at once instead of trying again."""
    client = redis.Redis.from_url(
        proxy.url, socket_timeout=0.5, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 0)
    )
    yield client
    client.close()


@pytest.fixture
def key(coordkit_namespace):
    """Give a key of this test's own."""
    return f"{coordkit_namespace}:key"


LOST = (redis.ConnectionError, redis.TimeoutError)


def test_without_a_fault_bytes_go_through_unchanged(far, coordkit_redis, key):
    value = bytes(range(256)) * 8192  # two megabytes: many reads, in both directions
    far.set(key, value)
    assert coordkit_redis.get(key) == value
    assert far.get(key) == value


def test_latency_is_added_in_each_direction(far, proxy):
    far.ping()
    proxy.latency = 0.05
    start = time.monotonic()
    far.ping()
    assert time.monotonic() - start >= 0.1


@pytest.mark.parametrize("latency", [-1, float("nan"), float("inf")])
def test_a_latency_that_is_none_is_refused(proxy, latency):
    with pytest.raises(ValueError, match="latency"):
        proxy.latency = latency


def test_a_matching_reply_is_lost_although_the_request_was_carried_out(far, proxy, coordkit_redis, key):
    proxy.drop_reply_matching(b"OK")
    with pytest.raises(LOST):
        far.set(key, "1")
    assert coordkit_redis.get(key) == b"1"
    assert proxy.hits == {"drop_reply_matching": 1}
    assert far.set(key, "2")  # once only


def test_a_matching_request_is_lost_before_it_is_carried_out(far, proxy, coordkit_redis, key):
    far.set(key, "1")
    proxy.drop_request_matching(b"poison")
    with pytest.raises(LOST):
        far.set(key, "poison")
    assert coordkit_redis.get(key) == b"1"
    assert proxy.hits == {"drop_request_matching": 1}
    assert far.set(key, "poison")


def test_a_needle_that_spans_two_reads_is_found():
    with (
        socket.create_server(("127.0.0.1", 0)) as target,
        FaultProxy(*target.getsockname()) as proxy,
        socket.create_connection((proxy.host, proxy.port), 10.0) as near,
    ):
        proxy.drop_request_matching(b"poison")
        end, _ = target.accept()
        with end:
            near.sendall(b"a poi")
            assert end.recv(100) == b"a poi"
            near.sendall(b"son")
            with pytest.raises(ConnectionResetError):
                near.recv(100)
            with pytest.raises(ConnectionResetError):
                end.recv(100)
        assert proxy.hits == {"drop_request_matching": 1}


def test_a_needle_that_went_through_before_it_was_armed_is_not_found(far, proxy, coordkit_redis, key):
    """The reply to SET, which is OK, went through; that to INCR, which is none, was taken for it."""
    far.set(key, "1")
    proxy.drop_reply_matching(b"OK")
    assert far.incr(key) == 2
    assert proxy.hits == {}
    with pytest.raises(LOST):
        far.set(key, "3")
    assert proxy.hits == {"drop_reply_matching": 1}


def test_new_connections_go_to_another_target(proxy, coordkit_redis_server):
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_connection((proxy.host, proxy.port), 10.0) as old,
    ):
        old.sendall(b"PING\r\n")
        assert old.recv(100) == b"+PONG\r\n"
        proxy.target = other.getsockname()
        with socket.create_connection((proxy.host, proxy.port), 10.0) as new:
            end, _ = other.accept()
            with end:
                new.sendall(b"hello")
                assert end.recv(100) == b"hello"
        old.sendall(b"PING\r\n")
        assert old.recv(100) == b"+PONG\r\n"


@pytest.mark.parametrize("needle", [b"", b"x" * 257])
def test_a_needle_must_have_a_length_that_can_be_found(proxy, needle):
    with pytest.raises(ValueError, match="needle"):
        proxy.drop_reply_matching(needle)


def test_dropped_replies_vanish_and_the_connection_is_not_used_on(far, proxy, coordkit_redis, key):
    far.ping()
    proxy.drop_replies = True
    with pytest.raises(redis.TimeoutError):
        far.set(key, "1")
    assert coordkit_redis.get(key) == b"1"
    assert proxy.hits["drop_replies"] == 1
    proxy.drop_replies = False
    assert far.get(key) == b"1"


def test_a_connection_with_a_hole_is_reset_when_the_switch_goes_off(proxy, coordkit_redis_server):
    connection = redis.Connection(host=proxy.host, port=proxy.port, socket_timeout=10.0, retry=Retry(NoBackoff(), 0))
    connection.connect()
    proxy.drop_replies = True
    connection.send_command("PING")
    assert wait_until(lambda: proxy.hits["drop_replies"] == 1, 10.0)
    proxy.drop_replies = False
    with pytest.raises(redis.ConnectionError):
        connection.read_response()
    connection.disconnect()


def test_dropped_requests_never_arrive(far, proxy, coordkit_redis, key):
    far.ping()
    proxy.drop_requests = True
    with pytest.raises(redis.TimeoutError):
        far.set(key, "1")
    proxy.heal()
    assert far.ping()
    assert not coordkit_redis.exists(key)
    assert proxy.hits["drop_requests"] == 1


def test_held_bytes_are_delivered_later(proxy, coordkit_redis, key):
    patient = redis.Redis.from_url(proxy.url, socket_timeout=20.0)
    patient.ping()
    proxy.hold = True
    worker = threading.Thread(target=patient.set, args=(key, "late"))
    worker.start()
    try:
        worker.join(0.1)
        assert worker.is_alive()
        assert not coordkit_redis.exists(key)
    finally:
        proxy.hold = False
        worker.join(20.0)
    assert coordkit_redis.get(key) == b"late"
    patient.close()


def test_a_refusing_proxy_keeps_old_connections_and_takes_no_new_ones(far, proxy):
    far.ping()
    proxy.refuse = True
    assert far.ping()
    far.connection_pool.disconnect()
    with pytest.raises(LOST):
        far.ping()
    assert proxy.hits["refuse"] >= 1
    proxy.refuse = False
    assert far.ping()


def test_a_reset_ends_every_connection_and_new_ones_are_served(far, proxy):
    pubsub = far.pubsub()
    pubsub.subscribe("a")
    assert pubsub.get_message(timeout=5.0)["type"] == "subscribe"
    proxy.reset_all()
    assert proxy.hits["reset_all"] == 1
    with pytest.raises(LOST):
        pubsub.connection.read_response()
    pubsub.close()
    assert far.ping()


def test_a_cut_line_is_dead_until_it_heals(far, proxy):
    far.ping()
    proxy.cut()
    for _ in range(2):
        with pytest.raises(LOST):
            far.ping()
    proxy.heal()
    assert far.ping()


def lossy_run(server, counter: str) -> list[bool]:
    """Increment a counter 40 times over a lossy line; return which calls were answered."""
    with FaultProxy(server.host, server.port) as line:
        line.lossy(replies=0.3, seed=7)
        request = f"INCR {counter}\r\n".encode()
        answered = [ask(line.host, line.port, request, until=b"\r\n", timeout=10.0) != b"" for _ in range(40)]
        assert line.hits == {"lossy_reply": answered.count(False)}
    return answered


def test_a_lossy_line_loses_a_share_of_replies_and_the_seed_repeats_it(coordkit_redis_server, coordkit_redis, key):
    first = lossy_run(coordkit_redis_server, f"{key}:1")
    assert 0 < first.count(False) < 40
    assert coordkit_redis.get(f"{key}:1") == b"40"  # what was lost were answers, not requests
    assert lossy_run(coordkit_redis_server, f"{key}:2") == first


def test_a_share_must_be_between_nothing_and_all(proxy):
    with pytest.raises(ValueError, match=r"replies: 1\.5"):
        proxy.lossy(replies=1.5)


def test_a_zookeeper_session_outlives_a_cut_that_is_shorter_than_its_timeout(coordkit_zk_server, coordkit_faults):
    proxy = coordkit_faults.proxy(coordkit_zk_server)
    client = start_kazoo(proxy.address, 10.0)
    try:
        states = []
        client.add_listener(states.append)
        session = client.client_id[0]
        proxy.cut()
        assert wait_until(lambda: KazooState.SUSPENDED in states, 10.0)
        proxy.heal()
        assert wait_until(lambda: client.connected, 10.0)
        assert client.client_id[0] == session
        assert client.exists("/")
    finally:
        close_kazoo(client)


def test_an_ensemble_of_several_nodes_takes_one_proxy_for_each(coordkit_zk_ensemble, coordkit_faults):
    with pytest.raises(ValueError, match="take one proxy for each"):
        coordkit_faults.proxy(coordkit_zk_ensemble)


def test_a_server_that_is_down_looks_down_through_the_proxy():
    with FaultProxy("127.0.0.1", 1) as proxy:
        client = redis.Redis.from_url(proxy.url, socket_timeout=5.0, retry=Retry(NoBackoff(), 0))
        with pytest.raises(redis.ConnectionError):
            client.ping()
        client.close()


def test_a_closed_proxy_leaves_no_thread_and_says_that_it_is_closed(coordkit_redis_server):
    def threads():
        return {each for each in threading.enumerate() if each.name == "fault-proxy"}

    before = threads()
    proxy = FaultProxy(coordkit_redis_server.host, coordkit_redis_server.port)
    client = redis.Redis.from_url(proxy.url)
    client.ping()
    assert len(threads()) == len(before) + 1
    proxy.close()
    proxy.close()
    assert threads() == before
    with pytest.raises(RuntimeError, match="closed"):
        proxy.hold = True
    client.close()


def test_a_proxy_that_is_closed_over_live_connections_says_nothing():
    """Whatever the loop's transports and tasks had to say would go to stderr, and would be some user's puzzle."""
    code = """if True:
        import gc, logging, socket, sys, threading
        from coordkit.testing import FaultProxy

        logging.basicConfig(level=logging.DEBUG)
        logging.getLogger("asyncio").setLevel(logging.WARNING)
        def echo(listener):
            while True:
                connection = listener.accept()[0]
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        def answer(connection):
            with connection:
                try:
                    while data := connection.recv(10):
                        connection.sendall(data)
                except OSError:
                    pass

        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=echo, args=(listener,), daemon=True).start()
        for fault in ("none", "drop_replies", "hold", "latency", "reset_all"):
            proxy = FaultProxy(*listener.getsockname())
            clients = [socket.create_connection((proxy.host, proxy.port)) for _ in range(3)]
            for client in clients:
                client.sendall(b"x")
                client.recv(1)
            if fault == "reset_all":
                proxy.reset_all()
            elif fault != "none":
                setattr(proxy, fault, 5.0 if fault == "latency" else True)
                for client in clients:
                    client.sendall(b"y")
            proxy.close()
            for client in clients:
                client.close()
        del proxy
        gc.collect()
        print("closed")
    """
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    # That a step of the loop took long says only that the machine is a busy one.
    said = [line for line in done.stderr.splitlines() if not line.startswith("WARNING:asyncio:Executing <")]
    assert (done.returncode, done.stdout, said) == (0, "closed\n", [])
