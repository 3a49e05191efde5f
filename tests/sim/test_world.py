"""The whole mesh in one process: it trades, on virtual time, and the same way every time."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway.protocol import LOOP  # noqa: F401  # first: it installs the reactor

# isort: split
from shared.clock import monotonic_s
from shared.errors import InvariantError
from sim.faults import SLICES_MIN, Fault, FaultKind, Schedule, draw
from sim.loop import OWNER, Owner, VirtualClock, VirtualLoop
from sim.points import SERVICES, crash_points, effects_in, modules_of
from sim.runner import run_schedule
from sim.setting import MARKETS


def a_loop() -> VirtualLoop:
    return VirtualLoop()  # type: ignore[abstract]


def a_schedule(*faults: Fault, seed: int = 1) -> Schedule:
    return Schedule(seed, 0, (), faults)


def test_a_mesh_without_faults_trades_and_keeps_every_rule() -> None:
    """What is to be held under faults holds without them, or the auditor is wrong."""
    outcome = run_schedule(a_schedule())
    assert [str(finding) for finding in outcome.findings] == []
    assert outcome.slices >= SLICES_MIN
    assert outcome.orders >= 5


def test_the_same_seed_takes_the_same_steps() -> None:
    """A failure that cannot be had again cannot be mended."""
    first, second = (run_schedule(draw(7, MARKETS), with_story=True) for _ in range(2))
    assert first == second
    assert first.story


def test_virtual_time_jumps_to_what_comes_next() -> None:
    """An hour takes no time, and everything is in its order."""
    loop, order = a_loop(), []

    async def wait(seconds: float) -> None:
        await asyncio.sleep(seconds)
        order.append(seconds)

    async def main() -> None:
        await asyncio.gather(*(wait(seconds) for seconds in (3600.0, 0.1, 60.0)))

    loop.run_until_complete(main())
    assert order == [0.1, 60.0, 3600.0]
    assert loop.time() == 3600.0


def test_a_process_that_stands_still_goes_on_where_it_stood() -> None:
    """As SIGSTOP and SIGCONT do: time goes on for all others, and what came meanwhile waits."""
    loop, owner, done = a_loop(), Owner(), []

    async def work() -> None:
        OWNER.set(owner)
        await asyncio.create_task(steps())

    async def steps() -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            done.append(loop.time())

    async def main() -> None:
        loop.call_later(1.5, setattr, owner, "is_stopped", True)
        loop.call_later(5.0, loop.wake, owner)
        await work()

    loop.run_until_complete(main())
    assert done == [1.0, 5.0, 6.0]


def test_a_mesh_that_waits_for_nothing_is_told() -> None:
    """A loop that has nothing to come would stand for ever."""
    loop = a_loop()
    with pytest.raises(InvariantError, match="never happen"):
        loop.run_until_complete(loop.create_future())


def test_the_wall_clock_may_be_stepped_and_the_other_may_not() -> None:
    """Deadlines run on the clock that nobody sets."""
    loop = a_loop()
    clock = VirtualClock(loop)
    before, clock_s = clock.now(), clock.monotonic_s()
    clock.step_wall(-3600)
    assert (before - clock.now()).total_seconds() == 3600
    assert clock.monotonic_s() == clock_s != monotonic_s()


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_has_crash_points(service: str) -> None:
    """They are read from its code: before and after each read, commit, write and send."""
    points = {point for point in crash_points() if point.startswith(f"{service} ")}
    effects = {effect for module in modules_of(service) for effect in effects_in(module)}
    assert {f"{service} {effect}:{side}" for effect in effects for side in ("before", "after")} <= points
    assert f"{service} shared.runtime.Runtime._commit bus.commit:before" in points


def test_a_process_dies_at_the_point_that_is_named() -> None:
    """Before its commit nothing is written, and the next one does it all again."""
    point = "executor shared.runtime.Runtime._commit bus.commit:before"
    outcome = run_schedule(a_schedule(Fault(FaultKind.DIE_AT, 5, service="executor", point=point)))
    assert outcome.hits == {point: 1}
    assert outcome.findings == []
