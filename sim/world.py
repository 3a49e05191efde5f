"""One mesh in one process on virtual time: server, venue, services, a supervisor, and a market that goes on.

Everything that may differ from run to run is drawn from the seed, so a run can be had again, step by step.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.gateway.protocol import LOOP  # noqa: F401  # first: it installs the reactor

# isort: split
from services.gateway.refusals import CredentialsRefusedError
from services.inference.bundle import Bundle
from shared import streams
from shared.bus import BusUnavailableError
from shared.clock import running_on
from shared.streams import milliseconds
from sim.bus import MemoryBus
from sim.loop import VirtualClock, VirtualLoop
from sim.market import SparseStore
from sim.process import DiedError, Process, Watch
from sim.server import MemoryServer
from sim.services import BOOK, SERVICES, Outside, run_service
from sim.venue import SimVenue
from venue.calendar import M5_MS

DEPOSIT_CENTS = 1_000_000
RESTART_S = (0.1, 2.0)  # how late a process that ended is started again
LAST_WORDS_S = 10.0  # what is left of dead processes has come to its end by then
CONNECT_S = 10.0  # how long the market waits for a gateway that connects: longer than it may stand still
CALM_S = 2.5  # how long the market waits for the mesh at most: longer than a take-over of a lease
GROUPS = (
    ("features", streams.BARS),
    ("inference", streams.FEATURES),
    ("executor", streams.SIGNALS),
    ("executor", streams.EXECUTIONS),
    ("executor", streams.COMMANDS),
    ("gateway", streams.ORDERS),
    ("gateway", streams.COMMANDS),
)


@dataclass(frozen=True, slots=True)
class Cut:
    """A call of a service to the server that does not get through, or whose answer does not."""

    service: str
    calls: int  # how many go well before it
    arrives: bool


class Way:
    """The way of one process to the server."""

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self.cuts: Sequence[object] = world.cuts
        self.is_stale = False  # the server has started again since the connection was made

    def delay_s(self) -> float:
        """Let one call in ten take a while."""
        chance = self._world.random
        return chance.expovariate(200) if chance.random() < 0.1 else 0.0

    def before(self) -> None:
        """Let a call arrive."""
        if self.is_stale:
            self.is_stale = False
            raise BusUnavailableError("redis: connection reset")
        self._cut(arrives=False)

    def after(self) -> None:
        """Let the answer arrive."""
        self._cut(arrives=True)

    def _cut(self, *, arrives: bool) -> None:
        for at, cut in enumerate(self._world.cuts):
            if cut.service == self._process.service and cut.arrives is arrives:
                if cut.calls:
                    self._world.cuts[at] = Cut(cut.service, cut.calls - 1, arrives)
                    continue
                del self._world.cuts[at]
                self._world.fired(
                    f"a call of {cut.service} broke {'after' if arrives else 'before'} it arrived"
                )
                raise BusUnavailableError("redis: connection reset")


class World:
    """A mesh and all that it meets."""

    def __init__(
        self,
        seed: int,
        store: SparseStore,
        start_slice: int,
        bundle: Bundle,
        folder: Path,
        base: MemoryServer | None = None,
        instances: dict[str, int] | None = None,
        policy: Mapping[str, Any] | None = None,
        deposit_cents: int = DEPOSIT_CENTS,
    ) -> None:
        """Put it together; nothing runs yet.

        Args:
            seed: all chance is drawn from it.
            store: the market.
            start_slice: number of the slice that is forming at the beginning.
            bundle: the models.
            folder: of this world alone; the journal is in it.
            base: what the server holds at the beginning.
            instances: how many of a service run side by side; one if it is not named.
            policy: of the executor's settings, those that are not the defaults.
            deposit_cents: what the account begins with.
        """
        self.random = random.Random(seed)  # noqa: S311 - a simulation's
        random.seed(seed)  # what the doors draw: how late they dial again
        # less than a slice has entries, so that a whole is read in parts, in every other world
        self.read_count = self.random.choice((4, 64))
        self.loop = VirtualLoop()  # type: ignore[abstract]  # it has no sockets, signals or processes
        self.clock = VirtualClock(self.loop)
        self.store, self.slice = store, start_slice
        self.first_slice = start_slice
        now_ms: Callable[[], int] = lambda: milliseconds(self.clock.now())  # noqa: E731
        self.server = base.copy(now_ms, self.loop.time) if base else MemoryServer(now_ms, self.loop.time)
        self._instances = instances or {}
        self._folder = folder
        with running_on(self.clock):
            venue = SimVenue(self.loop, store, store.slice_open(start_slice) - 1, folder, deposit_cents)
        self.outside = Outside(self.clock, folder, bundle, venue, policy=policy or {})
        self.processes: dict[tuple[str, int], Process] = {}
        self.ways: dict[Process, Way] = {}
        self.buses: dict[str, dict[Process, MemoryBus]] = {service: {} for service in SERVICES}
        self.cuts: list[Cut] = []
        self.story: list[tuple[float, str]] = []
        self.faults_fired = 0
        self.watch = Watch()
        self.subscribing: asyncio.Task[None] | None = None  # to a symbol again: no quote comes meanwhile
        self.is_over = False
        self.has_peace = False  # the faults are over: what ends is started again at once

    @property
    def venue(self) -> SimVenue:
        """The venue."""
        return self.outside.venue

    def buses_of(self, service: str) -> Iterator[MemoryBus]:
        """Yield the doors of a service's processes that run."""
        for process, bus in self.buses[service].items():
            if not (process.is_dead or process.is_stopped):
                yield bus

    def tell(self, text: str) -> None:
        """Add a line to the story."""
        self.story.append((self.loop.now_s, text))

    def fired(self, text: str) -> None:
        """Add a fault that had an effect to the story."""
        self.faults_fired += 1
        self.tell(text)

    # --- running ----------------------------------------------------------------------------------

    def run(self, play: Callable[[World], Coroutine[None, None, None]]) -> None:
        """Start every service, play, and end."""
        with running_on(self.clock):
            try:
                self.loop.run_until_complete(self._run(play))
            finally:
                for process in list(self.processes.values()):
                    process.kill()
                self.loop.run_until_complete(asyncio.sleep(LAST_WORDS_S))
                self.venue.close()
                self.loop.close()

    def forget(self) -> None:
        """Let go of what takes much room: a world is full of circles, which last until one looks for them."""
        self.server.forget()
        self.loop.errors.clear()
        self.processes.clear()

    async def _run(self, play: Callable[[World], Coroutine[None, None, None]]) -> None:
        lives = [
            self.loop.create_task(self._live(service, number))
            for service in SERVICES
            for number in range(self._instances.get(service, 1))
        ]
        played: asyncio.Task[None] = self.loop.create_task(play(self))
        await asyncio.wait({played, *lives}, return_when=asyncio.FIRST_COMPLETED)
        self.is_over = True
        for life in lives:
            life.cancel()
        await played

    async def _live(self, service: str, number: int) -> None:
        """Start a service, and start it again whenever it ends."""
        while not self.is_over:
            process = Process(self.loop, service, number, self.watch)
            self.processes[service, number] = process
            way = self.ways[process] = Way(self, process)
            bus = MemoryBus(self.server, BOOK, service, way, read_count=self.read_count)
            self.buses[service][process] = bus
            main = process.start(run_service(process, bus, self.outside))
            await asyncio.wait({main})
            with suppress(asyncio.CancelledError):
                self._say_end(process, main)
            process.kill()
            del self.ways[process], self.buses[service][process]
            await asyncio.sleep(0.1 if self.has_peace else self.random.uniform(*RESTART_S))

    def _say_end(self, process: Process, main: asyncio.Task[None]) -> None:
        error = None if main.cancelled() else main.exception()
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if process.is_dead:
            return
        name = f"{process.service}#{process.number}"
        if error is None or isinstance(error, DiedError):
            self.tell(f"{name} left")
        else:
            self.tell(f"{name} left with {type(error).__name__}: {error}")
            if isinstance(error, CredentialsRefusedError):  # it died before the new pair was on disk
                self.venue.grant_again()

    # --- the market -------------------------------------------------------------------------------

    async def play_slice(self) -> None:
        """Let one bar pass: its first quotes close the one before; then the mesh has time to act."""
        await self.connected()
        open_ms = self.store.slice_open(self.slice)
        self.slice += 1
        await self.venue.exchange.play(open_ms + 1_000)
        await self.calm()
        await self.venue.exchange.play(open_ms + M5_MS - 1)
        await asyncio.sleep(self.random.uniform(0.05, 0.15))

    async def rest(self, seconds: float) -> None:
        """Let time pass on the machine; the venue sends signs of life."""
        await asyncio.sleep(seconds)
        self.venue.beat()

    async def calm(self, limit_s: float = CALM_S) -> bool:
        """Wait until everything that was written is handled, a bounded time; False if it is not."""
        until_s = self.loop.now_s + limit_s
        while self.loop.now_s < until_s:
            await asyncio.sleep(0.05)
            if self.is_calm():
                return True
        return False

    async def connected(self) -> None:
        """Let no bar end while a gateway connects.

        The venue's time stands still between two steps, so a gateway that connects cannot know of a bar that
        ends meanwhile: it would ask for a history up to the last stamp it has seen. Live, time does not wait.
        """
        until_s = self.loop.now_s + CONNECT_S
        while self.loop.now_s < until_s and (self._is_subscribing() or any(self._connecting())):
            await self.rest(0.05)

    def _is_subscribing(self) -> bool:
        return self.subscribing is not None and not self.subscribing.done()

    def _connecting(self) -> Iterator[Process]:
        for wire in self.venue.wires.values():
            if not wire.process.is_dead and wire.process.trouble():
                yield wire.process

    def is_calm(self) -> bool:
        """Whether every service has handled all that there is for it."""
        return next(self.unfinished(), None) is None

    def unfinished(self) -> Iterator[tuple[str, str]]:
        """Yield (service, stream) of what is not handled."""
        for service, stream in GROUPS:
            entries = self.server.streams[stream.name]
            group = entries.groups.get(service)
            if group is None or group.pending or group.delivered != entries.last:
                yield service, stream.name
