"""Two instances of every service on one book, and their active ones killed while they trade."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.process_chaos import Asked, measure
from cli.supervisor import SERVICES

pytestmark = [pytest.mark.process, pytest.mark.slow]

SLICES = 12  # an hour
SEED = 12  # kills inference, executor, notifier and gateway, and stops the venue
TAKEN_OVER_S = 6.0  # 3 s on a machine of its own; the tests' machine is shared


async def test_a_standby_takes_over_and_nothing_is_doubled_or_lost(tmp_path: Path) -> None:
    """Lease, marks and journal leave no gap and no overlap: the venue's books say so."""
    print(f"seed {SEED}")
    found = await measure(Asked(slices=SLICES, kills=4, instances=2, seed=SEED, minutes=4, folder=tmp_path))
    print(found)
    assert found["failures"] == []
    assert found["differences"] == []
    assert found["holds"]
    assert found["fills"] > 0
    assert found["slices"] >= SLICES
    killed = found["faults"]["kill"]
    assert sum(killed.values()) >= 4
    assert {"gateway", "executor", "inference"} <= killed.keys() <= {*SERVICES, "venue", "valkey"}
    assert found["taken over"]["n"] >= 3
    assert found["taken over"]["max"] < TAKEN_OVER_S
