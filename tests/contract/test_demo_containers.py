"""`coordkit demo` where there are no binaries: its servers run in containers. Needs a Docker engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from coordkit.testing import plugin
from coordkit.testing.servers import scaled

pytest.importorskip("testcontainers", reason="pip install 'coordkit[testing]'")


@pytest.fixture
def images(request):
    """Give the run's images; skip without an engine or the images, but fail where the run asked for docker by name."""
    from coordkit.testing import containers

    settings = request.config.stash[plugin._settings]
    named = "docker" in settings.backends
    if (lacks := containers.missing()) is not None:
        (pytest.fail if named else pytest.skip)(lacks)
    for image in (settings.redis_image, settings.zk_image):
        if not named and not containers.has_image(image):
            pytest.skip(f"{image} is not on this machine: docker pull {image}, or --coordkit-backend docker")
    return {"COORDKIT_REDIS_IMAGE": settings.redis_image, "COORDKIT_ZOOKEEPER_IMAGE": settings.zk_image}


@pytest.mark.timeout(180)
def test_without_binaries_the_servers_run_in_containers_and_none_is_left(images, tmp_path):
    """An election on a ZooKeeper container, reads over replicas that reach their primary's container."""
    # The engine is reached by its socket; what is on PATH is not needed for that.
    environment = {**os.environ, **images, "PATH": str(tmp_path), "JAVA_HOME": "", "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-m", "coordkit.cli", "demo", "--json", "--scene", "3", "5"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            output, story = process.communicate(timeout=scaled(150))
        finally:
            process.kill()
    assert process.returncode == 0, story
    report = json.loads(output)
    assert report["servers"]["zookeeper"].endswith("(private, in a container)")
    assert report["servers"]["replicas"].endswith("(private, in containers)")
    assert list(tmp_path.iterdir()) == []
    assert _containers_of(process.pid) == []


@pytest.mark.parametrize(
    ("scene", "variable"),
    [("2", "COORDKIT_REDIS_IMAGE"), ("3", "COORDKIT_ZOOKEEPER_IMAGE")],
    ids=["redis", "zookeeper"],
)
def test_an_image_that_cannot_be_had_is_told_with_what_helps(images, tmp_path, scene, variable):
    """The engine answers, so a container is tried: exit status 3, the image, and how to name another."""
    image = {variable: "coordkit/no-such-image:none"}
    environment = {**os.environ, **images, **image, "PATH": str(tmp_path), "JAVA_HOME": "", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "coordkit.cli", "demo", "--json", "--scene", scene]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=scaled(50), check=False)
    report = json.loads(ended.stdout)
    assert (ended.returncode, report["status"]) == (3, 3)
    for wanted in ("coordkit/no-such-image:none", f"{variable}=IMAGE coordkit demo", "sudo apt-get install"):
        assert wanted in report["error"]
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def _containers_of(pid):
    from testcontainers.core.docker_client import DockerClient

    client = DockerClient().client
    try:
        return client.api.containers(all=True, filters={"label": [f"coordkit.pid={pid}"]})
    finally:
        client.close()
