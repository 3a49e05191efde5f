"""What the gateway's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import services.gateway.protocol  # noqa: F401 - the reactor of a process is installed once: on our loop
from services.gateway import link
from services.gateway.rate import Limits
from tests.conftest import RedisServer, redis_program


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests that only need a bus; they keep apart by their books."""
    server = RedisServer(redis_program("valkey"), tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, to be killed and started again."""
    folder = tmp_path / "own-valkey"
    folder.mkdir()
    server = RedisServer(redis_program("valkey"), folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def history_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The venue of most tests allows it; how slowly we ask is another test's."""
    monkeypatch.setattr(link, "LIMITS", Limits(history_per_s=1000.0))
