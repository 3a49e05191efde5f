"""The health check tells the truth: on real servers, about real processes' words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from shared.redis_bus import RedisBus

CHECK = Path(__file__).parents[2] / "cli" / "health.py"
pytestmark = pytest.mark.redis


@pytest.fixture
async def bus(redis_url: str) -> AsyncIterator[RedisBus]:
    """The door of a service called executor, in a book of its own."""
    async with RedisBus.connect(redis_url, f"h{uuid4().hex[:8]}", "executor") as bus:
        yield bus


def check(bus: RedisBus, url: str) -> tuple[int, str]:
    """Run the check as a container does."""
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(CHECK), "executor"],
        env={"REDIS_URL": url, "BOOK": bus.book}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.strip() + done.stderr


async def say(bus: RedisBus, status: str, age_s: float = 0.0, detail: str = "") -> None:
    beat = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat(timespec="milliseconds")
    await bus.report_health({"status": status, "detail": detail, "pid": "1", "beat": beat})


async def test_a_ready_service_with_a_fresh_beat_is_healthy(bus: RedisBus, redis_url: str) -> None:
    await say(bus, "ready")
    status, text = check(bus, redis_url)
    assert status == 0, text
    assert text.startswith("executor is ready")


async def test_an_old_beat_is_not_healthy(bus: RedisBus, redis_url: str) -> None:
    """What a dead process said last is `ready`."""
    await say(bus, "ready", age_s=6)
    status, text = check(bus, redis_url)
    assert status == 1
    assert text.startswith("executor said it was ready, but 6.")


@pytest.mark.parametrize("status", ["starting", "degraded", "standby", "stopped"])
async def test_any_other_word_is_not_healthy(bus: RedisBus, redis_url: str, status: str) -> None:
    """The detail is shown by `docker inspect`."""
    await say(bus, status, detail="no quotes")
    assert check(bus, redis_url) == (1, f"executor is {status}: no quotes")


async def test_silence_is_not_healthy(bus: RedisBus, redis_url: str) -> None:
    assert check(bus, redis_url) == (1, f"executor has said nothing yet in book {bus.book}")


async def test_no_redis_is_not_healthy(bus: RedisBus) -> None:
    status, text = check(bus, "redis://127.0.0.1:1/0")
    assert status == 1
    assert "refused" in text


async def test_a_refused_password_is_not_healthy(bus: RedisBus, redis_url: str) -> None:
    status, text = check(bus, redis_url.replace("://", "://nobody:wrong@"))
    assert status == 1
    assert text.startswith("Redis refuses")


def test_a_venue_that_is_not_there_is_not_healthy(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(CHECK), "venue"],
        env={"VENUE_STATE_DIR": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "ready.json" in done.stdout
