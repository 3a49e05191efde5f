"""A process of the mesh in a simulation: it may die at every effect, be stopped in its tracks, and come back.

What a process does to the world goes through doors. Before and after each call of a door stands a crash
point; once the process is dead its doors let nothing through, whatever its code still tries on the way out.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from dataclasses import dataclass
from enum import StrEnum
from inspect import iscoroutinefunction
from types import CodeType
from typing import Any, Protocol

from sim.loop import OWNER, Owner, VirtualLoop

NO_EFFECTS = frozenset({"follow_accounts"})  # runs beside, as long as the process: nothing rests on it


class Side(StrEnum):
    """Where a crash point stands beside its effect."""

    BEFORE = "before"
    AFTER = "after"


class DiedError(BaseException):
    """The process is gone. Not an error of the mesh: nothing in it may catch this and go on."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What happens to a process at a crash point."""

    dies: bool = True
    stopped_s: float = 0.0  # of one that does not die: for how long it stands still


class Watcher(Protocol):
    """Who decides what happens at a crash point."""

    def passes(self, process: Process, point: str) -> Fate | None:
        """Take note that a process passes a point, and say what happens to it there."""


class Process(Owner):
    """One run of one service, from its start to its end or death."""

    def __init__(self, loop: VirtualLoop, service: str, number: int, watcher: Watcher) -> None:
        super().__init__()
        self.service = service
        self.number = number
        self.is_dead = False
        self.trouble: Callable[[], str] = lambda: "not started"
        self.stop: Callable[[], None] = self.kill  # what SIGTERM does
        self.on_death: list[Callable[[], None]] = []  # what the machine does to what a dead process held
        self._loop = loop
        self._watcher = watcher
        self._main: asyncio.Task[None] | None = None

    def start(self, main: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run its main."""
        context = copy_context()
        context.run(OWNER.set, self)
        self._main = self._loop.create_task(main, context=context)
        return self._main

    def kill(self) -> None:
        """End it here and now: nothing more gets out of it."""
        if self.is_dead:
            return
        self.is_dead = True
        for release in self.on_death:
            release()
        self._loop.wake(self)  # one that stood still can be killed too
        for task in list(self.tasks):
            task.cancel()

    def stand_still(self, seconds: float) -> None:
        """Stop it in its tracks for a while; time goes on without it."""
        self.is_stopped = True
        self._loop.call_later(seconds, self._loop.wake, self, context=copy_context_of_nobody())

    async def reach(self, point: str) -> None:
        """Pass a crash point."""
        fate = self._fate(point)
        if fate is not None:
            self.stand_still(fate.stopped_s)
            await asyncio.sleep(0)

    def reach_at_once(self, point: str) -> None:
        """Pass a crash point in code that cannot wait; such code is not stopped, it dies or goes on."""
        fate = self._fate(point)
        if fate is not None:
            self.stand_still(fate.stopped_s)

    def _fate(self, point: str) -> Fate | None:
        self.check_alive()
        fate = self._watcher.passes(self, point)
        if fate is not None and fate.dies:
            self.kill()
            raise DiedError(point)
        return fate

    def check_alive(self) -> None:
        """Let nothing of a dead process through."""
        if self.is_dead:
            raise DiedError


class Door:
    """Stands before what a process acts through: its methods that wait are effects, a point on each side.

    The point is named after the function that calls: `<module>.<function> <door>.<method>:<side>`.
    """

    def __init__(self, target: Any, name: str, process: Process) -> None:  # noqa: ANN401 - any door
        self._target = target
        self._name = name
        self._process = process

    def __getattr__(self, method: str) -> Any:  # noqa: ANN401
        found = getattr(self._target, method)
        if not _is_effect(type(self._target), method):
            return found
        process, effect = self._process, f"{self._name}.{method}"

        def call(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:  # noqa: ANN401
            caller = sys._getframe(1)
            point = f"{process.service} {site_of(caller.f_globals['__name__'], caller.f_code)} {effect}"
            return _passed(process, point, found, args, kwargs)

        setattr(self, method, call)
        return call


_EFFECTS: dict[tuple[type, str], bool] = {}


def _is_effect(kind: type, method: str) -> bool:
    """Whether a method reaches the world: it waits, and something rests on it."""
    known = _EFFECTS.get((kind, method))
    if known is None:
        waits = iscoroutinefunction(getattr(kind, method, None))
        known = _EFFECTS[kind, method] = waits and method not in NO_EFFECTS
    return known


async def _passed(
    process: Process,
    point: str,
    method: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:  # noqa: ANN401
    await process.reach(f"{point}:{Side.BEFORE}")
    done = await method(*args, **kwargs)
    await process.reach(f"{point}:{Side.AFTER}")
    return done


_SITES: dict[CodeType, str] = {}


def site_of(module: str, code: CodeType) -> str:
    """Return the name of a function as crash points have it."""
    site = _SITES.get(code)
    if site is None:
        site = _SITES[code] = f"{module}.{code.co_qualname}"
    return site


def copy_context_of_nobody() -> Any:  # noqa: ANN401
    """Return a context that belongs to no process: what runs in it is the machine's."""
    context = copy_context()
    context.run(OWNER.set, None)
    return context
