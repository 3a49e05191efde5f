"""A market day with each of the venue's faults at a high rate, one at a time, then all together.

The mesh of the simulation (`sim/`): the live services, the venue's own sessions and matching, virtual time.
The auditor judges each day from the venue's ledger. Printed for each fault: how often it struck, how many
orders were sent, what became of them, how often each rule was broken, the balance by the ledger and by the
streams, and how long the slowest order took from its request to a known end.
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
from shared.clock import monotonic_s
from shared.messages import AccountReported, EventReported, ExecutionKind, ExecutionReported, OrderRequested
from shared.streams import id_parts
from sim.auditor import Auditor, Finding, Rule
from sim.market import SparseStore, sparse_market
from sim.models import eager_bundle
from sim.server import MemoryServer
from sim.setting import WARM_SLICES, WARM_UP_S
from sim.told import ToldBars
from sim.venue import ACCOUNT_ID
from sim.world import World
from venue.book import SYMBOLS
from venue.connection import Connection
from venue.fault_names import FAULTS
from venue.protocol import common, messages

DAY_SLICES = 288
PEACE_SLICES = 12  # after the faults: what is open comes to its end
ORDERS_MIN = 100
SEED = 1
ALL = "all together"
DIRECTIONS = (0.9, -0.9, 0.9, -0.9, 0.9)  # in symbol order: all want to trade at every slice
DEPOSIT_CENTS = 100_000_000  # so much that no size is too small
POLICY = {  # a day full of losses is what this is about: the limits that would end it are wide
    "day_loss_fraction_max": Decimal(1),
    "drawdown_fraction_max": Decimal(1),
    "losing_streak_max": 1000,
    "risk_fraction_max": Decimal("0.02"),
}
OPEN = {ExecutionKind.SENT, ExecutionKind.ACCEPTED, ExecutionKind.UNKNOWN, ExecutionKind.REPAIRING}
OPEN |= {ExecutionKind.FILLED}  # its stop is to come
RULES = {  # the zeros that are promised; every other rule is among the findings
    "duplicates": Rule.DUPLICATE,
    "lost": Rule.LOST,
    "unresolved": Rule.UNRESOLVED,
    "unprotected": Rule.UNPROTECTED,
    "off_ledger": Rule.ACCOUNT,
}
NEWEST = 60  # executions that one slice may lead to, and more
SETTLE_S = 90.0  # longer than a silent link is believed in
LOOK_S = 0.25
RARE = 0.004  # of faults that end a connection or a session: at every tenth slice
OFTEN = 0.2
DELAY_MS = 4_000  # within the slice: it comes when the next quotes do
PAST_MS = 310_000  # it comes in the next slice, when the gateway has given up waiting long ago
ASKS_EVERY = 4  # slices: another client of the account asks what its positions are worth
MIXED = 0.15  # where all faults are there, of its own probability: orders have to be left to strike
MIXED_ORDERS = 0.3  # one that strikes an order and leaves the connection as it is
ORDERS = frozenset({"ProtoOANewOrderReq", "fill", "execution", "protection", "accept"})

# What a fault needs beside its name; `OFTEN` is its probability unless it says something else. `with` is a
# fault that brings about what it strikes. `later_ms` has half of its strikes come so late. `mixed` is its
# share of the probability where all faults are there, if what it strikes is rare by itself.
ASKED: dict[str, dict[str, Any]] = {
    "order_answer_late": {"later_ms": PAST_MS},
    "accept_late": {"later_ms": PAST_MS},
    "fill_late": {"later_ms": PAST_MS},
    "execution_late": {"later_ms": PAST_MS},
    "protection_late": {"later_ms": PAST_MS},
    # nobody is let in until after the next close
    "filled_while_disconnected": {"delay_ms": PAST_MS, "probability": 0.1},
    "disconnected_after_accept": {"probability": 0.1},
    "position_not_found": {"with": "protection_missing", "probability": 0.5, "mixed": 1.0},
    "request_ignored": {"message": "ProtoOAReconcileReq", "with": "link_dropped"},
    "request_unanswered": {"message": "ProtoOAReconcileReq", "with": "link_dropped"},
    "request_refused": {
        "message": "ProtoOAReconcileReq",
        "error_code": "UNKNOWN_ERROR",
        "with": "link_dropped",
    },
    "answer_late": {"delay_ms": 2_000, "probability": 0.02, "with": "link_dropped"},
    "rate_limited": {"probability": 0.05, "with": "link_dropped"},
    "not_routed": {"probability": 0.02, "with": "link_dropped"},
    "maintenance": {"lasts_ms": 60_000, "probability": 0.01},
    "maintenance_open_end": {"lasts_ms": 60_000, "probability": 0.01},
    "account_auth_unanswered": {"with": "link_dropped"},
    "handshake_closed": {"with": "link_dropped"},
    "token_voided": {"probability": RARE},
    "refresh_raced": {"with": "token_voided", "probability": 0.5, "mixed": 2.0},
    "account_disconnected": {"probability": RARE},
    "client_disconnected": {"probability": RARE, "mixed": 0.5},
    "symbols_changed": {"probability": RARE},
    "symbol_ids_changed": {"probability": RARE},
    "trader_updated": {"probability": RARE},
    "link_dropped": {"probability": RARE},
    "link_frozen": {"probability": RARE},
    "frame_cut": {"probability": RARE},
    "frame_halved": {"delay_ms": 100, "probability": 0.05},
    "message_lost": {"message": "ProtoOASpotEvent", "probability": 0.05},
    "message_late": {"message": "ProtoOASpotEvent", "delay_ms": 500, "later_ms": 6_500, "probability": 0.05},
    "message_doubled": {"message": "ProtoOASpotEvent"},
    "message_swapped": {"message": "ProtoOASpotEvent"},
    "quotes_missing": {"probability": 0.05},
    # a bar's last quote comes after the next one's first
    "quotes_late": {"delay_ms": 500, "later_ms": 6_500, "probability": 0.05},
    "history_late": {"with": "link_dropped"},
    "history_cut": {"with": "link_dropped"},
    "result_beyond_int32": {"probability": 0.5},
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
    asked = {"fault": name, "probability": OFTEN, **ASKED.get(name, {})}
    beside, later_ms = asked.pop("with", None), asked.pop("later_ms", None)
    asked.pop("mixed", None)
    if "delay_ms" in FAULTS[name].needs:
        asked.setdefault("delay_ms", DELAY_MS)
    requests = [asked]
    if later_ms is not None:
        half = asked["probability"] / 2
        requests = [{**asked, "probability": half}, {**asked, "probability": half, "delay_ms": later_ms}]
    return [*requests, *(requests_of(beside) if beside else ())]


def requests_of_all() -> list[dict[str, Any]]:
    """Return all faults at once, each rarer than alone."""
    requests = []
    for name in sorted(FAULTS):
        usual = MIXED_ORDERS if FAULTS[name].message in ORDERS else MIXED
        share = ASKED.get(name, {}).get("mixed", usual)
        own = [request for request in requests_of(name) if request["fault"] == name]
        requests += [{**request, "probability": request["probability"] * share} for request in own]
    return requests


class Day:
    """One day of the market with faults."""

    def __init__(self, world: World, requests: Sequence[dict[str, Any]]) -> None:
        self._requests = requests
        self.auditor = Auditor(world, ToldBars(world))
        self.findings: list[Finding] = []
        self.fired: dict[str, int] = {}

    async def play(self, world: World, slices: int = DAY_SLICES) -> None:
        """Play the day, then in peace until everything has come to its end."""
        faults = world.venue.exchange.faults
        for request in self._requests:
            faults.ask(request)
        other = world.venue.another_client()
        for number in range(slices):
            await world.play_slice()
            await settled(world)
            if number % ASKS_EVERY == 0:
                ask_for_results(other)
        self.fired = faults.fired()
        faults.end_all()
        world.has_peace = True
        for _ in range(PEACE_SLICES):
            await world.rest(10.0)
            await world.play_slice()
        self.findings = self.auditor.judge()


def ask_for_results(other: Connection) -> None:
    """Have another client ask what positions are worth: the gateway reckons that itself."""
    request = messages.ProtoOAGetPositionUnrealizedPnLReq(ctidTraderAccountId=ACCOUNT_ID)
    other.take(
        common.ProtoMessage(payloadType=request.payloadType, payload=request.SerializeToString()),
        monotonic_s(),
    )
    other.flush(monotonic_s())


def run_day(name: str, slices: int = DAY_SLICES) -> dict[str, Any]:
    """Return what became of a day with this fault, or with all of them."""
    logging.disable()
    requests = requests_of_all() if name == ALL else requests_of(name)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        at = warm()
        models = eager_bundle(DIRECTIONS)
        world = World(SEED, at.store, WARM_SLICES, models, Path(folder), at.base, None, POLICY, DEPOSIT_CENTS)
        day = Day(world, requests)
        world.run(lambda played: day.play(played, slices))
    kinds, slowest_s = orders_of(world)
    broken = Counter(finding.rule for finding in day.findings)
    return {
        "fault": name,
        "struck": day.fired if name == ALL else day.fired.get(name, 0),
        "orders": day.auditor.orders_sent,
        **{kind.lower(): kinds[kind] for kind in ("FILLED", "REJECTED", "UNKNOWN", "NOT_SENT", "REPAIRING")},
        "connections": connections_of(world),
        "slowest_s": slowest_s,
        **{label: broken[rule] for label, rule in RULES.items()},
        "bars_off": day.auditor.bars_off,
        "ledger_cents": day.auditor.ledger_cents,
        "mesh_cents": day.auditor.told_cents,
        "findings": [str(finding) for finding in day.findings],
        "seconds": round(time.monotonic() - began_s, 1),
    }


def is_good(result: dict[str, Any]) -> bool:
    """Whether a day was one, and every rule held."""
    struck = result["struck"]
    has_struck = all(struck.values()) if isinstance(struck, dict) else struck > 0
    return has_struck and result["orders"] >= ORDERS_MIN and not result["findings"]


async def settled(world: World) -> None:
    """Give the mesh the time that it would have until the next close, while it has not heard of all there is.

    A slice of this simulation passes within a second. Live there are five minutes, in which an order whose
    fate is unknown is looked up, and a position whose end nobody told is missed.
    """
    until_s = world.loop.time() + SETTLE_S
    while world.loop.time() < until_s:
        last: dict[str, ExecutionKind] = {}
        for entry in world.server.streams[streams.EXECUTIONS.name].entries[-NEWEST:]:
            if isinstance(entry.message, ExecutionReported):
                last[entry.message.client_order_id] = entry.message.kind
        wires = world.venue.wires
        is_frozen = any(connection.outbox.is_frozen for connection in wires)
        is_connected = wires and not any(wire.process.trouble() for wire in wires.values())
        if is_connected and not is_frozen and not set(last.values()) & OPEN and knows_positions(world):
            return
        await world.rest(LOOK_S)


def knows_positions(world: World) -> bool:
    """Whether the account that was told last has the positions that the venue has."""
    account = world.server.streams[streams.ACCOUNT.name].entries[-1].message
    assert isinstance(account, AccountReported)  # nothing else stands there
    return {each.position_id for each in account.positions} == world.venue.matching.positions.keys()


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
    parser.add_argument("--fault", action="append", choices=[*sorted(FAULTS), ALL])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.fault or [*FAULTS, ALL]
    results = []
    with multiprocessing.get_context("spawn").Pool(options.workers, maxtasksperchild=8) as pool:
        for result in pool.imap(run_day, names):
            results.append(result)
            if not options.json:
                print(json.dumps(result), flush=True)
    failed = [result["fault"] for result in results if not is_good(result)]
    report = {"bench": "faults", "machine": machine(), "days": len(results), "failed": failed}
    print(json.dumps({**report, "results": results} if options.json else report))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
