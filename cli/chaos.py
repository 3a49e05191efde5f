"""`tradeguard chaos`: schedules of faults over the whole mesh, audited; deliberate bugs to be found."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from shared.clock import monotonic_s
from sim.campaign import failures_of, run_campaign, run_mutations, summary


def run(schedules: int, seed: int, workers: int) -> dict[str, Any]:
    """Run a campaign, with a line of progress on a terminal."""
    began_s = monotonic_s()

    def progress(done: int) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{done} of {schedules} schedules")
            sys.stderr.write("\n" if done == schedules else "")

    whole = run_campaign(schedules, seed, workers, progress)
    took_s = monotonic_s() - began_s
    result = summary(whole, list(failures_of(whole)))
    return {"seed": seed, "workers": workers, "seconds": round(took_s, 1), **result}


def holds(result: Mapping[str, Any]) -> bool:
    """Whether every schedule was one, and kept every rule."""
    return not result["failures"] and not result["too_small"]


def as_text(result: Mapping[str, Any]) -> str:
    """Return a result for people: the zeros, then what failed, then the points that were not hit."""
    lines = [
        f"{result['schedules']} schedules from seed {result['seed']} in {result['seconds']} s on"
        f" {result['workers']} processes: {result['slices']} slices, {result['orders']} orders,"
        f" {result['faults_fired']} faults",
        f"duplicates {result['duplicates']}, lost {result['lost']}, unprotected {result['unprotected']},"
        f" unresolved {result['unresolved']}, failing {len(result['failures'])}",
        f"crash points {result['crash_points']}, hit {result['crash_points_hit']}",
    ]
    for failure in result["failures"]:
        lines += ["", f"seed {failure['seed']}:", *(f"  {found}" for found in failure["found"][:5])]
        lines += [f"    {line}" for line in (*failure.get("shortest", ()), *failure.get("story", ()))]
    missed = [point for point, hits in result["hits"].items() if not hits]
    if missed and result["schedules"] >= result["crash_points"]:
        lines += ["", "not hit:", *(f"  {point}" for point in missed)]
    return "\n".join(lines)


def mutations(seed: int, workers: int) -> dict[str, Any]:
    """Put each deliberate bug in, and count the schedules until it is found."""
    took = run_mutations(seed, workers)
    return {"seed": seed, "mutations": took, "missed": [name for name, n in took.items() if n is None]}


def mutations_as_text(result: Mapping[str, Any]) -> str:
    """Return it for people."""
    rows = result["mutations"].items()
    return "\n".join(f"{'missed' if took is None else took:>6}  {name}" for name, took in rows)
