"""What schedules are played on: markets, each warmed up once by the live services themselves."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from services.gateway.protocol import LOOP  # noqa: F401  # first: it installs the reactor

# isort: split
from services.inference.bundle import Bundle
from shared import streams
from shared.errors import InvariantError
from sim.market import SparseStore, sparse_market
from sim.models import eager_bundle
from sim.server import MemoryServer
from sim.world import World

MARKETS = 4
MARKET_SLICES = 480
WARM_SLICES = 320  # before the first slice of a schedule
WARM_UP_S = 60.0
MEMORY = Path("/dev/shm")  # noqa: S108 - where it is there, a folder that costs no disk

_TRADED = (
    (("EURUSD", 0.9), ("GBPUSD", -0.9)),
    (("EURUSD", -0.9), ("USDCHF", 0.9)),
    (("GBPUSD", 0.9), ("USDCHF", -0.9)),
    (("EURUSD", 0.9), ("USDCHF", 0.9)),
)


@dataclass(frozen=True)
class Setting:
    """One market with its models, and what the server holds after its warm-up."""

    store: SparseStore
    bundle: Bundle
    base: MemoryServer


@lru_cache(maxsize=MARKETS)
def setting_of(market: int) -> Setting:
    """Return a market, warmed up by the live services themselves."""
    wanted = dict(_TRADED[market])
    store = sparse_market(market, MARKET_SLICES, frozenset(wanted))
    bundle = eager_bundle(tuple(wanted.get(symbol, 0.0) for symbol in store.contracts), fickle=True)
    with own_folder() as folder:
        world = World(market, store, WARM_SLICES, bundle, folder)
        world.run(_warm_up)
        return Setting(store, bundle, world.server)


async def _warm_up(world: World) -> None:
    features = world.server.streams[streams.FEATURES.name]
    while not (features.entries and world.is_calm()):
        await world.rest(0.5)
        if world.loop.now_s > WARM_UP_S:
            raise InvariantError("the mesh does not warm up")


@contextmanager
def own_folder() -> Iterator[Path]:
    """Yield a folder of one world, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tradeguard-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
