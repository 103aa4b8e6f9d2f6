"""Where test servers come from: the settings and the choice, without any server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coordkit.testing import FaultProxy, ServerFailed, backends, images, processes
from coordkit.testing.backends import Servers, Settings, Unavailable, choose
from coordkit.testing.external import ExternalRedis, ExternalZooKeeper, connect_redis
from coordkit.testing.servers import NotOwned, scaled


def read(option=None, env=None, ini=None) -> Settings:
    """Read settings from three plain dicts."""
    return Settings.read((option or {}).get, env or {}, lambda name: (ini or {}).get(name, ""))


@pytest.fixture
def present(monkeypatch):
    """Give a set of the backends that exist, whatever this machine has."""
    there: set[str] = set()
    for name in ("external", "process", "docker"):
        monkeypatch.setattr(backends, f"_{name}", lambda *_, name=name: (name in there, f"fix {name}"))
    return there


SAID = {
    "backend": ("process", "docker", "external"),
    "redis_url": ("redis://a", "redis://b", "redis://c"),
    "zk_hosts": ("a:1", "b:1", "c:1"),
    "redis_image": ("a", "b", "c"),
    "zk_image": ("a", "b", "c"),
}


@pytest.mark.parametrize("name", SAID)
def test_the_command_line_goes_before_the_environment_before_the_ini_file(name):
    line, env, ini = SAID[name]
    said = {
        "option": {f"coordkit_{name}": line},
        "env": {f"COORDKIT_TEST_{name.upper()}": env},
        "ini": {f"coordkit_{name}": ini},
    }
    field = "backends" if name == "backend" else name
    wrap = (lambda value: (value,)) if name == "backend" else (lambda value: value)

    assert getattr(read(**said), field) == wrap(line)
    del said["option"]
    assert getattr(read(**said), field) == wrap(env)
    del said["env"]
    assert getattr(read(**said), field) == wrap(ini)
    assert getattr(read(), field) == getattr(Settings(), field)


@pytest.mark.parametrize("name", ["redis_url", "zk_hosts", "redis_image", "zk_image"])
def test_an_empty_option_takes_back_what_the_environment_and_the_ini_file_say(name):
    said = {"env": {f"COORDKIT_TEST_{name.upper()}": "b"}, "ini": {f"coordkit_{name}": "c"}}
    assert getattr(read(option={f"coordkit_{name}": ""}, **said), name) == getattr(Settings(), name)


@pytest.mark.parametrize(("name", "general"), [("redis_image", "REDIS_IMAGE"), ("zk_image", "ZOOKEEPER_IMAGE")])
def test_images_follow_the_variable_of_demo_and_compose_where_tests_have_none_of_their_own(name, general):
    env = {f"COORDKIT_{general}": "general"}
    assert getattr(read(env=env), name) == "general"
    assert getattr(read(env=env, ini={f"coordkit_{name}": "ini"}), name) == "ini"
    assert getattr(read(env={**env, f"COORDKIT_TEST_{name.upper()}": "test"}), name) == "test"
    assert getattr(read(env={f"COORDKIT_{general}": ""}), name) == getattr(Settings(), name)


def test_compose_starts_the_same_images():
    compose = Path(__file__).parents[2] / "compose"
    in_yaml = re.findall(r"image: \$\{(\w+):-([\w:.]+)\}", (compose / "docker-compose.yml").read_text())
    assert set(in_yaml) == {("COORDKIT_REDIS_IMAGE", images.REDIS), ("COORDKIT_ZOOKEEPER_IMAGE", images.ZOOKEEPER)}


@pytest.mark.parametrize(
    ("said", "required"),
    [
        ({}, False),
        ({"env": {"CI": "true"}}, True),
        ({"env": {"CI": "false"}}, False),
        ({"env": {"COORDKIT_TEST_REQUIRE": "1"}}, True),
        ({"env": {"CI": "true", "COORDKIT_TEST_REQUIRE": "0"}}, False),
        ({"ini": {"coordkit_require": "true"}}, True),
        ({"option": {"coordkit_require": "1"}, "env": {"COORDKIT_TEST_REQUIRE": "0"}}, True),
    ],
)
def test_servers_are_required_when_asked_for_and_in_ci(said, required):
    assert read(**said).require is required


def test_a_backend_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(ValueError, match="'podman' is none of auto, external, process, docker"):
        read(option={"coordkit_backend": "process,podman"})


def test_several_backends_make_a_matrix_without_repetition():
    assert read(option={"coordkit_backend": "process, docker,process"}).backends == ("process", "docker")


def test_auto_takes_external_before_process_before_docker(present):
    present.update({"external", "process", "docker"})
    for expected in ("external", "process", "docker"):
        assert choose("redis", Settings(), "auto").backend == expected
        present.remove(expected)
    assert choose("redis", Settings(), "auto").backend is None


def test_each_kind_of_server_chooses_for_itself(monkeypatch, present):
    present.add("docker")
    monkeypatch.setattr(backends, "_process", lambda kind, _: (kind == "redis", "fix process"))
    assert choose("redis", Settings(), "auto").backend == "process"
    assert choose("zookeeper", Settings(), "auto").backend == "docker"


def test_a_backend_asked_for_by_name_is_never_replaced(present):
    present.update({"external", "process"})
    choice = choose("redis", Settings(), "docker")
    assert choice.backend is None
    assert choice.why == "fix docker"


def test_where_there_is_nothing_the_message_says_all_three_ways_out(present):
    with pytest.raises(Unavailable, match=r"no ZooKeeper.*fix external.*fix process.*fix docker") as caught:
        Servers(Settings(), "auto").zookeeper(1)
    assert not caught.value.fail


@pytest.mark.parametrize(("settings", "backend"), [(Settings(require=True), "auto"), (Settings(), "process")])
def test_nothing_there_is_a_failure_when_required_or_named(present, settings, backend):
    with pytest.raises(Unavailable, match="no Redis") as caught:
        Servers(settings, backend).redis("one", 1)
    assert caught.value.fail


def test_a_start_that_failed_is_told_again_at_once_and_not_tried_again(monkeypatch, present):
    present.add("process")
    tried = []

    def fail(count):
        tried.append(count)
        raise ServerFailed("it did not come up")

    monkeypatch.setattr(processes, "start_redis_servers", fail)
    monkeypatch.setattr(processes, "start_zookeeper", fail)
    servers = Servers(Settings(), "auto")
    for _ in range(2):
        for ask in (
            lambda: servers.redis("shards", 3),
            lambda: servers.redis("quorum", 5),
            lambda: servers.zookeeper(3),
        ):
            with pytest.raises(ServerFailed, match="it did not come up"):
                ask()
    assert tried == [3, 5, 3]


def test_zookeeper_is_taken_from_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("COORDKIT_ZOOKEEPER_CLASSPATH", raising=False)
    (tmp_path / "lib").mkdir()
    monkeypatch.setenv("ZOOKEEPER_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no zookeeper.jar.*set ZOOKEEPER_HOME"):
        processes.zookeeper_classpath()

    (tmp_path / "lib" / "zookeeper-3.9.2.jar").touch()
    (tmp_path / "lib" / "zookeeper-jute-3.9.2.jar").touch()
    assert processes.zookeeper_classpath() == f"{tmp_path}/conf:{tmp_path}/*:{tmp_path}/lib/*"
    assert processes.version("zookeeper") == "3.9.2"

    monkeypatch.setenv("COORDKIT_ZOOKEEPER_CLASSPATH", "/a.jar:/b.jar")
    assert processes.zookeeper_classpath() == "/a.jar:/b.jar"


def test_what_is_missing_is_said_with_the_commands_that_fix_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert "apt-get install redis-server" in processes.missing("redis")
    assert "apt-get install openjdk" in processes.missing("zookeeper")
    with pytest.raises(FileNotFoundError, match="brew install redis"):
        processes.start_redis()


def test_a_redis_server_asked_for_by_name_is_never_replaced_by_another(monkeypatch, tmp_path):
    mine = tmp_path / "redis-server-6.2"
    monkeypatch.setenv("COORDKIT_REDIS_SERVER", str(mine))
    assert processes.missing("redis") == f"COORDKIT_REDIS_SERVER={mine} is not a program that can be run"
    with pytest.raises(FileNotFoundError, match=r"redis-server-6\.2 is not a program"):
        processes.redis_binary()
    mine.write_text("#!/bin/sh\necho Redis server v=6.2.14 sha=0\n")
    mine.chmod(0o755)
    assert processes.missing("redis") is None
    assert processes.redis_binary() == str(mine)
    assert processes.version("redis") == "6.2.14"
    assert not processes.takes_debug_option(str(mine))


def test_a_report_shows_no_password():
    choice = choose("redis", Settings(redis_url="redis://me:secret@h:1/0,redis://:secret@h:2/0"), "external")
    assert str(choice) == "external (h:1/0,h:2/0)"


def test_a_url_named_twice_is_one_server():
    with pytest.raises(LookupError, match="2 independent Redis servers are needed; COORDKIT_TEST_REDIS_URL names 1"):
        connect_redis("redis://h:1/0, redis://h:1/0", 2)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:1", "redis://127.0.0.1:{port}"),
        ("redis://h:1/5", "redis://127.0.0.1:{port}/5"),
        ("redis://me:p%40ss@[::1]:1/5?protocol=3", "redis://me:p%40ss@127.0.0.1:{port}/5?protocol=3"),
        ("redis://:secret@h/0", "redis://:secret@127.0.0.1:{port}/0"),
    ],
)
def test_a_proxy_s_url_is_the_server_s_with_another_address(url, expected):
    with FaultProxy("h", 1, server_url=url) as proxy:
        assert proxy.url == expected.format(port=proxy.port)


@pytest.mark.parametrize("scheme", ["rediss", "unix"])
def test_a_proxy_before_tls_is_refused_without_showing_the_password(scheme):
    with pytest.raises(ValueError, match=f"server_url: '{scheme}://...@h:1' is not redis://") as caught:
        FaultProxy("h", 1, server_url=f"{scheme}://:secret@h:1/0")
    assert "secret" not in str(caught.value)


def test_too_few_external_servers_are_said_before_one_is_asked():
    with pytest.raises(LookupError, match="5 independent Redis servers are needed; COORDKIT_TEST_REDIS_URL names 2"):
        connect_redis("redis://h:1,redis://h:2,redis://h:1", 5)


@pytest.mark.parametrize("url", ["localhost:6379", "http://h:1", "redis://"])
def test_a_redis_url_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="redis_url"):
        ExternalRedis(url)


@pytest.mark.parametrize("hosts", ["localhost", "h:1,h2", "h:p"])
def test_zookeeper_hosts_without_a_port_are_refused(hosts):
    with pytest.raises(ValueError, match="zk_hosts"):
        ExternalZooKeeper(hosts)


def test_external_hosts_keep_their_chroot():
    ensemble = ExternalZooKeeper("a:1,[::1]:2/team/x")
    assert ensemble.hosts == "a:1,[::1]:2/team/x"
    assert [(node.host, node.port) for node in ensemble.nodes] == [("a", 1), ("::1", 2)]
    assert not ensemble.owned


@pytest.mark.parametrize("fault", ["pause", "resume", "kill", "start", "restart"])
def test_a_server_that_is_not_ours_is_never_hurt(fault):
    with pytest.raises(NotOwned, match="h:1 was not started by coordkit"):
        getattr(ExternalRedis("redis://:secret@h:1"), fault)()
    with pytest.raises(NotOwned, match="h:1 was not started by coordkit"):
        getattr(ExternalZooKeeper("h:1"), fault)()


def test_waits_stretch_by_the_timeout_factor(monkeypatch):
    monkeypatch.delenv("COORDKIT_TEST_TIMEOUT_FACTOR", raising=False)
    assert scaled(2.0) == 2.0
    monkeypatch.setenv("COORDKIT_TEST_TIMEOUT_FACTOR", "2.5")
    assert scaled(2.0) == 5.0
