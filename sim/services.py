"""The five services as a simulation wires them: the live handlers and runtime, on simulated doors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from services.gateway.main import wire as wire_gateway  # first: it installs the reactor

# isort: split
from services.executor.main import build as build_executor
from services.executor.settings import ExecutorSettings
from services.features.handlers import FeaturesHandlers
from services.features.main import service_of as features_service
from services.gateway.journal import Journal
from services.gateway.settings import GatewaySettings
from services.gateway.transport import Place
from services.gateway.watchdog import Watchdog
from services.inference.bundle import Bundle
from services.inference.handlers import InferenceHandlers
from services.inference.main import service_of as inference_service
from services.notifier.embeds import Card
from services.notifier.handlers import Outlet
from services.notifier.main import wire as wire_notifier
from services.notifier.settings import NotifierSettings
from shared.bus import Bus
from shared.errors import InputError, UnavailableError
from shared.runtime import Runtime, Service
from shared.settings import ServiceSettings
from sim.loop import VirtualClock
from sim.models import RememberedEngine
from sim.process import Door, Process
from sim.venue import SimVenue
from venue.book import SYMBOLS

BOOK = "sim"
RECONNECT_FIRST_S = 0.5  # shorter than live, so that a schedule has more than one connection
WEBHOOK_ANSWER_S = 2.0  # so long an answer is waited for; shorter than live too
HISTORY_SPARE = 4  # every symbol has every bar

_COMMON: dict[str, Any] = {"book": BOOK, "symbols": SYMBOLS}


class Disk(Journal):
    """The journal on a disk that may be full."""

    def __init__(self, path: Path, is_full: Callable[[], bool]) -> None:
        self._is_full = is_full
        super().__init__(path)

    async def _write(self, statement: Callable[[Any], object]) -> None:
        await super()._write(self._refused if self._is_full() else statement)

    def _refused(self, db: Any) -> None:  # noqa: ANN401 - sqlite3's connection
        """Let the database itself say that it is full."""
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")
        try:
            db.execute("CREATE TABLE filler (content BLOB)")
            db.execute("INSERT INTO filler VALUES (zeroblob(?))", (pages * 65_536,))
        finally:
            db.execute("PRAGMA max_page_count = 1073741823")


@dataclass
class Webhook:
    """Where alerts go; remembers what came."""

    is_up: bool = True
    posted: list[str] = field(default_factory=list)  # message ids

    async def post(self, cards: Sequence[Card], *, note: str = "") -> None:
        """Take a post."""
        if not self.is_up:
            await asyncio.sleep(WEBHOOK_ANSWER_S)
            raise UnavailableError("the webhook does not answer")
        self.posted += [card.message_id for card in cards]


@dataclass
class Outside:
    """What the services of one mesh meet outside."""

    clock: VirtualClock
    folder: Path
    bundle: Bundle
    venue: SimVenue
    webhook: Webhook = field(default_factory=Webhook)
    spare: Webhook = field(default_factory=Webhook)
    policy: Mapping[str, Any] = field(default_factory=dict)  # of the executor's settings: not the defaults
    is_disk_full: bool = False

    @property
    def halt_file(self) -> Path:
        """While it exists no order is sent."""
        return self.folder / "HALT"

    @property
    def journal(self) -> Path:
        """The gateway's journal."""
        return self.folder / "journal.db"


async def run_service(process: Process, bus: Bus, outside: Outside) -> None:
    """Run one service in its process until it ends, as its main does.

    Raises:
        InputError, InvariantError, UnavailableError: as live; the process leaves with a status.
    """
    bus = cast(Bus, Door(bus, "bus", process))
    async with AsyncExitStack() as doors:
        service, settings = await _MAINS[process.service](process, bus, outside, doors)
        process.trouble = service.trouble
        runtime = Runtime(process.service, service, bus, settings)
        process.stop = runtime.stop
        await runtime.run()


Main = Callable[[Process, Bus, Outside, AsyncExitStack], Awaitable[tuple[Service, ServiceSettings]]]


async def _gateway(
    process: Process, bus: Bus, outside: Outside, doors: AsyncExitStack
) -> tuple[Service, ServiceSettings]:
    settings = GatewaySettings.model_construct(
        **_COMMON,
        venue_speed=0.0,
        halt_file=outside.halt_file,
        journal=outside.journal,
        reconnect_first_s=RECONNECT_FIRST_S,
    )
    disk = Disk(outside.journal, lambda: outside.is_disk_full)
    process.on_death.append(disk.close)  # as the machine does
    doors.callback(disk.close)
    journal = cast(Journal, Door(disk, "journal", process))
    place = cast(Place, Door(outside.venue, "place", process))
    service = wire_gateway(
        settings,
        bus,
        journal,
        lambda: (place, outside.venue.who),
        clock=outside.clock,
        history_spare=HISTORY_SPARE,
    )
    owners = (getattr(task, "__self__", None) for task in service.tasks)
    process.subscribe_again = next(each for each in owners if isinstance(each, Watchdog)).subscribe_again
    return service, settings


async def _features(
    process: Process, bus: Bus, outside: Outside, doors: AsyncExitStack
) -> tuple[Service, ServiceSettings]:
    handlers = FeaturesHandlers(SYMBOLS, bus, engine=RememberedEngine())
    return features_service(handlers, bus), ServiceSettings.model_construct(**_COMMON)


async def _inference(
    process: Process, bus: Bus, outside: Outside, doors: AsyncExitStack
) -> tuple[Service, ServiceSettings]:
    handlers = InferenceHandlers(outside.bundle)
    return inference_service(handlers), ServiceSettings.model_construct(**_COMMON)


async def _executor(
    process: Process, bus: Bus, outside: Outside, doors: AsyncExitStack
) -> tuple[Service, ServiceSettings]:
    settings = ExecutorSettings.model_construct(**_COMMON, **outside.policy)
    return await doors.enter_async_context(build_executor(settings, bus)), settings


async def _notifier(
    process: Process, bus: Bus, outside: Outside, doors: AsyncExitStack
) -> tuple[Service, ServiceSettings]:
    settings = NotifierSettings.model_construct(**_COMMON)
    outlet = cast(Outlet, Door(outside.webhook, "outlet", process))
    spare = cast(Outlet, Door(outside.spare, "spare", process))
    return wire_notifier(settings, bus, outlet, spare), settings


_MAINS: dict[str, Main] = {
    "gateway": _gateway,
    "features": _features,
    "inference": _inference,
    "executor": _executor,
    "notifier": _notifier,
}
SERVICES = tuple(_MAINS)
EXPECTED = (InputError,)  # with which a process may leave at its start
