"""Runs one schedule and has it audited; shrinks one that fails to its shortest.

Every schedule plays at least fifty slices. What is shared between schedules: the warm-up of each market, once
for a worker, and the market's columns (`sim/models.py`). Everything else runs anew each time.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from services.gateway.protocol import LOOP  # noqa: F401  # first: it installs the reactor

# isort: split
from shared.errors import InvariantError
from sim.auditor import Finding, Rule
from sim.chaos import Chaos
from sim.faults import Schedule, draw
from sim.process import DiedError
from sim.setting import MARKETS, WARM_SLICES, own_folder, setting_of
from sim.world import World

COLLECT_EVERY = 100  # schedules: then all is looked through for garbage, else what the last one has left


@dataclass
class Outcome:
    """What became of a schedule."""

    schedule: Schedule
    findings: list[Finding]
    slices: int
    orders: int
    faults_fired: int
    passed: Counter[str]  # crash points, by how often they were passed
    hits: Counter[str]  # crash points at which a process died or stood still
    story: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether a rule was broken, or the schedule was not one."""
        return bool(self.findings)


def run_schedule(schedule: Schedule, *, with_story: bool = False) -> Outcome:
    """Run one schedule and audit it."""
    setting = setting_of(schedule.market)
    with own_folder() as folder:
        world = World(
            schedule.seed,
            setting.store,
            WARM_SLICES,
            setting.bundle,
            folder,
            setting.base,
            dict.fromkeys(schedule.twins, 2),
        )
        chaos = Chaos(world, schedule)
        problem: list[Finding] = []
        try:
            world.run(chaos.play)
        except InvariantError as error:
            problem = [Finding(Rule.UNRESOLVED, f"the mesh stands still: {error}")]
        errors = (each for each in world.loop.errors if not isinstance(each[1], DiedError))
        uncaught = [Finding(Rule.UNCAUGHT, f"{message}: {error!r}") for message, error in errors]
        findings = [*problem, *chaos.unlisted(), *uncaught, *chaos.findings]
    world.forget()
    return Outcome(
        schedule,
        findings,
        world.slice - WARM_SLICES,
        chaos.auditor.orders_sent,
        world.faults_fired,
        chaos.passed,
        chaos.hits,
        [f"{at_s:8.3f} {text}" for at_s, text in world.story] if with_story or findings else [],
    )


def run_seed(seed: int) -> Outcome:
    """Draw and run the schedule of a seed; what the one before has left in circles goes first."""
    gc.collect(0 if seed % COLLECT_EVERY else 2)
    return run_schedule(draw(seed, MARKETS))


def shrink(schedule: Schedule, still_fails: Callable[[Schedule], bool] | None = None) -> Schedule:
    """Return the shortest schedule that fails as this one does: without the faults that do not matter.

    Args:
        schedule: one that fails.
        still_fails: whether a schedule does; running it tells, if it is not given.
    """
    fails = still_fails or (lambda each: run_schedule(each).failed)
    size = max(1, len(schedule.faults) // 2)
    while size:
        at = 0
        while at < len(schedule.faults):
            shorter = replace(schedule, faults=schedule.faults[:at] + schedule.faults[at + size :])
            if fails(shorter):
                schedule = shorter
            else:
                at += size
        size //= 2
    for twin in schedule.twins:
        alone = replace(schedule, twins=tuple(each for each in schedule.twins if each != twin))
        if fails(alone):
            schedule = alone
    return schedule
