"""A market day in containers: 24 hours at sixty times real time, every part restarted in turn.

Takes 25 minutes, so it runs only for TRADEGUARD_CONTAINERS=day.
"""

from __future__ import annotations

import itertools
import os
import time

import pytest

from tests.containers.mesh import ALL, Mesh

SLICES = 288  # of a day
SLICE_S = 5.0  # at sixty times real time
BETWEEN_RESTARTS_S = 75.0

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.usefixtures("engine")]


@pytest.fixture
def mesh(engine: None) -> Mesh:
    if os.environ["TRADEGUARD_CONTAINERS"] != "day":
        pytest.skip("TRADEGUARD_CONTAINERS is not set: to 'day', which takes 25 minutes")
    return Mesh("tradeguard-day")


def test_a_day_with_restarts_ends_with_zeros(mesh: Mesh) -> None:
    """Nothing doubled, lost, unprotected or unresolved, by the venue's books; no slice left out."""
    mesh.compose("--profile", "cli", "build", timeout_s=1200)
    mesh.down()
    try:
        mesh.compose("up", "--wait", timeout_s=180)
        first = mesh.audit()
        ends = time.monotonic() + SLICES * SLICE_S
        restarts = 0
        for service in itertools.cycle(ALL):
            time.sleep(max(0.0, min(BETWEEN_RESTARTS_S, ends - time.monotonic())))
            if time.monotonic() >= ends:
                break
            mesh.compose("restart", service)
            print(f"restart {service}: all healthy after {mesh.until_healthy(*ALL, timeout_s=120):.1f} s")
            restarts += 1
        found = mesh.audit()
        print(f"{restarts} restarts, redis {mesh.redis('INFO', 'memory').splitlines()[2]}", found)
    finally:
        mesh.down()
    zeros = {name: found[name] for name in ("duplicates", "lost", "unprotected", "unresolved")}
    assert zeros == dict.fromkeys(zeros, 0), found["differences"]
    assert restarts >= len(ALL)
    assert found["fills"] > first["fills"]
    assert found["slices"] - first["slices"] >= SLICES - 2 * restarts  # what closed during one is not live
