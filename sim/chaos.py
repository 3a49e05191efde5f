"""What goes wrong happens to a world: every kind of fault, in its time, and peace at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

from services.gateway.protocol import LOOP  # noqa: F401  # first: it installs the reactor

# isort: split
from shared import streams
from shared.messages import Command, CommandGiven, ExecutionKind, ExecutionReported, Meta, OrderRequested
from sim.auditor import PREFIX, Auditor, Finding, Rule
from sim.faults import HANDS, SLICES_MIN, Fault, FaultKind, Schedule
from sim.points import crash_points
from sim.process import Fate, Process, Watch, copy_context_of_nobody
from sim.server import Entry, Write
from sim.services import SERVICES
from sim.setting import MARKET_SLICES, WARM_SLICES
from sim.venue import Cut as OrderCut
from sim.venue import Trick
from sim.world import Cut, World
from venue.calendar import M5_MS
from venue.matching import Matching
from venue.records import Execution, RefusedError, Side
from venue.rules import OrderRequest

ORDERS_MIN = 5
SLICES_IN_PEACE = 2  # at least, and the last of all
RESUME_EVERY = 10  # slices, while there are too few orders
SLICES_MORE = 60  # played until there were so many orders
SETTLE_S = 90.0  # how long the mesh may take at the end to bring everything to its end
LOST_S_MAX = 2.0  # of a server that writes its file every second
LATE_PROTECTION_MS = 200_000
_MUTATED = " sim.mutations."  # a deliberate bug stands in no service's code


class Chaos:
    """Lets a schedule happen to a world."""

    def __init__(self, world: World, schedule: Schedule) -> None:
        self._world = world
        self._schedule = schedule
        self._at_points: dict[str, list[tuple[int, Fault]]] = {}  # passes left, then what happens
        self._quiet_s = 0.0  # for so long nothing is quoted
        self._commands: list[Fault] = []  # to be given with the next order that is asked for
        self.auditor = Auditor(world)
        self.passed: Counter[str] = Counter()
        self.hits: Counter[str] = Counter()
        self.findings: list[Finding] = []
        world.watch = Watch(self.passed, self._at_points, self._fate)
        world.server.on_commit.append(self._command_first)
        world.server.remembers = any(fault.kind is FaultKind.REDIS_OLDER for fault in schedule.faults)

    async def play(self, world: World) -> None:
        """Play the market with all that goes wrong, then in peace, and have it judged."""
        for number in range(SLICES_MIN - SLICES_IN_PEACE):
            await world.connected()
            self._begin(number)
            while self._quiet_s > 0:
                self._quiet_s -= 1.0
                await world.rest(1.0)
            await world.play_slice()
        if not world.faults_fired and not world.venue.fired:
            await self._have_one_fail()
        await self._play_until_there_are_orders()
        self._make_peace()
        until_s = world.loop.now_s + SETTLE_S
        while world.loop.now_s < until_s and world.slice < MARKET_SLICES - 4:
            await world.rest(1.0)
            if not self._is_settled():
                await world.play_slice()  # what waits for a quote has one
                continue
            for _ in range(SLICES_IN_PEACE):
                await world.play_slice()
            if self._is_settled():
                break
        world.faults_fired += len(world.venue.fired)
        self.findings += self.auditor.judge()

    async def _have_one_fail(self) -> None:
        """Let a service die where no fault has come to anything: a schedule without one proves nothing."""
        self.strike(Fault(FaultKind.DIE, 0, service=SERVICES[self._schedule.seed % len(SERVICES)]))
        await self._world.play_slice()

    async def _play_until_there_are_orders(self) -> None:
        """Play on, a bounded number of slices, where stops and outages have left too few orders."""
        world = self._world
        played = 0
        while self.auditor.orders_sent < ORDERS_MIN and world.slice < WARM_SLICES + SLICES_MIN + SLICES_MORE:
            if not played % RESUME_EVERY:
                self._clear_the_way()
            await world.rest(1.0)  # what is locked comes free, what is away comes back
            await world.play_slice()
            played += 1

    def _begin(self, number: int) -> None:
        """Have the faults of a slice happen when it is time for them."""
        for fault in self._schedule.faults:
            if fault.slice == number and not fault.after_s:
                self._happen(fault)
            elif fault.slice == number:
                self._world.loop.call_later(
                    fault.after_s, self._happen, fault, context=copy_context_of_nobody()
                )

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        self._world.loop.call_later(seconds, work, context=copy_context_of_nobody())

    # --- crash points -------------------------------------------------------------------------------

    def _fate(self, process: Process, point: str) -> Fate | None:
        """Return what happens at an armed point, when it has been passed often enough."""
        armed = self._at_points[point]
        left, fault = armed.pop(0)
        if left > 1:
            armed.insert(0, (left - 1, fault))
            return None
        if not armed:
            del self._at_points[point]
        self.hits[point] += 1
        dies = fault.kind is FaultKind.DIE_AT
        self._world.fired(f"{process.service}#{process.number} {fault.kind}: {point}")
        return Fate(dies, fault.seconds)

    def unlisted(self) -> list[Finding]:
        """Return the points that were passed and are not in the list."""
        unknown = self.passed.keys() - crash_points()
        return [Finding(Rule.POINT, point) for point in sorted(unknown) if _MUTATED not in point]

    # --- what goes wrong ----------------------------------------------------------------------------

    def _happen(self, fault: Fault) -> None:
        if not self._world.has_peace:
            _HAPPENINGS[fault.kind](self, fault)

    def arm(self, fault: Fault) -> None:
        """Wait for a process at a crash point."""
        self._at_points.setdefault(fault.point, []).append((fault.nth, fault))

    def strike(self, fault: Fault) -> None:
        """Let one instance of a service die, stop or stand still."""
        alive = [
            process
            for (service, _), process in sorted(self._world.processes.items())
            if service == fault.service and not process.is_dead
        ]
        if not alive:
            return
        process = alive[fault.nth % len(alive)]
        self._world.fired(f"{process.service}#{process.number} {fault.kind} ({fault.seconds:.2f} s)")
        match fault.kind:
            case FaultKind.DIE:
                process.kill()
            case FaultKind.STOP:
                process.stop()
            case _:
                process.stand_still(fault.seconds)

    def redis_goes(self, fault: Fault) -> None:
        """Let the server be away for a while; it may come back older."""
        server = self._world.server
        if not server.is_up:
            return
        server.go()
        lost = ""
        if fault.kind is FaultKind.REDIS_OLDER:
            lost = f", {server.go_back(min(fault.seconds, LOST_S_MAX))} changes lost"
        self._world.fired(f"{fault.kind} ({fault.seconds:.2f} s{lost})")
        self._later(fault.seconds, self.redis_comes)

    def redis_comes(self) -> None:
        """Let the server answer again; nobody's connection has outlived it."""
        self._world.server.is_up = True
        for way in self._world.ways.values():
            way.is_stale = True

    def cut_call(self, fault: Fault) -> None:
        """Break a call of a service to the server."""
        self._world.cuts.append(Cut(fault.service, fault.nth, fault.kind is FaultKind.REDIS_MUTE))

    def fill_disk(self, fault: Fault) -> None:
        """Let the journal's disk be full for a while."""
        self._world.fired(f"{fault.kind} ({fault.seconds:.2f} s)")
        self._world.outside.is_disk_full = True
        self._later(fault.seconds, lambda: setattr(self._world.outside, "is_disk_full", False))

    def trouble_venue(self, fault: Fault) -> None:
        """Let something go wrong at the venue or on the way to it."""
        venue = self._world.venue
        match fault.kind:
            case FaultKind.VENUE_AWAY:
                venue.is_reachable = False
                venue.disconnect()
                self._later(fault.seconds, lambda: setattr(venue, "is_reachable", True))
            case FaultKind.DISCONNECT:
                venue.disconnect()
            case FaultKind.GOODBYE:
                venue.disconnect(fault.detail)
            case FaultKind.GRANT_VOID:
                venue.void_token()
            case FaultKind.NEWS:
                if not venue.wires:
                    return
                venue.tell_news(fault.detail)
            case FaultKind.SILENCE:
                venue.silent_until_s = self._world.loop.now_s + fault.seconds
        self._world.fired(f"{fault.kind} {fault.detail} ({fault.seconds:.2f} s)")

    def load_venue(self, fault: Fault) -> None:
        """Prepare what goes wrong with the next order or request; it fires there."""
        venue = self._world.venue
        match fault.kind:
            case FaultKind.TRICK:
                venue.tricks.append((Trick(fault.detail), fault.seconds))
            case FaultKind.CUT_ORDER:
                venue.cuts.append(OrderCut(fault.detail))
            case FaultKind.REFUSE_ORDER:
                venue.refusals += 1
            case FaultKind.VENUE_ERROR:
                venue.errors += 1
            case FaultKind.NO_PROTECTION:
                venue.protections.append(None)
            case FaultKind.LATE_PROTECTION:
                venue.protections.append(LATE_PROTECTION_MS)

    def step_clock(self, fault: Fault) -> None:
        """Step the machine's wall clock."""
        self._world.clock.step_wall(fault.seconds)
        self._world.fired(f"{fault.kind} by {fault.seconds} s")

    def command(self, fault: Fault) -> None:
        """Let the operator command something."""
        if not self._world.server.is_up:
            return
        now = self._world.clock.now()
        given = CommandGiven(
            meta=Meta.root(f"command:{self._world.loop.now_s}", now),
            command=Command(fault.detail),
            who="operator",
            why="chaos",
        )
        self._world.server.add(streams.COMMANDS.name, Entry("*", given))
        self._world.fired(f"{fault.kind} {fault.detail}")

    def keep_command(self, fault: Fault) -> None:
        """Wait for an order to be asked for: the command comes behind it, and is read before it."""
        self._commands.append(fault)

    def _command_first(self, write: Write) -> None:
        if self._commands and any(isinstance(output.message, OrderRequested) for output in write.outputs):
            stop = self._commands.pop()
            self.command(stop)
            self._later(
                stop.seconds, partial(self.command, Fault(FaultKind.COMMAND, 0, detail=Command.RESUME))
            )

    def _clear_the_way(self) -> None:
        """Let the operator have it trade again, and who traded by hand close that: there are to be orders."""
        self.command(Fault(FaultKind.COMMAND, 0, detail=Command.RESUME))
        if self._world.venue.by_hand(_close_foreign):
            self._world.tell("a position that was opened by hand is closed")

    def halt(self, fault: Fault) -> None:
        """Make the halt file, and take it away again."""
        self._world.outside.halt_file.touch()
        self.auditor.note_halt_file(is_there=True)
        self._world.fired(f"{fault.kind} ({fault.seconds:.2f} s)")
        self._later(fault.seconds, self.take_halt_file_away)

    def take_halt_file_away(self) -> None:
        """Let orders go on."""
        self._world.outside.halt_file.unlink(missing_ok=True)
        self.auditor.note_halt_file(is_there=False)

    def litter(self, fault: Fault) -> None:
        """Write what no service of ours writes."""
        server = self._world.server
        entries = server.streams[fault.detail]
        if not server.is_up or (not entries.ids and fault.detail in ("bars", "features")):
            return
        if fault.detail == "bars":  # the last bar once more, at a place where none belongs
            place, entry = entries.ids[-1], Entry("", entries.entries[-1].message)
        else:
            place, entry = (entries.ids or [(0, 0)])[-1], Entry("", None, {"type": "Garbage", "text": "?"})
        of_market = fault.detail in ("bars", "features")
        entry.entry_id = f"{place[0]}-{max(place[1], 8) + 1}" if of_market else "*"
        server.add(fault.detail, entry)
        self._world.fired(f"{fault.kind} on {fault.detail}")

    def mute_webhook(self, fault: Fault) -> None:
        """Let the webhook not answer for a while."""
        webhook = self._world.outside.webhook
        webhook.is_up = False
        self._world.fired(f"{fault.kind} ({fault.seconds:.2f} s)")
        self._later(fault.seconds, lambda: setattr(webhook, "is_up", True))

    def quiet_market(self, fault: Fault) -> None:
        """Let nothing be quoted for a while."""
        self._quiet_s += fault.seconds
        self._world.fired(str(fault.kind))

    def subscribe_again(self, fault: Fault) -> None:
        """Let a gateway subscribe to a symbol's quotes again; it hears none of them meanwhile."""
        for (service, _), process in sorted(self._world.processes.items()):
            if service == "gateway" and process.subscribe_again and not process.trouble():
                self._world.subscribing = process.spawn(process.subscribe_again(fault.detail))
                self._world.fired(f"{fault.kind} {fault.detail}")
                return

    def by_hand(self, fault: Fault) -> None:
        """Let somebody use the account beside us."""
        hands = dict(zip(HANDS, (_open_foreign, _close_ours, _bare_ours), strict=True))
        if self._world.venue.by_hand(hands[fault.detail]):
            self._world.fired(f"{fault.kind} {fault.detail}")

    # --- peace --------------------------------------------------------------------------------------

    def _make_peace(self) -> None:
        """End every fault that lasts, and what was to come."""
        world, venue = self._world, self._world.venue
        world.has_peace = True
        self._at_points.clear()
        self._commands.clear()
        world.cuts.clear()
        venue.tricks.clear()
        venue.untold.clear()
        venue.cuts.clear()
        venue.protections.clear()
        venue.refusals = venue.errors = 0
        venue.is_reachable = world.outside.webhook.is_up = True
        world.outside.is_disk_full = False
        self.take_halt_file_away()
        if not world.server.is_up:
            self.redis_comes()
        world.tell("peace")

    def _is_settled(self) -> bool:
        """Whether every order has come to its end, and everything is handled."""
        world, venue = self._world, self._world.venue
        if not world.is_calm() or not venue.wires or world.loop.now_s <= venue.silent_until_s:
            return False
        closed_ms = venue.exchange.now_ms // M5_MS * M5_MS
        if world.server.streams[streams.BARS.name].last[0] < closed_ms:  # the gateway has more to write
            return False
        last: dict[str, ExecutionKind] = {}
        for entry in self._world.server.streams[streams.EXECUTIONS.name].entries:
            if isinstance(entry.message, ExecutionReported):
                last[entry.message.client_order_id] = entry.message.kind
        requested = {
            entry.message.client_order_id
            for entry in self._world.server.streams[streams.ORDERS.name].entries
            if isinstance(entry.message, OrderRequested)
        }
        is_closed = requested <= last.keys() and not set(last.values()) & _OPEN
        return is_closed and not any(self.auditor.under_way()) and not any(self.auditor.untold())


_OPEN = {
    ExecutionKind.SENT,
    ExecutionKind.ACCEPTED,
    ExecutionKind.PARTIALLY_FILLED,
    ExecutionKind.FILLED,
    ExecutionKind.REPAIRING,
    ExecutionKind.UNKNOWN,
    ExecutionKind.CLOSING,
}

_HAPPENINGS: dict[FaultKind, Callable[[Chaos, Fault], None]] = {
    FaultKind.DIE_AT: Chaos.arm,
    FaultKind.PAUSE_AT: Chaos.arm,
    FaultKind.DIE: Chaos.strike,
    FaultKind.STOP: Chaos.strike,
    FaultKind.PAUSE: Chaos.strike,
    FaultKind.REDIS_AWAY: Chaos.redis_goes,
    FaultKind.REDIS_OLDER: Chaos.redis_goes,
    FaultKind.REDIS_CUT: Chaos.cut_call,
    FaultKind.REDIS_MUTE: Chaos.cut_call,
    FaultKind.DISK_FULL: Chaos.fill_disk,
    FaultKind.VENUE_AWAY: Chaos.trouble_venue,
    FaultKind.DISCONNECT: Chaos.trouble_venue,
    FaultKind.GOODBYE: Chaos.trouble_venue,
    FaultKind.SILENCE: Chaos.trouble_venue,
    FaultKind.GRANT_VOID: Chaos.trouble_venue,
    FaultKind.NEWS: Chaos.trouble_venue,
    FaultKind.TRICK: Chaos.load_venue,
    FaultKind.CUT_ORDER: Chaos.load_venue,
    FaultKind.REFUSE_ORDER: Chaos.load_venue,
    FaultKind.VENUE_ERROR: Chaos.load_venue,
    FaultKind.NO_PROTECTION: Chaos.load_venue,
    FaultKind.LATE_PROTECTION: Chaos.load_venue,
    FaultKind.CLOCK_STEP: Chaos.step_clock,
    FaultKind.COMMAND: Chaos.command,
    FaultKind.COMMAND_FIRST: Chaos.keep_command,
    FaultKind.HALT_FILE: Chaos.halt,
    FaultKind.GARBAGE: Chaos.litter,
    FaultKind.WEBHOOK_AWAY: Chaos.mute_webhook,
    FaultKind.QUIET_MARKET: Chaos.quiet_market,
    FaultKind.QUIET_SYMBOL: Chaos.subscribe_again,
    FaultKind.BY_HAND: Chaos.by_hand,
}


# --- the operator's hand at the venue ---------------------------------------------------------------


def _open_foreign(matching: Matching, now_ms: int) -> tuple[Execution, ...]:
    request = OrderRequest(symbol="USDCHF", side=Side.BUY, volume_cents=100_000, label="by hand")
    return matching.submit(request, now_ms, market_open=True)


def _ours(matching: Matching) -> int:
    for number, position in matching.positions.items():
        if position.label.startswith(PREFIX):
            return number
    raise RefusedError("POSITION_NOT_FOUND", "none is ours")


def _close_ours(matching: Matching, now_ms: int) -> tuple[Execution, ...]:
    number = _ours(matching)
    return matching.close(number, matching.positions[number].volume_cents, now_ms, market_open=True)


def _close_foreign(matching: Matching, now_ms: int) -> tuple[Execution, ...]:
    for number, position in matching.positions.items():
        if not position.label.startswith(PREFIX):
            return matching.close(number, position.volume_cents, now_ms, market_open=True)
    raise RefusedError("POSITION_NOT_FOUND", "all are ours")


def _bare_ours(matching: Matching, now_ms: int) -> tuple[Execution, ...]:
    number = _ours(matching)
    return matching.amend(number, None, matching.positions[number].target_points, now_ms)
