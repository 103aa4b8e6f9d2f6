"""`coordkit demo` as a user runs it: every scene holds, a broken promise fails it, and it leaves nothing behind."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from functools import partial
from pathlib import Path

import pytest

from coordkit import cli
from coordkit.demo import scene_2_late_write, scene_5_replicas
from coordkit.testing.servers import ServerFailed, scaled, wait_until

DEMO = [sys.executable, "-m", "coordkit.cli", "demo"]
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Demo:
    """How this test runs the command: its temporary files in one place, its processes known by a mark."""

    def __init__(self, directory: Path) -> None:
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        self.nowhere = directory / "nowhere"
        self.nowhere.mkdir()
        self.mark = f"COORDKIT_TEST_MARK={directory}"

    def environment(self, **changes):
        name, _, value = self.mark.partition("=")
        return {**os.environ, "TMPDIR": str(self.temporary), name: value, **changes}

    def run(self, *arguments, **changes):
        """Run it to its end."""
        return subprocess.run(
            [*DEMO, *arguments],
            env=self.environment(**changes),
            capture_output=True,
            text=True,
            timeout=scaled(50),
            check=False,
        )

    @contextlib.contextmanager
    def started(self, *arguments, until):
        """Run it until its story says ``until``; what the test leaves of it is killed."""
        command = [*DEMO, *arguments]
        with subprocess.Popen(
            command, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                story = process.stderr if "--json" in arguments else process.stdout
                for line in story:  # ends with the process, at the latest
                    if until in line:
                        break
                else:
                    pytest.fail(f"it never said {until!r}")
                yield process
            finally:
                process.kill()

    def processes(self):
        """Return the pids of living processes that carry the mark or stand in the temporary directory.

        redis-server writes its title over its environment; where it stands it keeps, also when that is deleted.
        """
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (
                    self.mark.encode() in (entry / "environ").read_bytes().split(b"\0")
                    or str((entry / "cwd").readlink()).startswith(str(self.temporary))
                ):
                    found.append(int(entry.name))
        return found


@pytest.fixture
def demo(tmp_path):
    return Demo(tmp_path)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Give a way to run the command in this process, and read its JSON."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def run(capsys, *arguments):
        status = cli.main(["demo", "--json", *arguments])
        return status, json.loads(capsys.readouterr().out)

    return run


linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are found by their environment in /proc")


def test_every_scene_holds_and_json_is_one_object(demo):
    """The whole demo on private servers: exit status 0, one JSON object, a plain story within 80 columns."""
    ended = demo.run("--json")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("\n") == 1
    report = json.loads(ended.stdout)
    assert (report["schema"], report["ok"], report["status"], report["error"]) == (1, True, 0, None)
    assert {"coordkit", "python", "redis-py", "kazoo", "redis", "zookeeper"} <= report["versions"].keys()
    assert [scene["number"] for scene in report["scenes"]] == [1, 2, 3, 4, 5]
    for scene in report["scenes"]:
        assert scene["ok"], scene
        assert len(scene["checks"]) >= 3
        assert all(held is True for held in scene["checks"].values())
        assert scene["title"] in ended.stderr
    balance, late, takeover, shards, replicas = (scene["figures"] for scene in report["scenes"])
    assert balance["balance"] == balance["deposits"]
    assert late["second_token"] > late["first_token"]
    assert takeover["first_token"] < takeover["second_token"] < takeover["third_token"]
    assert 0.22 <= shards["moved_share"] <= 0.28
    assert sum(shards["keys_per_shard_after"].values()) == shards["keys"] == 10_000
    assert set(replicas["round_robin"].values()) == {400}

    assert "\x1b" not in ended.stderr
    assert max(map(len, ended.stderr.splitlines())) <= 80
    assert list(demo.temporary.iterdir()) == []
    assert sys.platform != "linux" or demo.processes() == []


def test_named_servers_keep_what_was_theirs_and_nothing_of_the_demo(demo, coordkit_redis, coordkit_namespace, request):
    """On servers of others the demo deletes exactly what it made."""
    redis_server = request.getfixturevalue("coordkit_redis_server")
    zookeeper = request.getfixturevalue("coordkit_zk_server")
    zk = request.getfixturevalue("coordkit_zk")
    coordkit_redis.set(f"{coordkit_namespace}:mine", "1")
    zk.create("/mine", b"1")
    ended = demo.run(
        "--json", "--scene", "1", "2", "3", "--redis-url", redis_server.url, "--zookeeper", zookeeper.hosts
    )
    assert ended.returncode == 0, ended.stderr
    servers = json.loads(ended.stdout)["servers"]
    assert servers["redis"] == f"{redis_server.host}:{redis_server.port} (named)"
    assert servers["zookeeper"] == f"{zookeeper.hosts} (named)"
    namespace = re.search(r"coordkit-demo-[0-9a-f]{8}", ended.stderr).group()
    assert list(coordkit_redis.scan_iter(match=f"*{namespace}*")) == []
    assert coordkit_redis.get(f"{coordkit_namespace}:mine") in (b"1", "1")
    assert zk.exists("/mine")
    # The fixture's client lives below a chroot of its own; the demo wrote beside it.
    assert namespace not in _children_of_the_root(zookeeper.hosts)


def _children_of_the_root(hosts):
    from coordkit.testing.cleaning import close_kazoo, start_kazoo

    client = start_kazoo(hosts, 10.0)
    try:
        return client.get_children("/")
    finally:
        close_kazoo(client)


def test_four_named_servers_are_the_shards(demo, coordkit_redis_quorum):
    """Scene 4 uses named servers where there are enough of them, and leaves them empty."""
    urls = [server.url for server in coordkit_redis_quorum[:4]]
    ended = demo.run("--json", "--scene", "4", "--redis-url", ",".join(urls), PATH=str(demo.nowhere))
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["servers"]["shards"].endswith("(named)")
    import redis

    for url in urls:
        with redis.Redis.from_url(url) as client:
            assert list(client.scan_iter(match="*coordkit-demo-*")) == []


def test_without_the_fence_the_demo_fails(here, capsys, monkeypatch):
    """A late write that gets through is seen by the checks: exit status 1."""
    unfenced = partial(scene_2_late_write.play, fenced=False)
    monkeypatch.setattr(scene_2_late_write, "play", unfenced)
    status, report = here(capsys, "--scene", "2")
    [scene] = report["scenes"]
    assert (status, report["ok"], scene["ok"], scene["error"]) == (1, False, False, None)
    assert not scene["checks"]["late_write_refused"]
    assert not scene["checks"]["balance_kept"]
    assert scene["checks"]["token_rises"]
    assert scene["figures"]["balance"] == 1000


def test_a_picker_that_favours_one_replica_fails_the_demo(here, capsys, monkeypatch):
    """The servers' own counts tell a round robin that is none."""

    class First(scene_5_replicas.RoundRobin):
        def pick(self, *, exclude=()):  # noqa: ARG002 - as the real one
            return self._nodes[0]

    monkeypatch.setattr(scene_5_replicas, "RoundRobin", First)
    status, report = here(capsys, "--scene", "5")
    [scene] = report["scenes"]
    assert status == 1
    assert [name for name, held in scene["checks"].items() if not held] == ["round_robin_exact"]


def test_a_worker_that_dies_fails_its_scene_and_the_next_is_played(here, capsys, monkeypatch):
    """A scene that cannot be played to its end is told with its reason, never passed over."""
    monkeypatch.setattr(scene_2_late_write, "TTL", -1.0)  # what its worker refuses
    status, report = here(capsys, "--scene", "2", "5")
    late, replicas = report["scenes"]
    assert status == 1
    assert "ttl" in late["error"]
    assert "ValueError" in late["error"]
    assert not late["ok"]
    assert replicas["ok"]


@linux
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize(
    ("scene", "until"),
    [("2", "the second process waits"), ("3", "three processes join")],
    ids=["while a worker is stopped", "while candidates start"],
)
def test_an_interrupted_demo_leaves_nothing(demo, number, status, scene, until):
    """Ctrl-C and SIGTERM in the middle of a scene: no process, no file, and one JSON object that says so."""
    with demo.started("--json", "--scene", scene, until=until) as process:
        assert len(demo.processes()) > 3  # itself, a server, workers
        process.send_signal(number)
        process.send_signal(number)  # an impatient second one does not disturb the cleaning up
        output, story = process.communicate(timeout=scaled(30))
    assert process.returncode == status, story
    assert demo.processes() == []
    assert list(demo.temporary.iterdir()) == []
    report = json.loads(output)
    assert report["status"] == status
    assert number.name in report["error"]
    assert "Traceback" not in story


@pytest.mark.parametrize("late", ["argparse", "coordkit.demo.command", "redis.client"])
def test_ctrl_c_while_modules_are_imported_ends_it_quietly(demo, late):
    """The first tenths of a second: nothing was made, so there is nothing to tell; status 130."""
    code = f"""if True:
        import os, signal, sys

        class Watch:
            def find_spec(self, name, path=None, target=None):
                if name == {late!r}:
                    os.kill(os.getpid(), signal.SIGINT)

        from coordkit.cli import main
        assert {late!r} not in sys.modules
        sys.meta_path.insert(0, Watch())
        sys.argv = ["coordkit", "demo"]
        sys.exit(main())
    """
    command = [sys.executable, "-c", code]
    ended = subprocess.run(
        command, env=demo.environment(), capture_output=True, text=True, timeout=scaled(30), check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


@linux
def test_a_killed_demo_leaves_no_process(demo):
    """SIGKILL gives no time to clean up: the kernel ends the servers and the workers, also one that was stopped."""
    with demo.started("--scene", "2", until="the second process waits") as process:
        process.kill()
        process.wait(scaled(10))
        assert wait_until(lambda: demo.processes() == [], scaled(10))


def test_missing_servers_are_told_with_the_commands_that_help(demo):
    """No binaries, no engine: exit status 3 before anything is played, and one JSON object."""
    nothing = {"PATH": str(demo.nowhere), "JAVA_HOME": "", "DOCKER_HOST": "tcp://127.0.0.1:1"}
    ended = demo.run("--json", **nothing)
    assert ended.returncode == 3
    report = json.loads(ended.stdout)
    assert (report["ok"], report["status"], report["scenes"]) == (False, 3, [])
    for wanted in (
        "sudo apt-get install --no-install-recommends redis-server default-jre-headless libzookeeper-java",
        "brew install redis zookeeper",
        "coordkit demo --redis-url redis://HOST:6379/0 --zookeeper HOST:2181",
    ):
        assert wanted in report["error"]
        assert wanted in ended.stderr


def test_a_named_server_is_never_replaced_by_another(demo):
    """What was asked for by name and does not answer is a failure, although a private server could be started."""
    ended = demo.run(
        "--scene", "1", "--redis-url", "redis://:secret@127.0.0.1:1/0", COORDKIT_TEST_TIMEOUT_FACTOR="0.05"
    )
    assert ended.returncode == 3
    assert "127.0.0.1:1 does not answer" in ended.stderr
    assert "secret" not in ended.stdout + ended.stderr


def test_a_named_replica_is_refused_before_anything_is_played(demo, coordkit_redis_shards, coordkit_faults):
    """What takes no writes cannot serve: exit status 3, what was answered, and what to name instead."""
    import redis

    primary, replica, _ = coordkit_redis_shards
    if not primary.owned:
        pytest.skip("a server that is not ours is made nobody's replica")
    with redis.Redis.from_url(replica.url) as client:
        client.replicaof("127.0.0.1", 1)
        try:
            ended = demo.run("--json", "--scene", "1", "--redis-url", replica.url)
        finally:
            client.replicaof("NO", "ONE")
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["status"], report["scenes"]) == (3, 3, [])
    assert f"{replica.host}:{replica.port} was named, and refuses to be written to" in report["error"]
    assert "read only replica" in report["error"]
    assert "Name a primary" in report["error"]
    assert "Traceback" not in ended.stderr


def test_a_chroot_that_does_not_exist_is_told_with_the_command_that_makes_it(demo, coordkit_zk_server):
    ended = demo.run("--json", "--scene", "3", "--zookeeper", f"{coordkit_zk_server.hosts}/no/such")
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["status"], report["scenes"]) == (3, 3, [])
    assert "has no /no/such" in report["error"]
    assert f"zkCli.sh -server {coordkit_zk_server.hosts} create /no/such" in report["error"]
    assert ended.stderr == f"coordkit demo: {report['error']}\n"  # and no warning of kazoo's


def test_one_server_named_twice_is_a_wrong_command_line(demo, coordkit_redis_server):
    other = f"{coordkit_redis_server.url.removesuffix('/0')}/1"
    ended = demo.run("--scene", "4", "--redis-url", f"{coordkit_redis_server.url},{other}")
    assert ended.returncode == 2
    assert "are one Redis server" in ended.stderr


def test_a_private_server_that_does_not_start_is_no_broken_promise(here, capsys, monkeypatch):
    """Exit status 3 with the server's last words, in the report and in its scene; no further scene is played."""

    def fail(count):
        raise ServerFailed(f"{count} of them did not serve\nand this is the log")

    monkeypatch.setattr("coordkit.testing.processes.missing", lambda _: None)
    monkeypatch.setattr("coordkit.testing.processes.start_redis_servers", fail)
    status, report = here(capsys, "--scene", "1", "2")
    [scene] = report["scenes"]
    assert (status, report["status"], scene["ok"]) == (3, 3, False)
    assert report["error"] == scene["error"] == "1 of them did not serve\nand this is the log"


@pytest.mark.parametrize(
    "arguments",
    [["--scene", "6"], ["--scene", "one"], ["--bogus"], ["--redis-url", "nonsense"], ["--zookeeper", "nonsense"]],
    ids=" ".join,
)
def test_a_wrong_command_line_is_status_2_and_a_message(demo, arguments):
    ended = demo.run(*arguments)
    assert ended.returncode == 2
    assert arguments[-1] in ended.stderr
    assert "Traceback" not in ended.stderr


BOTH = ["--redis-url", "redis://h:4/5", "--zookeeper=h:3"]


@pytest.mark.parametrize(
    ("arguments", "servers"),
    [
        ([], "redis zookeeper"),
        (["--json"], "redis zookeeper"),
        (["--help"], ""),
        (BOTH, "redis"),  # scenes 4 and 5 want more
        ([*BOTH, "--scene", "1", "2", "3"], ""),
        ([*BOTH, "--scene=3", "--json", "--scene=5"], "redis"),
        (["--scene", "3"], "zookeeper"),
        (["--scene", "3", "--redis-url", "redis://h:4"], "zookeeper"),
        (["--scene", "1", "3", "--redis-url=redis://h:4"], "zookeeper"),
        (["--zookeeper", "h:1"], "redis"),
        (["--scene", "2", "--json"], "redis"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_script_sets_up_the_servers_that_its_scenes_will_start(tmp_path, arguments, servers):
    """`compose/demo`, with a set-up that only says what it was asked for."""
    (tmp_path / "compose").mkdir()
    script = tmp_path / "compose" / "demo"
    shutil.copy(Path(__file__).parents[2] / "compose" / "demo", script)
    (tmp_path / "compose" / "setup.sh").write_text('setup() { printf "%s:%s" "$1" "$2"; exit; }\n')
    ended = subprocess.run(["bash", script, *arguments], capture_output=True, text=True, timeout=20, check=False)
    what, _, asked = ended.stdout.partition(":")
    assert (what, asked.split(), ended.stderr) == ("demo", servers.split(), "")


def test_help_documents_the_exit_status_and_version_is_the_package_s(capsys):
    import coordkit

    for arguments, wanted in (
        (["demo", "--help"], "exit status:"),
        (["--version"], f"coordkit {coordkit.__version__}"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == 0
        assert wanted in capsys.readouterr().out
    assert cli.main([]) == 2
    assert "demo" in capsys.readouterr().out


def test_a_reader_who_goes_away_ends_it_quietly(demo):
    """`coordkit demo | head -1`: no traceback, nothing left."""
    with subprocess.Popen(
        [*DEMO, "--scene", "2"], env=demo.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(scaled(30)) == 128 + signal.SIGPIPE
    assert list(demo.temporary.iterdir()) == []


def test_on_a_terminal_the_story_is_coloured_and_fits(demo):
    """With rich, on a terminal of 80 columns: colours, and no line that is longer."""
    pytest.importorskip("rich", reason="pip install 'coordkit[cli]'")
    screen = _on_a_terminal(demo, columns=80, TERM="xterm-256color")
    assert "\x1b[" in screen
    text = ESCAPE.sub("", screen)
    assert "Every check held" in text
    lines = [part for line in text.splitlines() for part in line.split("\r")]  # a bar is drawn over itself
    assert max(map(len, lines)) <= 80


def test_on_a_dumb_terminal_the_story_is_plain(demo):
    screen = _on_a_terminal(demo, columns=60, TERM="dumb")
    assert "\x1b" not in screen
    assert "Every check held" in screen
    assert max(map(len, screen.splitlines())) <= 60


def _on_a_terminal(demo, *, columns, **changes):
    """Run scene 2 on a pseudo-terminal; return all that it wrote."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = demo.environment(**changes)
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        environment.pop(name, None)
    deadline = time.monotonic() + scaled(40)
    with subprocess.Popen(
        [*DEMO, "--scene", "2"], env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        written = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end of a terminal is closed
            while time.monotonic() < deadline and (part := os.read(ours, 65536)):
                written += part
        os.close(ours)
        assert process.wait(scaled(10)) == 0, written.decode()
    return written.decode()
