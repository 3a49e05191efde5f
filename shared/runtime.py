"""How every service runs: log, signals, lease, recovery, strict order, commit, health, clean stop.

A start and a restart are the same path: take the lease, restore the state saved with the last commit,
handle what had been read and not committed, then what is new.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import uvloop

from shared import streams
from shared.bus import Bus, BusUnavailableError, Delivery, Output
from shared.clock import monotonic_s, utc_now
from shared.errors import InputError, InvariantError, LeaseLostError, UnavailableError
from shared.log import CORRELATION, configure_log, get_logger
from shared.messages import (
    DeadLettered,
    EventKind,
    EventReported,
    FeaturesComputed,
    Message,
    Meta,
    Severity,
    SignalEmitted,
)
from shared.redis_bus import RedisBus
from shared.samples import Samples
from shared.settings import ServiceSettings, exit_with, load
from shared.streams import Stream, id_parts

RETRY_FIRST_S = 0.05
RETRY_MAX_S = 1.0
LOOK_AGAIN_S = 0.02  # so long a backlog is worked on before more urgent streams are looked at
TRIES_BEFORE_DEAD = 20  # about 15 s of an entry that cannot be handled
NEVER_DEAD = (streams.ORDERS, streams.EXECUTIONS)  # an order is never put aside: its reader stops instead

log = get_logger("runtime")

Handler = Callable[[Any], Awaitable[Sequence[Message] | None]]
SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


class Stateful(Protocol):
    """What is saved with each commit and given back at a start."""

    def snapshot(self) -> bytes:
        """Return the state; small, it is written with every commit."""

    def restore(self, data: bytes | None) -> None:
        """Become the state of the last commit (None: a fresh book), and forget all that came after."""


@dataclass(frozen=True, slots=True)
class Route:
    """Which handler takes which message."""

    stream: Stream
    kind: type[Message]
    handler: Handler


def on(kind: type[Message], handler: Handler) -> Route:
    """Return the route of a message type; its stream follows from it.

    The handler returns the messages to write. None means: part of a whole, commit it with the next one.
    """
    stream = next(stream for stream in streams.STREAMS if kind in stream.carries)
    return Route(stream, kind, handler)


class Stateless:
    """The state of a service that has none."""

    def snapshot(self) -> bytes:
        """Return nothing: what is stored stays as it is."""
        return b""

    def restore(self, data: bytes | None) -> None:
        """Nothing to restore."""


@dataclass(frozen=True, slots=True)
class Service:
    """What `build` wires: routes in order of priority, state, what begins before and what runs beside."""

    routes: tuple[Route, ...] = ()
    state: Stateful = field(default_factory=Stateless)
    start: Callable[[], Awaitable[None]] | None = None  # once, with the lease held and the state restored
    tasks: tuple[Callable[[], Awaitable[None]], ...] = ()
    settle: Callable[[], Awaitable[None]] | None = None  # before a commit: what is done together for a batch
    defer_s: float = 0.0  # what was read is handled so much later: who need not hurry leaves others the cores
    trouble: Callable[[], str] = str  # why the service is degraded; "" when all is well


Build = Callable[[SettingsT, Bus], AbstractAsyncContextManager[Service]]


def entry_id_of(message: Message) -> str:
    """Return the entry id an output is written under: the market's time where the stream has it."""
    match message:
        case FeaturesComputed():
            return streams.market_id(message.close_time)
        case SignalEmitted():
            return streams.market_id(message.close_time, message.index)
        case _:
            return "*"


class _LookAgainError(Exception):
    """What is more urgent may have come: read all streams again, the most urgent first."""


class Runtime:
    """One run of one service, from the lease to the stop."""

    def __init__(self, name: str, service: Service, bus: Bus, settings: ServiceSettings) -> None:
        self._name = name
        self._service = service
        self._bus = bus
        self._settings = settings
        self._stop = asyncio.Event()
        self._is_stopping = False
        self._pausing: asyncio.Future[None] | None = None
        self._status = "starting"
        self._bus_trouble = ""
        self._held: list[Delivery] = []  # parts of a whole that is not complete
        self._done: list[Delivery] = []  # handled, not committed yet
        self._outputs: list[Output] = []
        self._one_by_one = False
        self._handlers = {(route.stream, route.kind): route.handler for route in service.routes}
        self._read = tuple(dict.fromkeys(route.stream for route in service.routes))
        self._tries: dict[tuple[str, str], int] = {}
        self._steps = Samples()  # from a read's answer to the commit's: what the next stage waits for
        self._loop_lags = Samples()  # how much later than asked this process woke up
        self._looked_s = 0.0  # when the most urgent stream was read last

    def stop(self) -> None:
        """Finish the message in hand and leave."""
        self._is_stopping = True
        self._stop.set()
        self._end_pause()

    async def run(self) -> None:
        """Run until stopped.

        Raises:
            LeaseLostError: another instance took over.
            InvariantError: a bug or corrupt state; nothing more is written.
        """
        await self._take_lease()  # who stands by says nothing: the health is that of who is at work
        if self._is_stopping:
            return
        await self._tell("started", f"{self._name} started")
        try:
            async with asyncio.TaskGroup() as group:
                workers = [group.create_task(self._keep_lease(), name="lease")]
                await self._recover()
                if self._service.start:
                    await self._service.start()
                workers.append(group.create_task(self._consume(), name="consume"))
                workers += [group.create_task(_run_task(task)) for task in self._service.tasks]
                self._status = "ready"
                await self._tell("ready", f"{self._name} ready")
                await self._stop.wait()
                consume = workers[1]
                await asyncio.wait({consume}, timeout=self._settings.shutdown_grace_s)
                for worker in workers:
                    worker.cancel()
        finally:
            self._status = "stopped"
            with suppress(UnavailableError, InvariantError):
                await self._tell("stopped", f"{self._name} stopped")
                await self._report()
                await self._bus.release_lease()

    # --- lease and health -----------------------------------------------------------------------

    async def _take_lease(self) -> None:
        while not self._is_stopping:
            try:
                if await self._bus.hold_lease(self._settings.lease_ttl_s):
                    await self._report()
                    await self._bus.ensure_groups(self._read)
                    return
                self._status = "standby"
            except BusUnavailableError as error:
                log.warning("bus.unavailable", error=str(error))
            await self._pause(self._settings.lease_ttl_s / 10)

    async def _keep_lease(self) -> None:
        """Renew four times within the lease's life, and say how we are."""
        while True:
            try:
                await self._bus.hold_lease(self._settings.lease_ttl_s)
                await self._report()
                self._bus_trouble = ""
            except BusUnavailableError as error:
                self._bus_trouble = str(error)
            due_s = monotonic_s() + self._settings.lease_ttl_s / 4
            await asyncio.sleep(due_s - monotonic_s())
            self._loop_lags.add(max(0.0, monotonic_s() - due_s))

    async def _report(self) -> None:
        trouble = self._bus_trouble or (self._service.trouble() if self._status == "ready" else "")
        status = "degraded" if self._status == "ready" and trouble else self._status
        with suppress(BusUnavailableError):
            await self._bus.report_health(
                {
                    "status": status,
                    "detail": trouble,
                    "pid": str(os.getpid()),
                    "beat": utc_now().isoformat(timespec="milliseconds"),
                    "step_p50_ms": str(self._steps.percentile_ms(0.5) or ""),
                    "step_p99_ms": str(self._steps.percentile_ms(0.99) or ""),
                    "loop_lag_p99_ms": str(self._loop_lags.percentile_ms(0.99) or ""),
                }
            )

    async def _tell(self, kind: EventKind, text: str, severity: Severity = Severity.INFO) -> None:
        """Publish an event; an event that cannot be written is logged, not repeated."""
        now = utc_now()
        meta = Meta.root(f"{self._bus.book}:{self._name}:{os.getpid()}:{kind}:{now.isoformat()}", now)
        try:
            await self._bus.append(
                EventReported(meta=meta, service=self._name, kind=kind, severity=severity, text=text)
            )
        except BusUnavailableError as error:
            log.warning("event.not_written", kind=kind, text=text, error=str(error))
        log.info(f"service.{kind}", service=self._name, text=text)

    # --- reading and committing -----------------------------------------------------------------

    async def _recover(self) -> None:
        """Go back to the state of the last commit; what was read after it comes again."""
        self._held, self._done, self._outputs = [], [], []
        delay = RETRY_FIRST_S
        while True:
            try:
                await self._bus.load_marks()
                self._service.state.restore(await self._bus.state())
            except BusUnavailableError as error:
                log.warning("bus.unavailable", error=str(error))
                await asyncio.sleep(delay)
                delay = min(2 * delay, RETRY_MAX_S)
            else:
                return

    async def _consume(self) -> None:
        if not self._read:
            await self._stop.wait()
            return
        look_back, delay = True, RETRY_FIRST_S
        while not self._is_stopping:
            try:
                if look_back:
                    await self._handle_pending()
                    look_back = self._one_by_one = False
                # an idle reader looks for entries that were delivered to a process that is gone
                idle = not await self._handle_new() and not self._held
                look_back = idle and await self._bus.has_pending(self._read)
                delay = RETRY_FIRST_S
            except _LookAgainError:
                look_back = True
            except UnavailableError as error:
                log.warning("runtime.retry", error=str(error), delay_s=delay)
                await self._pause(delay)
                delay = min(2 * delay, RETRY_MAX_S)
                await self._recover()
                look_back = True

    async def _handle_pending(self) -> None:
        """Handle what was read and not committed; each stream is emptied before the next in priority.

        So a signal that waits for an execution, and is tried again, finds it read.
        """
        self._looked_s = monotonic_s()
        for stream in self._read:
            after = "0"
            while not self._is_stopping and (batch := await self._bus.read_pending(stream, after)):
                await self._handle_batch(batch)
                after = batch[-1].entry_id
            await self._drain(stream, (await self._bus.read_new((stream,), block=False)).get(stream, []))

    async def _handle_new(self) -> bool:
        """Handle what is new, streams in order of priority."""
        batches = await self._bus.read_new(self._read, block=True)
        if batches and self._service.defer_s:
            await self._pause(self._service.defer_s)
        self._looked_s = monotonic_s()
        for stream in self._read:
            if stream in batches:
                await self._drain(stream, batches[stream])
        return bool(batches)

    async def _drain(self, stream: Stream, batch: Sequence[Delivery]) -> None:
        """Handle a batch, and go on reading its stream until it has no more."""
        while batch and not self._is_stopping:
            await self._handle_batch(batch)
            full = len(batch) == self._bus.read_count
            batch = (await self._bus.read_new((stream,), block=False)).get(stream, []) if full else ()

    async def _handle_batch(self, batch: Sequence[Delivery]) -> None:
        """Handle what was read together and commit it together: one round trip, one state saved.

        After a failure every entry is committed alone, so that the one that fails is found. A stop and a look
        at what is more urgent leave the rest of the batch pending.
        """
        look_again, began_s = False, monotonic_s()
        has_more_urgent = batch[0].stream is not self._read[0]
        for delivery in batch:
            if self._is_stopping or look_again:
                break
            await self._handle(delivery)
            if self._one_by_one:
                await self._commit()
            # a backlog was worked on for so long that a command may be waiting behind it
            look_again = has_more_urgent and not self._held and monotonic_s() - self._looked_s > LOOK_AGAIN_S
        await self._commit()
        if len(batch) < self._bus.read_count:  # a backlog is not what the next stage waits for
            self._steps.add(monotonic_s() - began_s)
        if look_again:
            raise _LookAgainError

    async def _handle(self, delivery: Delivery) -> None:
        if self._held and not _follows(delivery, self._held[-1]):
            part = self._held[-1]
            raise UnavailableError(
                f"what follows {part.stream.name} {part.entry_id} was read by somebody else"
            )
        try:
            message = delivery.message()
            handler = self._handlers.get((delivery.stream, type(message)))
            token = CORRELATION.set(message.meta.correlation_id)
            try:
                outputs = await handler(message) if handler else ()
            finally:
                CORRELATION.reset(token)
            self._held.append(delivery)
            if outputs is not None:
                self._done += self._held
                self._held = []
                self._outputs += [Output(output, entry_id_of(output)) for output in outputs]
        except InputError as error:
            if self._done:
                self._one_by_one = True
                raise UnavailableError(f"once more, one by one: {error}") from error
            await self._bury(delivery, error)
        except BusUnavailableError:
            raise
        except UnavailableError as error:
            self._one_by_one = True
            await self._count_try(delivery, error)
            raise

    async def _commit(self) -> None:
        """Commit what is complete; a whole of which a part is missing waits."""
        if self._done:
            if self._service.settle:
                await self._service.settle()
            await self._bus.commit(self._done, self._outputs, self._service.state.snapshot())
            self._done, self._outputs = [], []

    async def _count_try(self, delivery: Delivery, error: UnavailableError) -> None:
        place = (delivery.stream.name, delivery.entry_id)
        self._tries[place] = self._tries.get(place, 0) + 1
        if self._tries[place] >= TRIES_BEFORE_DEAD:
            del self._tries[place]
            await self._recover()
            await self._bury(delivery, InputError(f"gave up after {TRIES_BEFORE_DEAD} tries: {error}"))

    async def _bury(self, delivery: Delivery, error: InputError) -> None:
        if delivery.stream in NEVER_DEAD:
            raise InvariantError(f"{delivery.stream.name} {delivery.entry_id}: {error}") from error
        log.error("entry.dead", stream=delivery.stream.name, entry=delivery.entry_id, error=str(error))
        now = utc_now()
        dead = DeadLettered(
            meta=Meta.root(
                f"{self._bus.book}:dead:{self._name}:{delivery.stream.name}:{delivery.entry_id}", now
            ),
            stream=delivery.stream.name,
            entry_id=delivery.entry_id,
            group=self._name,
            error=str(error),
            fields=delivery.fields,
        )
        inputs = [*self._held, delivery]  # a whole dies as a whole
        await self._recover()  # what the failed handler may have changed is undone first
        await self._bus.commit(inputs, [Output(dead)], b"")
        await self._tell(
            "alarm", f"{delivery.stream.name} {delivery.entry_id} is dead: {error}", Severity.ERROR
        )
        raise UnavailableError("read on behind a dead entry")

    async def _pause(self, seconds: float) -> None:
        """Wait that long, or until told to stop. One waits at a time: no reader without the lease."""
        if self._is_stopping:
            return
        loop = asyncio.get_running_loop()
        self._pausing = loop.create_future()
        timer = loop.call_later(seconds, self._end_pause)
        try:
            await self._pausing
        finally:
            timer.cancel()

    def _end_pause(self) -> None:
        if self._pausing is not None and not self._pausing.done():
            self._pausing.set_result(None)


def _follows(delivery: Delivery, part: Delivery) -> bool:
    """Whether this is the next part of a whole: they are written together, under consecutive ids."""
    ms, sequence = id_parts(part.entry_id)
    return delivery.stream is part.stream and id_parts(delivery.entry_id) == (ms, sequence + 1)


async def _run_task(task: Callable[[], Awaitable[None]]) -> None:
    await task()


async def _main(name: str, build: Build[SettingsT], settings: SettingsT) -> None:
    async with (
        RedisBus.connect(settings.redis_url, settings.book, name) as bus,
        build(settings, bus) as service,
    ):
        runtime = Runtime(name, service, bus, settings)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, runtime.stop)
        await runtime.run()


def run(
    name: str,
    build: Build[SettingsT],
    settings_type: type[SettingsT],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
) -> None:
    """Run a service until it is told to stop. Exit status: 0 stopped, 1 failed, 2 bad settings or files."""
    try:
        settings = load(settings_type)
    except InputError as error:
        exit_with(error)
    configure_log(
        name,
        level=settings.log_level,
        format=settings.log_format,
        folder=settings.log_dir,
        secrets=secrets_of(settings),
    )
    started = monotonic_s()
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(_main(name, build, settings))
    except* InputError as group:
        exit_with(InputError(_first(group)))
    except* (LeaseLostError, InvariantError, UnavailableError) as group:
        log.critical(
            "service.failed", service=name, error=_first(group), after_s=round(monotonic_s() - started, 1)
        )
        raise SystemExit(1) from None


def secrets_of(settings: ServiceSettings) -> list[str]:
    """Return every secret value of the settings, for the log to redact."""
    values = (getattr(settings, field) for field in type(settings).model_fields)
    return [value.get_secret_value() for value in values if hasattr(value, "get_secret_value")]


def _first(group: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
