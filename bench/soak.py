"""A market day at full speed: is memory flat, do descriptors leak, how late are the loops?

The mesh of the demo, every service its own process. Memory and descriptors are sampled before every slice;
the slope is a least-squares line over the second half, when all caches are warm. At the end the venue's books
are compared with the streams.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from bench.common import machine
from cli.demo import Demo, DemoOptions
from cli.supervisor import SERVICES

ROOT = Path(__file__).parents[1]
DAY_SLICES = 288


class SampledDemo(Demo):
    """A demo that looks at its processes before every slice."""

    def __init__(self, *wired: Any) -> None:
        super().__init__(*wired)
        self.samples: dict[str, list[tuple[float, int]]] = {name: [] for name in SERVICES}

    async def before_close(self, close_ms: int) -> None:
        """Take resident memory in MB and open descriptors of every service."""
        for name in SERVICES:
            process = psutil.Process(self.supervisor.children[name].pid)
            taken = (process.memory_info().rss / 1e6, process.num_fds())
            self.samples[name].append(taken)


def leaks_of(samples: list[tuple[float, int]]) -> dict[str, float]:
    """Return memory's slope over the second half, and how descriptors changed there."""
    half = np.array(samples[len(samples) // 2 :])
    slope = np.polyfit(np.arange(len(half)), half[:, 0], 1)[0]
    return {
        "rss_mb": round(float(half[-1, 0]), 1),
        "rss_kb_per_slice": round(1000 * float(slope), 2),
        "descriptors_first": int(half[0, 1]),
        "descriptors_last": int(half[-1, 1]),
    }


async def measure(slices: int) -> dict[str, Any]:
    """Return the figures of one run."""
    with tempfile.TemporaryDirectory() as folder:
        options = DemoOptions(bars=slices, bundle=ROOT / "bundles" / "plumbing", folder=Path(folder))
        async with SampledDemo.start(options) as demo:
            assert isinstance(demo, SampledDemo)
            await demo.play()
            result, findings = await demo.result()
            health = {name: await demo.bus.health(name) for name in SERVICES}
    services = {
        name: leaks_of(demo.samples[name]) | {"loop_lag_p99_ms": health[name]["loop_lag_p99_ms"]}
        for name in SERVICES
    }
    zeros = {name: result[name] for name in ("duplicates", "lost", "unprotected", "unresolved")}
    return {"slices": slices, "fills": result["fills"], **zeros, **services, "clean": findings.clean}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=DAY_SLICES)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    report = {"bench": "soak", "machine": machine(), **asyncio.run(measure(options.slices))}
    if options.json:
        print(json.dumps(report))
    else:
        print("\n".join(f"{name:>12}  {value}" for name, value in report.items()))


if __name__ == "__main__":
    main()
