"""The pytest plugin seen from outside: a project's own pytest run."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

NEEDS_ALL = """
    def test_redis(coordkit_redis): pass
    def test_shards(coordkit_redis_shards): pass
    def test_quorum(coordkit_redis_quorum): pass
    def test_replicated(coordkit_redis_replicated): pass
    def test_sentinel(coordkit_redis_sentinel): pass
    def test_cluster(coordkit_redis_cluster): pass
    def test_zk(coordkit_zk): pass
    def test_ensemble(coordkit_zk_ensemble): pass
"""


@pytest.fixture
def nothing(pytester, monkeypatch):
    """Give a project on a machine that has no server of any kind, and no settings."""
    for name in ("CI", "JAVA_HOME", "ZOOKEEPER_HOME", "COORDKIT_ZOOKEEPER_CLASSPATH", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("BACKEND", "REDIS_URL", "ZK_HOSTS", "REQUIRE", "REDIS_IMAGE", "ZK_IMAGE"):
        monkeypatch.delenv(f"COORDKIT_TEST_{name}", raising=False)
    for name in ("COORDKIT_REDIS_IMAGE", "COORDKIT_ZOOKEEPER_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(pytester.path))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # quicker; the entry point itself is used in contract/
    monkeypatch.setenv("DOCKER_HOST", f"unix://{pytester.path}/no-such.sock")
    return pytester


def run(project, *arguments):
    """Run the project's pytest in a process of its own."""
    return project.runpytest_subprocess("-W", "error", "-p", "coordkit.testing.plugin", "-rsfE", *arguments)


def test_loading_the_plugin_imports_none_of_what_it_drives():
    code = (
        "import sys, coordkit.testing.plugin\n"
        "heavy = {'redis', 'kazoo', 'tenacity', 'docker', 'testcontainers', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_aids_need_neither_pytest_nor_testcontainers_nor_docker():
    code = (
        "import sys, coordkit.testing as t, coordkit.testing.processes\n"
        "t.FaultProxy, t.expire, t.kill_session, t.paused\n"
        "heavy = {'pytest', '_pytest', 'docker', 'testcontainers'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_servers_tests_are_skipped_with_the_three_ways_out(nothing):
    nothing.makepyfile(NEEDS_ALL)
    result = run(nothing)
    result.assert_outcomes(skipped=8)
    result.stdout.fnmatch_lines(["*no Redis*COORDKIT_TEST_REDIS_URL=*apt-get install redis-server*Docker engine*"])
    result.stdout.fnmatch_lines(["*no ZooKeeper*COORDKIT_TEST_ZK_HOSTS=*apt-get install openjdk*Docker engine*"])


@pytest.mark.parametrize("how", ["--coordkit-require", "CI=true"])
def test_required_servers_that_are_missing_are_failures(nothing, monkeypatch, how):
    nothing.makepyfile(NEEDS_ALL)
    name, _, value = how.partition("=")
    if value:
        monkeypatch.setenv(name, value)
    run(nothing, *([] if value else [how])).assert_outcomes(errors=8)


@pytest.mark.parametrize("backend", ["external", "process", "docker"])
def test_a_backend_asked_for_by_name_that_does_not_come_up_is_a_failure(nothing, backend):
    nothing.makepyfile(NEEDS_ALL)
    result = run(nothing, "--coordkit-backend", backend)
    result.assert_outcomes(errors=8)
    result.stdout.fnmatch_lines([f"*no Redis for the tests by backend '{backend}'*"])
    result.stdout.no_fnmatch_line("*During handling of*")  # what happened is said once
    result.stdout.no_fnmatch_line("*Unavailable*")


def test_a_url_that_nobody_answers_at_is_a_failure(nothing, monkeypatch):
    monkeypatch.setenv("COORDKIT_TEST_TIMEOUT_FACTOR", "0.01")
    nothing.makepyfile("def test_redis(coordkit_redis): pass")
    result = run(nothing, "--coordkit-redis-url", "redis://127.0.0.1:1/0")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*Redis at 127.0.0.1:1 does not answer*"])


def test_too_few_external_servers_skip_and_fail_when_required(nothing):
    nothing.makepyfile("def test_quorum(coordkit_redis_quorum): pass")
    url = ["--coordkit-redis-url", "redis://127.0.0.1:1/0,redis://127.0.0.1:2/0"]
    result = run(nothing, *url)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*5 independent Redis servers are needed; COORDKIT_TEST_REDIS_URL names 2*"])
    run(nothing, *url, "--coordkit-require").assert_outcomes(errors=1)


def test_a_deployment_is_not_made_of_servers_that_are_named(nothing):
    nothing.makepyfile(
        """
        def test_replicated(coordkit_redis_replicated): pass
        def test_sentinel(coordkit_redis_sentinel): pass
        def test_cluster(coordkit_redis_cluster): pass
        """
    )
    url = ["--coordkit-redis-url", "redis://127.0.0.1:1/0"]
    result = run(nothing, *url)
    result.assert_outcomes(skipped=3)
    result.stdout.fnmatch_lines(["*a cluster Redis cannot be named by URL*--coordkit-backend process, or docker*"])
    run(nothing, *url, "--coordkit-require").assert_outcomes(errors=3)


def test_the_header_says_the_choice_and_hides_passwords(nothing, monkeypatch):
    monkeypatch.setenv("COORDKIT_TEST_REDIS_URL", "redis://:secret@10.0.0.1:6379/0")
    result = run(nothing, "--collect-only")
    result.stdout.fnmatch_lines(["coordkit (auto): redis: external (10.0.0.1:6379/0), zookeeper: none"])
    result.stdout.no_fnmatch_line("*secret*")


def test_the_environment_goes_before_the_ini_file_and_the_command_line_before_both(nothing, monkeypatch):
    nothing.makeini("[pytest]\ncoordkit_backend = docker\n")
    run(nothing, "--collect-only").stdout.fnmatch_lines(["coordkit (docker): *"])
    monkeypatch.setenv("COORDKIT_TEST_BACKEND", "process")
    run(nothing, "--collect-only").stdout.fnmatch_lines(["coordkit (process): *"])
    run(nothing, "--collect-only", "--coordkit-backend=external").stdout.fnmatch_lines(["coordkit (external): *"])


def test_an_empty_url_on_the_command_line_takes_back_the_environment_s(nothing, monkeypatch):
    monkeypatch.setenv("COORDKIT_TEST_REDIS_URL", "redis://10.0.0.1:6379/0")
    run(nothing, "--collect-only").stdout.fnmatch_lines(["coordkit (auto): redis: external*"])
    run(nothing, "--collect-only", "--coordkit-redis-url", "").stdout.fnmatch_lines(["coordkit (auto): redis: none,*"])


def test_a_backend_that_does_not_exist_is_a_usage_error(nothing):
    result = run(nothing, "--coordkit-backend", "podman")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*'podman' is none of auto, external, process, docker*"])


def test_a_list_of_backends_runs_each_test_in_each_of_them(nothing):
    nothing.makepyfile(
        """
        def test_with_servers(coordkit_backend, coordkit_namespace): pass
        def test_without(): pass
        """
    )
    result = run(nothing, "--coordkit-backend", "process,docker", "-v")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*test_with_servers?process? *", "*test_with_servers?docker? *"])


def test_the_marker_is_known_and_its_mistakes_are_refused(nothing):
    mistakes = {
        "3": "coordkit_zk takes nodes= and timeout= only",
        "size=3": "coordkit_zk takes nodes= and timeout= only",
        "nodes='x'": "coordkit_zk: nodes: 'x' is not an int of 1 or more",
        "nodes=0": "coordkit_zk: nodes: 0 is not an int of 1 or more",
        "nodes=True": "coordkit_zk: nodes: True is not an int of 1 or more",
        "timeout=-1": "coordkit_zk: timeout: -1 is not a finite number of seconds above 0",
        "timeout=float('nan')": "coordkit_zk: timeout: nan is not a finite number of seconds above 0",
        "timeout='4'": "coordkit_zk: timeout: '4' is not a finite number of seconds above 0",
    }
    tests = [
        f"@pytest.mark.coordkit_zk({said})\ndef test_{number}(coordkit_zk): pass\n"
        for number, said in enumerate(mistakes)
    ]
    nothing.makepyfile("import pytest\n" + "".join(tests))
    result = run(nothing, "--strict-markers")
    result.assert_outcomes(errors=len(mistakes))
    result.stdout.fnmatch_lines([f"*{message}*" for message in mistakes.values()])


def test_a_namespace_is_unique_and_names_the_xdist_worker(nothing, monkeypatch):
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw7")
    nothing.makepyfile(
        """
        import pytest
        seen = set()
        @pytest.mark.parametrize("n", range(3))
        def test_namespace(coordkit_namespace, n):
            assert "gw7" in coordkit_namespace
            seen.add(coordkit_namespace)
            assert len(seen) == n + 1
        """
    )
    run(nothing).assert_outcomes(passed=3)
