"""An event loop on virtual time: nothing is waited for, and the same program takes the same steps every time.

When nothing is ready the time jumps to the next timer. Every callback belongs to the process that it was
scheduled by (a context variable), so that a process can be stopped in its tracks, go on later, or be gone.
"""

from __future__ import annotations

import asyncio
from asyncio import Handle, TimerHandle
from asyncio.events import _set_running_loop
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count
from typing import Any, TypeVar, TypeVarTuple, Unpack, cast

from shared.errors import InvariantError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
START = datetime(2025, 1, 6, 8, 0, tzinfo=UTC)


class _Future(asyncio.Future[Any]):
    """A future with a place in every set: asyncio keeps them in sets, in the order of their hashes."""

    place = 0

    def __hash__(self) -> int:
        if not self.place:
            self.place = next(cast(VirtualLoop, self.get_loop()).places)
        return self.place


class _Task(asyncio.Task[T]):
    """A task with a place in every set."""

    place = 0

    def __hash__(self) -> int:
        if not self.place:
            self.place = next(cast(VirtualLoop, self.get_loop()).places)
        return self.place


class Owner:
    """What callbacks belong to: a process, which may be stopped or gone."""

    def __init__(self) -> None:
        self.is_stopped = False
        self.tasks: dict[asyncio.Task[Any], None] = {}  # in the order they were made
        self.parked: list[_Call] = []  # what would have run while it was stopped, in order


OWNER: ContextVar[Owner | None] = ContextVar("OWNER", default=None)


class _Call(TimerHandle):
    """A callback of a process, at once or at a time; lighter than asyncio's own."""

    __slots__ = ()
    _scheduled = False
    _repr = None
    _source_traceback = None

    def __init__(  # not the base's: that one asks for the time and for debugging
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context,
    ) -> None:
        self._when = when
        self._callback = callback
        self._args = args
        self._context = context
        self._cancelled = False

    def cancel(self) -> None:
        """Have it not run; what it holds is let go."""
        self._cancelled = True
        self._callback, self._args = _nothing, ()


def _nothing() -> None:
    """Do nothing: what is left of a call that was cancelled."""


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs callbacks in order of time, then of arrival. Opens nothing and has no threads."""

    def __init__(self) -> None:
        self.now_s = 0.0  # virtual seconds since the loop was made
        self._ready: list[_Call] = []
        self._timers: list[tuple[float, int, _Call]] = []  # heap
        self._arrivals = 0
        self._stopping = self._running = self._closed = False
        self.errors: list[tuple[str, BaseException | None]] = []  # what nobody has caught
        self.places = count(1)  # of futures, counted as they are first put into a set

    # --- running --------------------------------------------------------------------------------

    def time(self) -> float:
        """Return virtual seconds since the loop was made."""
        return self.now_s

    def run_forever(self) -> None:
        """Run until stopped.

        Raises:
            InvariantError: nothing is ready and nothing will be.
        """
        self._running = True
        _set_running_loop(self)
        try:
            while not self._stopping:
                self._step()
        finally:
            self._stopping = self._running = False
            _set_running_loop(None)

    def _step(self) -> None:
        """Run what is ready now; if nothing is, let the time jump."""
        timers = self._timers
        if not self._ready:
            while timers and timers[0][2]._cancelled:
                heappop(timers)
            if not timers:
                raise InvariantError("every task waits for what will never happen")
            if timers[0][0] > self.now_s:
                self.now_s = timers[0][0]
        calls, self._ready, now_s = self._ready, [], self.now_s
        while timers and timers[0][0] <= now_s:
            calls.append(heappop(timers)[2])
        for call in calls:
            if call._cancelled:
                continue
            owner = call._context.get(OWNER)
            if owner is not None and owner.is_stopped:
                owner.parked.append(call)
                continue
            try:
                call._context.run(call._callback, *call._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as asyncio does: kept, to be looked at
                self.call_exception_handler({"message": f"in {call._callback}", "exception": error})

    def run_until_complete(self, future: Generator[Any, None, T] | Awaitable[T]) -> T:
        """Run until a future is done, and return its result."""
        task: asyncio.Future[T] = asyncio.ensure_future(cast(Awaitable[T], future), loop=self)
        task.add_done_callback(self._stop_after)
        self.run_forever()
        task.remove_done_callback(self._stop_after)
        return task.result()

    def _stop_after(self, _: asyncio.Future[Any]) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop after this step."""
        self._stopping = True

    def is_running(self) -> bool:
        """Whether it runs."""
        return self._running

    def is_closed(self) -> bool:
        """Whether it is over."""
        return self._closed

    def close(self) -> None:
        """Forget what was to come."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    def wake(self, owner: Owner) -> None:
        """Let a stopped process go on where it stood."""
        owner.is_stopped = False
        parked, owner.parked = owner.parked, []
        self._ready.extend(parked)

    # --- scheduling -----------------------------------------------------------------------------

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> Handle:
        """Run a callback in the next step."""
        call = _Call(self.now_s, callback, args, copy_context() if context is None else context)
        self._ready.append(call)
        return call

    call_soon_threadsafe = call_soon  # there are no threads

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> TimerHandle:
        """Run a callback after so many virtual seconds."""
        when = self.now_s + delay
        timer = _Call(when, callback, args, copy_context() if context is None else context)
        self._arrivals += 1
        heappush(self._timers, (when, self._arrivals, timer))
        return timer

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> TimerHandle:
        """Run a callback at a virtual time."""
        timer = _Call(when, callback, args, copy_context() if context is None else context)
        self._arrivals += 1
        heappush(self._timers, (when, self._arrivals, timer))
        return timer

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        """Nothing to do: a cancelled timer is passed over when it is due."""

    def create_future(self) -> asyncio.Future[Any]:
        """Return a future of this loop."""
        return _Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """Return a task, which belongs to the process that it was made by."""
        task: asyncio.Task[T] = _Task(coro, loop=self, name=name, context=context)
        owner = context.get(OWNER) if context is not None else OWNER.get()
        if owner is not None:
            owner.tasks[task] = None
            task.add_done_callback(lambda done: owner.tasks.pop(done, None))
        return task

    def run_in_executor(
        self, executor: object, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run it here and now: a thread would bring chance in."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whoever awaits it gets it
            done.set_exception(error)
        return done

    # --- what asyncio asks of a loop --------------------------------------------------------------

    def get_debug(self) -> bool:
        """Tell that it is not in debug mode."""
        return False

    def set_debug(self, enabled: bool) -> None:
        """Keep it off."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep what nobody caught; not what comes of a task that is thrown away when all is over."""
        if not self._closed:
            self.errors.append((context["message"], context.get("exception")))

    async def shutdown_asyncgens(self) -> None:
        """Nothing is kept of them."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as its base
        """There is none."""


class VirtualClock:
    """The machine's clocks on a loop's time; the wall clock can be stepped."""

    def __init__(self, loop: VirtualLoop, start: datetime = START) -> None:
        self._loop = loop
        self._start = start
        self.monotonic_s = loop.time

    def now(self) -> datetime:
        """Return the wall time."""
        return self._start + timedelta(seconds=self._loop.now_s)

    async def sleep(self, delay_s: float) -> None:
        """Wait that long."""
        await asyncio.sleep(delay_s)

    def step_wall(self, seconds: float) -> None:
        """Step the wall clock alone, as an operator or NTP does; no time passes."""
        self._start += timedelta(seconds=seconds)
