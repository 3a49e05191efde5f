"""A whole mesh as real processes: Valkey, venue and five services, on sockets of loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from cli.demo import Demo, DemoOptions

BUNDLE = Path(__file__).parents[2] / "bundles" / "plumbing"

StartDemo = Callable[..., AbstractAsyncContextManager[Demo]]


@pytest.fixture
def start_demo(tmp_path: Path) -> StartDemo:
    """Start a mesh in a folder of the test's own; it is stopped at the end, whatever happens."""

    @asynccontextmanager
    async def start(
        bars: int, *, seed: int = 1, data: Path | None = None, name: str = "run"
    ) -> AsyncIterator[Demo]:
        print(f"seed {seed}, data {data}")
        options = DemoOptions(bars=bars, seed=seed, data=data, bundle=BUNDLE, folder=tmp_path / name)
        async with Demo.start(options) as demo:
            yield demo

    return start
