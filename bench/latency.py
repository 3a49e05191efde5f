"""From a close to the order: the venue writes the next bar's first quote, the order's bytes arrive there.

Every service is its own process, Valkey writes its AOF every second, five symbols close together. The quotes
of the old bar have passed when the close comes, as on a real market; closes are at least a second apart.
With `--against official` the official client's transport follows in its own environment: a program that
sends an order at once when it sees the new bar, on the same kind of venue, in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common import figures, machine
from bench.official import official_python
from cli.demo import Demo, DemoOptions
from cli.mesh_view import MeshView
from cli.supervisor import SERVICES, Supervisor
from cli.venue_control import VenueControl

ROOT = Path(__file__).parents[1]
M5_MS = 300_000
APART_S = 1.0
QUIET_S = 0.25
WARM_UP = 10  # closes that are not counted: caches, and the history that is still being handled
OFFICIAL_START_S = 60.0
OFFICIAL_CLOSES_MAX = 200  # each has its order, and takes a second longer


class SpacedDemo(Demo):
    """A demo whose closes are apart, and whose old quotes have passed before each."""

    async def before_close(self, close_ms: int) -> None:
        """Let the bar's own quotes pass, and wait."""
        await self.venue.step(close_ms - 1)
        await asyncio.sleep(APART_S)

    async def _until_terminal(self, close_ms: int) -> None:
        """Look into the streams only when the orders have left: reading them is work for these cores."""
        await asyncio.sleep(QUIET_S)
        await super()._until_terminal(close_ms)


async def mesh(closes: int, folder: Path) -> dict[str, Any]:
    """Return the mesh's figures: every order, and the first one of each close."""
    options = DemoOptions(bars=closes + WARM_UP, bundle=ROOT / "bundles" / "plumbing", folder=folder)
    async with SpacedDemo.start(options) as demo:
        await demo.play()
        timing = await demo.venue.timing()
        view = demo.mesh
        health = {name: await demo.bus.health(name) for name in SERVICES}
    said = ("step_p50_ms", "step_p99_ms", "loop_lag_p99_ms")
    steps = {f"{name}, ms": {field: health[name].get(field) for field in said} for name in SERVICES}
    return _mesh_figures(timing, view) | steps


def _mesh_figures(timing: dict[str, Any], view: MeshView) -> dict[str, Any]:
    written = {int(open_ms): at_s for open_ms, at_s in timing["first_quotes"].items()}
    by_close: dict[int, list[float]] = {}
    phases: dict[str, list[float]] = {}
    for order, at_s in timing["orders"].items():
        request = view.requests[order]
        close_ms = round(request.meta.event_time.timestamp() * 1000)
        if close_ms in written:
            by_close.setdefault(close_ms, []).append(at_s - written[close_ms])
            for event in view.executions[order]:
                for name, took_ms in (event.latency_ms or {}).items():
                    phases.setdefault(name, []).append(took_ms)
    counted = [times for _, times in sorted(by_close.items())][WARM_UP:]
    return {
        "first order of a close": figures([min(times) for times in counted]),
        "every order": figures([at_s for times in counted for at_s in times]),
        "phases, median ms": {name: round(statistics.median(took), 3) for name, took in phases.items()},
    }


async def official(closes: int, folder: Path) -> dict[str, Any]:
    """Return the official client's figures, on a venue of the same kind."""
    python = official_python()
    env = {"VENUE_SPEED": "0", "VENUE_REQUESTS_PER_S": "100000"}
    supervisor = Supervisor(folder, "official", env)
    await supervisor.start(services=())
    venue = VenueControl(supervisor.venue_file)
    client = await asyncio.create_subprocess_exec(
        python, str(ROOT / "bench" / "official_client.py"), str(supervisor.venue_file),
        stdout=asyncio.subprocess.PIPE, env=dict(os.environ),
    )  # fmt: skip
    try:
        assert client.stdout
        async with asyncio.timeout(OFFICIAL_START_S):
            await client.stdout.readline()  # ready
        state = await venue.state()
        close_ms = state["time_ms"] // M5_MS * M5_MS + M5_MS
        for _ in range(closes):
            state = await venue.step(close_ms - 1)
            await asyncio.sleep(APART_S)
            state = await venue.step(close_ms + 1_000)
            close_ms += M5_MS
            await asyncio.sleep(APART_S)  # its queue is flushed once a second
        timing = await venue.timing()
    finally:
        client.terminate()
        await client.wait()
        venue.close()
        await supervisor.stop()
    written = {int(open_ms): at_s for open_ms, at_s in timing["first_quotes"].items()}
    arrived = {int(order.rpartition("-")[2]): at_s for order, at_s in timing["orders"].items()}
    return {"official client": figures([arrived[c] - written[c] for c in arrived if c in written])}


async def measure(closes: int, against: str | None) -> dict[str, Any]:
    """Return the figures of one run."""
    with tempfile.TemporaryDirectory() as folder:
        results = await mesh(closes, Path(folder) / "mesh")
        if against == "official":
            fewer = min(closes, OFFICIAL_CLOSES_MAX)
            results |= await official(fewer, Path(folder) / "official")
            ours = results["first order of a close"]["p50"]
            results["official p50 / ours"] = round(results["official client"]["p50"] / ours, 1)
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--closes", type=int, default=200)
    parser.add_argument("--against", choices=["official"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    started = time.monotonic()
    results = asyncio.run(measure(options.closes, options.against))
    report = {
        "bench": "latency",
        "machine": machine(),
        "seconds": round(time.monotonic() - started),
        **results,
    }
    if options.json:
        print(json.dumps(report))
    else:
        print("\n".join(f"{name:>24}  {value}" for name, value in report.items()))


if __name__ == "__main__":
    main()
