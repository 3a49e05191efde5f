"""A process of the mesh in a simulation: it may die at every effect, be stopped in its tracks, and come back.

What a process does to the world goes through doors. Before and after each call of a door stands a crash
point; once the process is dead its doors let nothing through, whatever its code still tries on the way out.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Container, Coroutine
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from inspect import iscoroutinefunction, ismethod
from types import CodeType, FrameType
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Watch:
    """Counts the crash points that are passed, and says what happens at those that are armed."""

    passed: Counter[str] = field(default_factory=Counter)
    armed: Container[str] = ()
    fate: Callable[[Process, str], Fate | None] = lambda process, point: None


class Process(Owner):
    """One run of one service, from its start to its end or death."""

    def __init__(self, loop: VirtualLoop, service: str, number: int, watch: Watch) -> None:
        super().__init__()
        self.service = service
        self.number = number
        self.is_dead = False
        self.trouble: Callable[[], str] = lambda: "not started"
        self.subscribe_again: Callable[[str], Coroutine[Any, Any, None]] | None = None  # a gateway's
        self.stop: Callable[[], None] = self.kill  # what SIGTERM does
        self.on_death: list[Callable[[], None]] = []  # what the machine does to what a dead process held
        self._loop = loop
        self._watch = watch
        self._main: asyncio.Task[None] | None = None

    def start(self, main: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run its main."""
        context = copy_context()
        context.run(OWNER.set, self)
        self._main = self._loop.create_task(main, context=context)
        return self._main

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Have it do something more."""
        context = copy_context()
        context.run(OWNER.set, self)
        return self._loop.create_task(work, context=context)

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

    def reach(self, point: str) -> bool:
        """Pass a crash point; whether the process stands still there, at the next time that it waits."""
        if self.is_dead:
            raise DiedError
        watch = self._watch
        watch.passed[point] += 1
        if point not in watch.armed or (fate := watch.fate(self, point)) is None:
            return False
        if fate.dies:
            self.kill()
            raise DiedError(point)
        self.stand_still(fate.stopped_s)
        return True


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
            if ismethod(found) or method in _CONSTANTS:
                setattr(self, method, found)
            return found
        process, effect = self._process, f"{self._name}.{method}"
        points = _points_of(process.service, effect)

        def call(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:  # noqa: ANN401
            caller = sys._getframe(1)
            try:
                before, after = points[caller.f_code]
            except KeyError:
                before, after = _sides_of(process.service, caller, effect)
                points[caller.f_code] = before, after
            return _passed(process, before, after, found, args, kwargs)

        setattr(self, method, call)
        return call


@cache
def _points_of(service: str, effect: str) -> dict[CodeType, tuple[str, str]]:
    """Return the points of an effect that are known, by who calls."""
    return {}


def _sides_of(service: str, caller: FrameType, effect: str) -> tuple[str, str]:
    """Return the names of the points before and after an effect."""
    site = f"{caller.f_globals['__name__']}.{caller.f_code.co_qualname}"
    return f"{service} {site} {effect}:{Side.BEFORE}", f"{service} {site} {effect}:{Side.AFTER}"


_CONSTANTS = frozenset({"book", "read_count"})
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
    before: str,
    after: str,
    method: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:  # noqa: ANN401
    if process.reach(before):
        await asyncio.sleep(0)
    done = await method(*args, **kwargs)
    if process.reach(after):
        await asyncio.sleep(0)
    return done


def copy_context_of_nobody() -> Context:
    """Return a context that belongs to no process: what runs in it is the machine's."""
    context = copy_context()
    context.run(OWNER.set, None)
    return context
