"""The worked example: a pair of Redis servers goes on through crashes, and no acknowledged write is lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Literal

import pytest
import redis
from pair import SESSION, Pair

from coordkit import Fence, StaleToken, Token
from coordkit.core import in_sync
from coordkit.redis_pair import FENCE, Agent, main
from coordkit.testing.processes import start_redis
from coordkit.testing.servers import ZooKeeperEnsemble


@pytest.fixture(params=[False, True], ids=["in memory", "durable"])
def durable(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def pair(
    coordkit_zk_server: ZooKeeperEnsemble, zk_client: Any, coordkit_namespace: str, durable: bool
) -> Iterator[Pair]:
    with ExitStack() as stack:
        policy: Literal["no", "always"] = "always" if durable else "no"
        servers = (
            stack.enter_context(start_redis(appendonly=policy)),
            stack.enter_context(start_redis(appendonly=policy)),
        )
        made = Pair(servers, coordkit_zk_server.hosts, zk_client(), f"/{coordkit_namespace}/pair", stack)
        made.start()
        yield made


@pytest.mark.timeout(150)
def test_two_machines_die_one_after_the_other(pair: Pair) -> None:
    a, b = pair.machines.values()
    pair.hold("a").crash()
    pair.until(pair.leads("b"))
    a.server.start()  # in memory: with no data at all
    a.start_agent()
    pair.goes_well("b")

    pair.hold("b").crash()
    pair.until(pair.leads("a"))
    b.server.start()
    b.start_agent()
    pair.goes_well("a")
    pair.check("a")


@pytest.mark.timeout(150)
@pytest.mark.parametrize("durable", [False], ids=["in memory"], indirect=True)
def test_who_came_back_without_its_data_does_not_take_over(pair: Pair) -> None:
    a, b = pair.machines.values()
    pair.hold("a").crash()
    pair.until(pair.leads("b"))
    pair.until(lambda: pair.in_sync() == "b")
    b.pause()  # while a is away, and with all that there is
    a.server.start()
    a.start_agent()
    time.sleep(3 * SESSION)
    assert not pair.leads("a")()
    assert a.server.ready()

    b.resume()
    pair.goes_well("b")
    pair.check("b")


@pytest.mark.timeout(150)
def test_an_agent_that_is_stopped_finds_itself_a_backup(pair: Pair) -> None:
    a, b = pair.machines.values()
    assert a.agent is not None
    late = pair.leader
    assert late is not None
    pair.hold("a")  # its server goes on, and so do those who write there
    pair.until(pair.leads("b"))
    pair.until(b.replicates)
    with redis.Redis.from_url(b.server.url) as client, pytest.raises(StaleToken):
        Fence(client, FENCE).claim(token=Token(late.token, "late"))
    a.agent.send_signal(signal.SIGCONT)
    pair.goes_well("b")

    pair.hold("b").crash()
    pair.until(pair.leads("a"))
    pair.check("a")


@pytest.mark.timeout(150)
def test_a_machine_is_stopped_and_goes_on_later(pair: Pair) -> None:
    a, b = pair.machines.values()
    pair.hold("a").pause()
    pair.until(pair.leads("b"))
    a.resume()
    pair.goes_well("b")

    pair.hold("b").pause()
    pair.until(pair.leads("a"))
    b.resume()
    pair.goes_well("a")
    pair.check("a")


@pytest.mark.timeout(150)
def test_an_agent_is_cut_off_from_zookeeper(pair: Pair) -> None:
    a, b = pair.machines.values()
    assert a.agent is not None
    pair.hold("a")
    a.ensemble.drop_requests = a.ensemble.drop_replies = True
    a.agent.send_signal(signal.SIGCONT)
    pair.until(pair.leads("b"))
    pair.until(b.replicates)
    a.ensemble.drop_requests = a.ensemble.drop_replies = False
    pair.goes_well("b")
    assert a.agent.poll() is None, "it is a backup now"

    pair.hold("b").crash()
    pair.until(pair.leads("a"))
    pair.check("a")


@pytest.mark.timeout(150)
@pytest.mark.parametrize("durable", [False], ids=["in memory"], indirect=True)
def test_a_server_that_begins_anew_under_its_agent_is_found_out(pair: Pair) -> None:
    """It is restarted, empty, before anybody sees it; then its agent is elected, because it was in sync."""
    a, b = pair.machines.values()
    pair.hold("a")  # so that it cannot see that b follows no more
    b.server.kill()
    a.pause()
    b.server.start()
    pair.until(lambda: b.agent is not None and b.agent.poll() is not None)
    said = in_sync.unpack(pair.zk.get(f"{pair.path}/in_sync")[0])
    assert said is not None
    assert said.identities == {"a"}, "it has said itself that it is not in sync"

    a.resume()
    pair.until(pair.leads("a"))
    b.start_agent()
    pair.goes_well("a")
    pair.check("a")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("durable", [False], ids=["in memory"], indirect=True)
def test_an_agent_that_is_told_to_end_hands_over_at_once(pair: Pair) -> None:
    a = pair.machines["a"]
    assert a.agent is not None
    pair.hold("a")
    a.agent.terminate()
    a.agent.send_signal(signal.SIGCONT)
    assert a.agent.wait(20) == 0
    pair.until(pair.leads("b"))
    pair.check("b")


def test_a_pair_is_two(zk_client: Any) -> None:
    with pytest.raises(ValueError, match="servers must be two, 'c' one of them"):
        Agent(zk_client(), "/pair", "c", {"a": ("h", 1), "b": ("h", 2)})
    with pytest.raises(SystemExit):
        main(["--identity", "a", "--zk", "h:1", "a=h:1"])
    with pytest.raises(SystemExit):
        main(["--identity", "a", "--zk", "h:1", "a=h:1", "b=h"])
