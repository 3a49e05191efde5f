"""One question to the venue and its answer: the official client's transport and ours, side by side.

Both ask one simulated venue the same question (open positions) by the same seeded schedule, in the same
seconds: single questions at drawn times, whether or not the last one is answered, then ten at once. Ours is
measured as it runs, at the pace that keeps a real venue's limits, and with that pace lifted: the transport
alone. The official client is the package of PyPI in an environment of its own, with its own pins.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from services.gateway.protocol import LOOP  # first: it installs the reactor

# isort: split
from bench.common import figures, machine
from bench.official import official_python
from cli.supervisor import Supervisor
from services.gateway import link as link_module
from services.gateway.access import Credentials, authorise, open_link
from services.gateway.inbox import Inbox
from services.gateway.link import Link
from services.gateway.protocol import oa
from services.gateway.rate import Limits
from services.gateway.tokens import Tokens
from services.gateway.transport import Address

ROOT = Path(__file__).parents[1]
SEED = 1
GAP_S = (0.1, 0.9)  # between two questions: their phase to a clock of one second is drawn, too
BURST, BURSTS = 10, 20
BURST_GAP_S = (1.0, 2.0)
NO_LIMIT = Limits(per_s=1e6, burst=1e6, for_orders=0.0)


def a_plan(singles: int) -> dict[str, Any]:
    """Return when to ask, the same for all."""
    rng = random.Random(SEED)  # noqa: S311 - a schedule
    return {
        "gaps_s": [rng.uniform(*GAP_S) for _ in range(singles)],
        "burst": BURST,
        "burst_gaps_s": [rng.uniform(*BURST_GAP_S) for _ in range(BURSTS)],
    }


async def connected(ready: dict[str, Any], folder: Path, limits: Limits) -> tuple[Link, Credentials]:
    """Return a link of ours, let in, with the account authorised on it."""
    link_module.LIMITS = limits  # a link keeps those that it was made with
    address = Address(ready["host"], ready["port"], Path(ready["ca_file"]))
    tokens = Tokens(folder, ready["access_token"], ready["refresh_token"])
    who = Credentials(ready["client_id"], ready["client_secret"], ready["account_id"], tokens)
    link = await open_link(address, who, Inbox())
    await authorise(link, who)
    return link, who


async def ours(link: Link, who: Credentials, plan: dict[str, Any]) -> dict[str, Any]:
    """Return how long our own link's questions took, in seconds."""
    alive = asyncio.create_task(link.keep_alive())
    try:
        return await _measure(link, who.account_id, plan)
    finally:
        alive.cancel()
        link.abort("measured")


async def _measure(link: Link, account: int, plan: dict[str, Any]) -> dict[str, Any]:
    async def timed() -> float:
        began_s = time.monotonic()
        await link.request(oa.ProtoOAReconcileReq(ctidTraderAccountId=account))
        return time.monotonic() - began_s

    singles = []
    for gap_s in plan["gaps_s"]:
        singles.append(asyncio.create_task(timed()))
        await asyncio.sleep(gap_s)
    single_s = await asyncio.gather(*singles)
    bursts_s = []
    for gap_s in plan["burst_gaps_s"]:
        bursts_s.append(await asyncio.gather(*(timed() for _ in range(plan["burst"]))))
        await asyncio.sleep(gap_s)
    return {"singles_s": single_s, "bursts_s": bursts_s}


async def official(venue_file: Path, plan_file: Path) -> dict[str, Any]:
    """Return how long the official client's questions took, in seconds."""
    program = str(ROOT / "bench" / "official_round_trip.py")
    client = await asyncio.create_subprocess_exec(
        official_python(), program, str(venue_file), str(plan_file), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await client.communicate()
    if client.returncode:
        raise SystemExit(f"the official client left with status {client.returncode}")
    return dict(json.loads(output))


def told(samples: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one client."""
    bursts = samples["bursts_s"]
    return {
        "one question": figures(samples["singles_s"]),
        f"{BURST} at once, each": figures([took_s for burst in bursts for took_s in burst]),
        f"{BURST} at once, the last": figures([max(burst) for burst in bursts]),
    }


async def measure(singles: int) -> dict[str, Any]:
    """Return the figures of one run: all clients side by side."""
    official_python()  # made before anything is measured
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = a_plan(singles)
        plan_file = folder / "plan.json"
        plan_file.write_text(json.dumps(plan))
        supervisor = Supervisor(folder, "bench", {"VENUE_SPEED": "1", "VENUE_REQUESTS_PER_S": "100000"})
        await supervisor.start(services=())
        try:
            ready = json.loads(supervisor.venue_file.read_text())
            links = [await connected(ready, folder / "tokens", limits) for limits in (Limits(), NO_LIMIT)]
            results = await asyncio.gather(
                official(supervisor.venue_file, plan_file), *(ours(*link, plan) for link in links)
            )
        finally:
            await supervisor.stop()
    names = ("official client", "ours", "ours, without its pace")
    by_name = {name: told(samples) for name, samples in zip(names, results, strict=True)}
    ratio = by_name[names[0]]["one question"]["p50"] / by_name[names[1]]["one question"]["p50"]
    return {**by_name, "official p50 / ours, one question": round(ratio)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--singles", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = LOOP.run_until_complete(measure(options.singles))
    report = {"bench": "round_trip", "seed": SEED, "machine": machine(), **results}
    if options.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name}: {value}" if not isinstance(value, dict) else name)
        for what, marks in value.items() if isinstance(value, dict) else ():
            print(f"  {what:<22} {marks}")


if __name__ == "__main__":
    main()
