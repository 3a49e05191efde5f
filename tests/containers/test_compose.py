"""The mesh in containers: it comes up, it trades, it survives restarts and crashes of each part.

Takes about six minutes, and the images have to be built where packages can be had.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.containers.mesh import ALL, ROOT, SERVICES, Mesh

UP_S = 60
DAY_S = 24 * 60  # a simulated day at 60 times real time
INFERENCE_BYTES_MAX = 400e6
TAKE_OVER_S = 3.0

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.usefixtures("engine")]


@contextmanager
def running(mesh: Mesh) -> Iterator[Mesh]:
    try:
        yield mesh
    finally:
        mesh.down()


@pytest.fixture(scope="module")
def images(engine: None) -> None:
    Mesh("tradeguard-test").compose("--profile", "cli", "build", timeout_s=1200)


@pytest.fixture(scope="module")
def mesh(images: None) -> Iterator[Mesh]:
    with running(Mesh("tradeguard-test")) as mesh:
        mesh.down()
        started = time.monotonic()
        mesh.compose("up", "--wait", timeout_s=2 * UP_S)
        took = time.monotonic() - started
        print(f"healthy after {took:.1f} s")
        assert took < UP_S
        yield mesh


def size_of(image: str) -> int:
    told = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Size}}", image], capture_output=True, check=True
    )
    return int(told.stdout)


def test_inference_is_small(images: None) -> None:
    """What we add to the base image; the published one has some 130 MB."""
    base = size_of("python:3.11-slim")
    for service in ("venue", *SERVICES, "cli"):
        print(f"{service}: {size_of(f'tradeguard-{service}') / 1e6:.0f} MB, of it base {base / 1e6:.0f} MB")
    assert size_of("tradeguard-inference") - base < INFERENCE_BYTES_MAX - 130e6


def test_compose_files_are_valid(engine: None) -> None:
    """For every way to choose."""
    for env in ({}, {"CT_CLIENT_ID": "1_a"}):
        told = Mesh("tradeguard-test", **env).compose("config", "--services").split()
        assert set(told) == set(ALL) - ({"venue"} if env else set())
    assert (ROOT / "docker-compose.yml").exists()


# these come first: each starts a mesh of its own, and two at a time are too many for two cores
@pytest.mark.parametrize(
    ("env", "failing", "says"),
    [
        ({"CT_HOST_TYPE": "demoo"}, "gateway", "CT_HOST_TYPE"),
        (
            {"CT_HOST_TYPE": "demo", "CT_CLIENT_ID": "1_a", "CT_CLIENT_SECRET": "very-secret"},
            "gateway",
            "CT_HOST_TYPE=demo needs CT_ACCESS_TOKEN, CT_REFRESH_TOKEN, CT_ACCOUNT_ID too: set them in .env",
        ),
        (
            {"INFERENCE_BUNDLE_DIR": "bundles/nowhere"},
            "inference",
            "bundle bundles/nowhere: manifest.json is missing",
        ),
    ],
    ids=["host-type", "half-of-the-credentials", "bundle"],
)
def test_a_wrong_setting_stops_one_container_which_says_so(
    images: None, env: dict[str, str], failing: str, says: str
) -> None:
    """The others stay up, and an operator reads what to do in the log of the one that does not."""
    with running(Mesh("tradeguard-wrong", **env)) as mesh:
        mesh.compose("up", "--detach")
        others = [s for s in ALL if s != failing and (s != "venue" or "CT_CLIENT_ID" not in env)]
        mesh.until_healthy(*others, timeout_s=120)
        log = mesh.compose("logs", "--no-log-prefix", failing)
        print(log)
        assert says in log
        assert "very-secret" not in log
        assert "Traceback" not in log
        (container,) = mesh.ids(failing)
        assert mesh.inspect(container)["State"]["ExitCode"] in (0, 2)  # 0: it is being tried again just now
        assert mesh.inspect(container)["RestartCount"] > 0
        assert bool(mesh.compose("ps", "--quiet", "venue", check=False).strip()) == (
            "CT_CLIENT_ID" not in env
        )


def test_containers_are_hardened(mesh: Mesh) -> None:
    """What gets into one of them can write nowhere, become nobody and eat nobody's memory."""
    for service in ALL:
        (container,) = mesh.ids(service)
        told = mesh.inspect(container)
        host, config = told["HostConfig"], told["Config"]
        assert config["User"] not in ("", "0", "root", "0:0"), service
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert not host["CapAdd"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert not host["Privileged"], service
        assert 0 < host["Memory"] <= 768 * 2**20, service
        assert 0 < host["NanoCpus"] <= 1e9, service
        assert 0 < host["PidsLimit"] <= 64, service
        assert host["RestartPolicy"]["Name"] == "unless-stopped", service
        assert host["LogConfig"]["Type"] == "json-file", service
        assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "5"}, service
        assert not host["PortBindings"], service
    assert "NOAUTH" in mesh.compose("exec", "-T", "redis", "env", "-u", "REDISCLI_AUTH", "redis-cli", "ping")


def test_fills_appear_within_the_first_day(mesh: Mesh) -> None:
    deadline = time.monotonic() + DAY_S
    while not (found := mesh.audit())["fills"] and time.monotonic() < deadline:
        time.sleep(5)
    print(f"{found['fills']} fills in {found['slices']} slices, {found['first']} to {found['last']}")
    assert found["fills"]
    assert found["slices"] < 288


@pytest.mark.parametrize("way", ["restart", "kill", "crash"])
def test_each_part_may_be_stopped_in_mid_run(mesh: Mesh, way: str) -> None:
    """The venue's books and the streams agree afterwards: nothing doubled, lost, unprotected, unresolved."""
    before = mesh.audit()
    for service in ALL:
        (container,) = mesh.ids(service)
        started_at = mesh.inspect(container)["State"]["StartedAt"]
        if way == "restart":
            mesh.compose("restart", service)
        elif way == "kill":
            mesh.compose("kill", "--signal", "KILL", service)
            mesh.compose("start", service)
        else:
            mesh.crash(container)
        while (state := mesh.inspect(container)["State"])["StartedAt"] == started_at or not state["Running"]:
            time.sleep(0.1)
        took = mesh.until_healthy(*ALL, timeout_s=120)
        print(f"{way} {service}: all healthy after {took:.1f} s")
    time.sleep(15)  # three slices more
    after = mesh.audit()
    print(way, after)
    zeros = {name: after[name] for name in ("duplicates", "lost", "unprotected", "unresolved")}
    assert zeros == dict.fromkeys(zeros, 0), after["differences"]
    assert after["slices"] > before["slices"]
    assert after["fills"] > before["fills"]


def test_a_standby_of_inference_takes_over(mesh: Mesh) -> None:
    """Healthy while it stands by; at work within three seconds of the other one's death."""
    mesh.compose("up", "--wait", "--scale", "inference=2")
    assert mesh.health("inference") == ["healthy", "healthy"]
    lease, epoch = "tg:{demo}:lease:inference", "tg:{demo}:epoch:inference"
    active = active_of(mesh)
    first_epoch = int(mesh.redis("GET", epoch))
    os.kill(mesh.inspect(active)["State"]["Pid"], signal.SIGSTOP)  # dead to everybody, and not restarted
    started = time.monotonic()
    while int(mesh.redis("GET", epoch)) == first_epoch or not mesh.redis("GET", lease):
        assert time.monotonic() - started < 10
    took = time.monotonic() - started
    print(f"taken over after {took:.2f} s")
    assert took < TAKE_OVER_S
    assert active_of(mesh) != active
    until = time.monotonic() + 60
    while "unhealthy" not in mesh.health("inference") and time.monotonic() < until:
        time.sleep(1)
    assert sorted(mesh.health("inference")) == ["healthy", "unhealthy"]  # the one that hangs is not well
    os.kill(mesh.inspect(active)["State"]["Pid"], signal.SIGCONT)  # wakes up, sees it, leaves, is restarted
    mesh.until_healthy("inference", timeout_s=120)
    mesh.crash(active_of(mesh))
    mesh.until_healthy("inference", timeout_s=120)
    found = mesh.audit()
    zeros = {name: found[name] for name in ("duplicates", "lost", "unprotected", "unresolved")}
    assert zeros == dict.fromkeys(zeros, 0), found["differences"]


def active_of(mesh: Mesh) -> str:
    """Return the container of inference that reads its group: the one that blocks in XREADGROUP."""
    for _ in range(50):
        listed = [line.split() for line in mesh.redis("CLIENT", "LIST").splitlines()]
        clients = [dict(word.partition("=")[::2] for word in words) for words in listed]
        reading = {
            c["addr"].split(":")[0] for c in clients if c.get("cmd") == "xreadgroup" and int(c["idle"]) < 2
        }
        for container in mesh.ids("inference"):
            networks = mesh.inspect(container)["NetworkSettings"]["Networks"].values()
            if any(network["IPAddress"] in reading for network in networks):
                return container
        time.sleep(0.1)
    raise AssertionError("nobody reads for inference")
