"""Wires inference: settings -> bundle -> handlers -> run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.inference.adapters import load_bundle
from services.inference.handlers import InferenceHandlers
from services.inference.settings import InferenceSettings
from shared.bus import Bus
from shared.errors import InputError
from shared.messages import FeaturesComputed
from shared.runtime import Service, on, run


@asynccontextmanager
async def build(settings: InferenceSettings, bus: Bus) -> AsyncIterator[Service]:
    """Wire settings to adapters to handlers: the only function that knows them all.

    Raises:
        InputError: the bundle does not match what runs; the process leaves with status 2.
    """
    bundle = load_bundle(settings.bundle_dir)
    if bundle.manifest.symbols != settings.symbols:
        raise InputError(
            f"bundle {settings.bundle_dir}: symbols are {', '.join(bundle.manifest.symbols)}, the setting "
            f"SYMBOLS says {', '.join(settings.symbols)}: use the bundle that was trained on them"
        )
    yield service_of(InferenceHandlers(bundle))


def service_of(handlers: InferenceHandlers) -> Service:
    """Return what runs: live, and in a simulation that brings its own bundle."""
    return Service(routes=(on(FeaturesComputed, handlers.on_features),), state=handlers)


if __name__ == "__main__":
    run("inference", build, InferenceSettings)
