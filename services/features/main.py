"""The feature service's process: settings -> handlers -> run. Its only outside is Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.features.handlers import FeaturesHandlers
from services.features.settings import FeaturesSettings
from shared.bus import Bus
from shared.messages import BarClosed
from shared.runtime import Service, on, run


@asynccontextmanager
async def build(settings: FeaturesSettings, bus: Bus) -> AsyncIterator[Service]:
    """Wire settings to handlers: the only function that knows them all."""
    yield service_of(FeaturesHandlers(settings.symbols, bus, slices_min=settings.slices_min), bus)


def service_of(handlers: FeaturesHandlers, bus: Bus) -> Service:
    """Return what runs: live, and in a simulation that brings its own handlers."""
    return Service(routes=(on(BarClosed, handlers.on_bar),), state=handlers, tasks=(bus.follow_accounts,))


if __name__ == "__main__":
    run("features", build, FeaturesSettings)
