"""Runs in a container beside the venue: its books against the streams, as one line of JSON."""

import asyncio
import dataclasses
import json
import os
from pathlib import Path

from cli.audit import Findings, audit
from cli.mesh_view import MeshView
from cli.venue_control import VenueControl
from shared.redis_bus import RedisBus

BOOK = os.environ["BOOK"]
TRIES = 60  # an order that is under way counts as unresolved: look again until none is


async def look() -> tuple[Findings, MeshView]:
    venue = VenueControl(Path("var/venue/ready.json"))
    mesh = MeshView()
    async with RedisBus.connect(os.environ["REDIS_URL"], BOOK, "audit") as bus:
        for _ in range(TRIES):
            ledger = await venue.ledger()
            seen = -1
            while seen != (seen := len(mesh.signals) + sum(map(len, mesh.executions.values()))):
                await mesh.follow(bus, 100)
            findings = audit(ledger, mesh, BOOK)
            if findings.clean:
                break
            await asyncio.sleep(0.5)
    venue.close()
    return findings, mesh


findings, mesh = asyncio.run(look())
live = [signal for signal in mesh.signals.values() if signal.live]
counts = {
    "live_signals": len(live),
    "slices": len({s.close_time for s in live}),
    "requests": len(mesh.requests),
}
times = sorted(s.close_time.isoformat() for s in live)
kinds = [e.kind.value for events in mesh.executions.values() for e in events]
print(
    json.dumps(
        {
            **counts,
            **dataclasses.asdict(findings),
            "first": times[0] if times else None,
            "last": times[-1] if times else None,
            "kinds": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        }
    )
)
