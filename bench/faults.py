"""A market day with each of the venue's faults at a high rate, one at a time, then all together.

The mesh of the simulation (`sim/`): the live services, the venue's own sessions and matching, virtual time.
The auditor judges each day from the venue's ledger. Printed for each fault: how often it struck, how many
orders were sent, what became of them, and how long the slowest one took from its request to a known end.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from services.gateway.protocol import LOOP  # noqa: F401  # first: it installs the reactor

# isort: split
from bench.common import machine
from shared import streams
from shared.messages import EventReported, ExecutionKind, ExecutionReported, OrderRequested
from shared.streams import id_parts
from sim.auditor import Auditor
from sim.chaos import WARM_SLICES, WARM_UP_S
from sim.market import SparseStore, sparse_market
from sim.models import eager_bundle
from sim.server import MemoryServer
from sim.world import World
from venue.book import SYMBOLS
from venue.fault_names import FAULTS

DAY_SLICES = 288
PEACE_SLICES = 12  # after the faults: what is open comes to its end
ORDERS_MIN = 100
SEED = 1
DIRECTIONS = (0.9, -0.9, 0.9, -0.9, 0.9)  # in symbol order: all want to trade at every slice
DEPOSIT_CENTS = 100_000_000  # so much that no size is too small
POLICY = {  # a day full of losses is what this is about: the limits that would end it are wide
    "day_loss_fraction_max": Decimal(1),
    "drawdown_fraction_max": Decimal(1),
    "losing_streak_max": 1000,
    "risk_fraction_max": Decimal("0.02"),
}
OPEN = {ExecutionKind.SENT, ExecutionKind.ACCEPTED, ExecutionKind.UNKNOWN, ExecutionKind.REPAIRING}
NEWEST = 60  # executions that one slice may lead to, and more
SETTLE_S = 90.0  # longer than a silent link is believed in
RARE = 0.004  # of faults that end a connection or a session: some ten a day
OFTEN = 0.2
DELAY_MS = 4_000

# What a fault needs beside its name; `OFTEN` is its probability unless it says something else.
ASKED: dict[str, dict[str, Any]] = {
    "filled_while_disconnected": {"delay_ms": 20_000, "probability": 0.1},
    "disconnected_after_accept": {"probability": 0.1},
    "protection_late": {"delay_ms": 10_000},
    "request_ignored": {"message": "ProtoOAReconcileReq"},
    "request_unanswered": {"message": "ProtoOAReconcileReq"},
    "request_refused": {"message": "ProtoOAReconcileReq", "error_code": "UNKNOWN_ERROR"},
    "answer_late": {"delay_ms": 2_000, "probability": 0.05},
    "rate_limited": {"probability": 0.05},
    "not_routed": {"probability": 0.02},
    "maintenance": {"lasts_ms": 60_000, "probability": 0.01},
    "maintenance_open_end": {"lasts_ms": 60_000, "probability": 0.01},
    "account_auth_unanswered": {"count": 1, "with": "link_dropped"},
    "handshake_closed": {"count": 3, "with": "link_dropped"},
    "token_voided": {"probability": RARE},
    "refresh_raced": {"with": "token_voided"},
    "account_disconnected": {"probability": RARE},
    "client_disconnected": {"probability": RARE},
    "symbols_changed": {"probability": RARE},
    "symbol_ids_changed": {"probability": RARE},
    "trader_updated": {"probability": RARE},
    "link_dropped": {"probability": RARE},
    "link_frozen": {"probability": RARE},
    "frame_cut": {"probability": RARE},
    "frame_halved": {"delay_ms": 100, "probability": 0.05},
    "message_lost": {"message": "ProtoOASpotEvent", "probability": 0.05},
    "message_late": {"message": "ProtoOASpotEvent", "delay_ms": 500, "probability": 0.05},
    "message_doubled": {"message": "ProtoOASpotEvent"},
    "message_swapped": {"message": "ProtoOASpotEvent"},
    "quotes_missing": {"probability": 0.05},
    "quotes_late": {"delay_ms": 500, "probability": 0.05},
    "history_late": {"with": "link_dropped"},
    "history_cut": {"with": "link_dropped"},
    "result_beyond_int32": {"with": "link_dropped"},
}


@dataclass(frozen=True)
class Warm:
    """A market, and what the server holds after its warm-up."""

    store: SparseStore
    base: MemoryServer


@lru_cache(maxsize=1)
def warm() -> Warm:
    """Return the day's market, warmed up by the live services."""
    slices = WARM_SLICES + DAY_SLICES + 4 * PEACE_SLICES
    store = sparse_market(SEED, slices, frozenset(SYMBOLS))

    async def warm_up(world: World) -> None:
        while not (world.server.streams[streams.FEATURES.name].entries and world.is_calm()):
            await world.rest(0.5)
            if world.loop.time() > WARM_UP_S:
                raise RuntimeError("the mesh does not warm up")

    with tempfile.TemporaryDirectory() as folder:
        world = World(SEED, store, WARM_SLICES, eager_bundle(DIRECTIONS), Path(folder))
        world.run(warm_up)
    return Warm(store, world.server)


def requests_of(name: str) -> list[dict[str, Any]]:
    """Return what the venue is asked for so that a fault strikes at a high rate."""
    asked = dict(ASKED.get(name, {}))
    beside = asked.pop("with", None)
    if "delay_ms" in FAULTS[name].needs:
        asked.setdefault("delay_ms", DELAY_MS)
    request = {"fault": name, "probability": OFTEN, **asked}
    return [request, *(requests_of(beside) if beside else ())]


class Day:
    """One day of the market with faults."""

    def __init__(self, world: World, requests: Sequence[dict[str, Any]]) -> None:
        self._requests = requests
        self.auditor = Auditor(world)
        self.findings: list[str] = []
        self.fired: dict[str, int] = {}

    async def play(self, world: World) -> None:
        """Play the day, then in peace until everything has come to its end."""
        faults = world.venue.exchange.faults
        for request in self._requests:
            faults.ask(request)
        for _ in range(DAY_SLICES):
            await world.play_slice()
            await settled(world)
        self.fired = faults.fired()
        faults.end_all()
        world.has_peace = True
        for _ in range(PEACE_SLICES):
            await world.rest(10.0)
            await world.play_slice()
        self.findings = [str(finding) for finding in self.auditor.judge()]


def run_day(name: str) -> dict[str, Any]:
    """Return what became of a day with this fault, or with all of them."""
    logging.disable()
    names = sorted(FAULTS) if name == "all together" else [name]
    requests = [request for each in names for request in requests_of(each)]
    if name == "all together":
        share = 1 / len(names)
        requests = [{**r, "probability": max(r["probability"] * 8 * share, 0.0005)} for r in requests]
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        at = warm()
        models = eager_bundle(DIRECTIONS)
        world = World(SEED, at.store, WARM_SLICES, models, Path(folder), at.base, None, POLICY, DEPOSIT_CENTS)
        day = Day(world, requests)
        world.run(day.play)
    kinds, slowest_s = orders_of(world)
    return {
        "fault": name,
        "struck": day.fired if name == "all together" else day.fired.get(name, 0),
        "orders": day.auditor.orders_sent,
        **{kind.lower(): kinds[kind] for kind in ("FILLED", "REJECTED", "UNKNOWN", "NOT_SENT", "REPAIRING")},
        "connections": connections_of(world),
        "slowest_s": slowest_s,
        "findings": day.findings,
        "seconds": round(time.monotonic() - began_s, 1),
    }


async def settled(world: World) -> None:
    """Give an order whose fate is unknown the time that it would have until the next close."""
    until_s = world.loop.time() + SETTLE_S
    while world.loop.time() < until_s:
        last: dict[str, ExecutionKind] = {}
        for entry in world.server.streams[streams.EXECUTIONS.name].entries[-NEWEST:]:
            if isinstance(entry.message, ExecutionReported):
                last[entry.message.client_order_id] = entry.message.kind
        wires = world.venue.wires
        is_frozen = any(connection.outbox.is_frozen for connection in wires)
        if wires and not is_frozen and not set(last.values()) & OPEN:
            return
        await world.rest(1.0)


def orders_of(world: World) -> tuple[Counter[str], float]:
    """Return how many orders came through each state, and the longest way from a request to a known end."""
    known = {ExecutionKind.PROTECTED, ExecutionKind.CLOSED, ExecutionKind.REJECTED, ExecutionKind.NOT_SENT}
    known |= {ExecutionKind.EXPIRED, ExecutionKind.REFUSED}
    asked_ms: dict[str, int] = {}
    ended_ms: dict[str, int] = {}
    kinds: dict[str, set[str]] = {}
    for entry in world.server.streams[streams.ORDERS.name].entries:
        if isinstance(entry.message, OrderRequested):
            asked_ms[entry.message.client_order_id] = id_parts(entry.entry_id)[0]
    for entry in world.server.streams[streams.EXECUTIONS.name].entries:
        if isinstance(entry.message, ExecutionReported):
            order, kind = entry.message.client_order_id, entry.message.kind
            kinds.setdefault(kind.value, set()).add(order)
            if kind in known:
                ended_ms.setdefault(order, id_parts(entry.entry_id)[0])
    took = [ended_ms[order] - asked_ms[order] for order in ended_ms.keys() & asked_ms.keys()]
    return Counter({kind: len(orders) for kind, orders in kinds.items()}), max(took, default=0) / 1000


def connections_of(world: World) -> int:
    """Return how often the gateway said that its connection was there or gone."""
    events = (entry.message for entry in world.server.streams[streams.EVENTS.name].entries)
    return sum(isinstance(event, EventReported) and event.kind == "connection" for event in events)


def main() -> None:
    """Run the days on as many processes as there are cores, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fault", action="append", choices=[*sorted(FAULTS), "all together"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.fault or [*FAULTS, "all together"]
    results = []
    with multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=8) as pool:
        for result in pool.imap(run_day, names):
            results.append(result)
            if not options.json:
                print(json.dumps(result), flush=True)
    failed = [r["fault"] for r in results if r["findings"] or not r["struck"] or r["orders"] < ORDERS_MIN]
    report = {"bench": "faults", "machine": machine(), "days": len(results), "failed": failed}
    print(json.dumps({**report, "results": results} if options.json else report))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
