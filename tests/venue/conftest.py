"""A venue of the test's own, in the test's process, stepped."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.venue.client import Control, VenueClient
from venue.main import RunningVenue, serve
from venue.settings import VenueSettings


def a_setting(state_dir: Path, **fields: object) -> VenueSettings:
    """Return settings of a small synthetic market."""
    values: dict[str, object] = {"seed": 7, "slices": 700, "history_slices": 400, **fields}
    return VenueSettings(_env_file=None, state_dir=state_dir, **values)


@pytest.fixture
async def venue(tmp_path: Path) -> AsyncIterator[RunningVenue]:
    async with serve(a_setting(tmp_path / "venue")) as running:
        yield running


@pytest.fixture
async def client(venue: RunningVenue) -> AsyncIterator[VenueClient]:
    connected = await VenueClient.connect(venue.ready)
    yield await connected.log_in()
    await connected.close()


@pytest.fixture
def control(venue: RunningVenue) -> Control:
    return Control(venue.ready)
