"""Thousands of schedules on as many processors as there are, and what they add up to."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from services.gateway.protocol import LOOP  # noqa: F401  # first: it installs the reactor

# isort: split
from shared.log import silence
from sim.auditor import Rule
from sim.chaos import ORDERS_MIN
from sim.faults import SLICES_MIN, draw
from sim.mutations import MUTATIONS
from sim.points import crash_points
from sim.runner import run_schedule, run_seed, shrink
from sim.setting import MARKETS, setting_of

CHUNK = 10  # seeds that a worker takes at once
SHRUNK_MAX = 5  # failing schedules that are shrunk and told; the others are named by their seed


@dataclass
class Part:
    """What a few schedules gave."""

    schedules: int = 0
    slices: int = 0
    orders: int = 0
    faults: int = 0
    too_small: list[int] = field(default_factory=list)  # seeds: too few slices, orders or faults
    rules: Counter[str] = field(default_factory=Counter)  # schedules that broke a rule
    failing: dict[int, list[str]] = field(default_factory=dict)  # seed -> what was found
    passed: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)

    def add(self, other: Part) -> None:
        """Take in another part."""
        self.schedules += other.schedules
        self.slices += other.slices
        self.orders += other.orders
        self.faults += other.faults
        self.too_small += other.too_small
        self.failing |= other.failing
        for mine, theirs in ((self.rules, other.rules), (self.passed, other.passed), (self.hits, other.hits)):
            mine.update(theirs)


def run_part(seeds: range) -> Part:
    """Run the schedules of some seeds; in a worker."""
    silence()
    part = Part()
    for seed in seeds:
        outcome = run_seed(seed)
        part.schedules += 1
        part.slices += outcome.slices
        part.orders += outcome.orders
        part.faults += outcome.faults_fired
        part.passed.update(outcome.passed)
        part.hits.update(outcome.hits)
        if outcome.slices < SLICES_MIN or outcome.orders < ORDERS_MIN or outcome.faults_fired < 1:
            part.too_small.append(seed)
        if outcome.failed:
            part.failing[seed] = [str(finding) for finding in outcome.findings]
            part.rules.update({finding.rule for finding in outcome.findings})
    return part


def warm_up() -> None:
    """Bring the markets up to where schedules begin; in a worker, once."""
    silence()
    for market in range(MARKETS):
        setting_of(market)
    gc.collect()
    gc.freeze()  # what is there now stays, and need not be looked through again and again
    gc.disable()  # what a schedule leaves is looked for when it is over


def run_campaign(
    schedules: int, seed: int, workers: int, progress: Callable[[int], None] = lambda done: None
) -> Part:
    """Run the schedules of so many consecutive seeds.

    Args:
        schedules: how many.
        seed: the first.
        workers: processes side by side.
        progress: told how many are done.
    """
    whole = Part()
    chunks = [
        range(first, min(first + CHUNK, seed + schedules)) for first in range(seed, seed + schedules, CHUNK)
    ]
    with ProcessPoolExecutor(workers, initializer=warm_up) as pool:
        for part in pool.map(run_part, chunks):
            whole.add(part)
            progress(whole.schedules)
    return whole


def failures_of(whole: Part) -> Iterator[dict[str, Any]]:
    """Yield each failing schedule: its seed, what was found; of the first ones the shortest that fails."""
    silence()
    for number, (seed, found) in enumerate(sorted(whole.failing.items())):
        failure: dict[str, Any] = {"seed": seed, "found": found}
        if number < SHRUNK_MAX:
            shortest = shrink(draw(seed, MARKETS))
            failure["shortest"] = shortest.story()
            failure["story"] = run_schedule(shortest, with_story=True).story
        yield failure


def summary(whole: Part, failures: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is printed: zeros, and which crash points were hit how often."""
    points = sorted(crash_points())
    hits = {point: whole.hits[point] for point in points}
    return {
        "schedules": whole.schedules,
        "slices": whole.slices,
        "orders": whole.orders,
        "faults_fired": whole.faults,
        "crash_points": len(points),
        "crash_points_hit": sum(count > 0 for count in hits.values()),
        "duplicates": whole.rules[Rule.DUPLICATE] + whole.rules[Rule.TWO_POSITIONS],
        "lost": whole.rules[Rule.LOST] + whole.rules[Rule.SLICE] + whole.rules[Rule.NUMBER],
        "unprotected": whole.rules[Rule.UNPROTECTED],
        "unresolved": whole.rules[Rule.UNRESOLVED],
        "too_small": whole.too_small,
        "failures": failures,
        "hits": hits,
    }


def hunt(number: int, seed: int) -> int | None:
    """Return how many schedules a mutation took; in a worker."""
    silence()
    return MUTATIONS[number].hunt(seed)


def run_mutations(seed: int, workers: int) -> dict[str, int | None]:
    """Return how many schedules it took to find each mutation; None: it was missed."""
    with ProcessPoolExecutor(workers, initializer=warm_up) as pool:
        took = pool.map(hunt, range(len(MUTATIONS)), [seed] * len(MUTATIONS))
        return dict(zip((mutation.name for mutation in MUTATIONS), took, strict=True))
