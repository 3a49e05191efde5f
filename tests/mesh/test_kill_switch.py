"""A stop given to a mesh of real processes that has far more to do than it can."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.kill_switch import measure

pytestmark = [pytest.mark.process, pytest.mark.slow]

SEED = 1
LAST_BYTE_MAX_MS = 2_000  # a quarter of a second on a machine of its own; the tests' machine is shared


async def test_no_order_leaves_after_a_stop_behind_a_backlog(tmp_path: Path) -> None:
    """What was queued before it is refused; the door between gateway and venue has seen every byte."""
    print(f"seed {SEED}")
    found = await measure(bars=5_000, stops=2, seed=SEED, folder=tmp_path / "mesh")
    print(found)
    assert found["left of it at the first and last stop"][0] > 0
    assert found["orders that left"] >= 2
    assert found["requests queued before a stop, refused after it"] >= 2
    assert found["last order byte after the command"]["max"] < LAST_BYTE_MAX_MS
