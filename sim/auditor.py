"""The auditor: keeps books of its own beside the venue's, and compares them with the streams.

It knows nothing of how the mesh works, only what must hold, whatever dies and whenever. The venue's ledger is
the judge of what happened; the streams say what the mesh believes.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise, product
from typing import Any, TypeVar

import orjson

from services.gateway.protocol import LOOP  # noqa: F401  # first: it installs the reactor

# isort: split
from services.notifier.embeds import card_of
from shared import messages as m
from shared import streams
from shared.streams import Stream, id_parts
from sim.process import copy_context_of_nobody
from sim.server import Entry, Write
from sim.services import BOOK
from sim.told import ToldBars, prices_of
from sim.venue import Wire
from sim.world import GROUPS, World
from venue.book import SYMBOLS
from venue.calendar import M5_MS
from venue.protocol import messages, model
from venue.records import Execution, PositionStatus

PREFIX = f"TG-{BOOK}-"
BARS = len(SYMBOLS)  # in a slice
PROTECTION_S = 2.0  # a position may stand so long without a stop while a gateway could act
SAMPLE_S = 0.05
HALT_FILE_S = 2.5  # how old the look at the halt file may be: a lease, and some
MessageT = TypeVar("MessageT", bound=m.Message)
PlaceT = TypeVar("PlaceT", int, tuple[int, int])  # of a slice, or of a bar in one
K = m.ExecutionKind
_NO_POSITION = (K.REJECTED, K.EXPIRED, K.REFUSED, K.NOT_SENT)
_SETTLED = (K.FILLED, K.CLOSED, *_NO_POSITION)


class Rule(StrEnum):
    """What must hold; the name is what breaks it."""

    DUPLICATE = "duplicate"  # more than one order at the venue, or outcome, for one decision
    LOST = "lost"  # what one side knows and the other does not
    UNPROTECTED = "unprotected"
    UNRESOLVED = "unresolved"  # an order without an end, a symbol locked for ever, a service that is stuck
    TWO_POSITIONS = "two positions in one symbol"
    FOREIGN = "a foreign position was touched"
    ACCOUNT = "the account is not the ledger's"
    SLICE = "a slice was skipped, made up or done twice"
    NUMBER = "executions have a gap or a double"
    LEASE = "somebody wrote without the lease"
    MARK = "a mark is not what was done last"
    CONTROL = "a stop was not obeyed"
    TOLD = "an alert was lost"
    POINT = "a crash point is not in the list"
    UNCAUGHT = "an error that nobody caught"


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that was broken, in words."""

    rule: Rule
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


class Auditor:
    """Watches one world, and judges it at its end."""

    def __init__(self, world: World, told: ToldBars | None = None) -> None:
        """Watch from now on.

        Args:
            world: what is judged.
            told: of a venue that keeps quotes back: a bar may be what it told last, and no other. Without it
                every bar has to be the market's.
        """
        self._world = world
        self._told = told
        self._found: list[Finding] = []
        self._bare: dict[int, tuple[str, float]] = {}  # position -> label, seconds that somebody could act
        self._is_sampling = False
        self._ours: dict[int, str] = {}  # position -> label
        self._closed: set[str] = set()  # labels of ours that the venue has closed
        self._foreign: set[int] = set()
        self._halted_since_s: float | None = None
        self._given: dict[tuple[int, int], m.Command] = {}  # all commands that ever stood on the streams
        self.orders_sent = 0
        self.bars_off = 0  # not the market's, but as they were told
        self.ledger_cents = self.told_cents = 0  # the balance, by the venue's books and by the streams
        world.server.on_commit.append(self._check_write)
        world.server.streams[streams.COMMANDS.name].on_added.append(self._note_command)
        world.venue.books.append(self._note)
        world.venue.on_sent.append(self._check_leave)
        world.venue.on_request.append(self._check_request)
        world.venue.on_told.append(self._note_refusal)

    def _find(self, rule: Rule, text: str) -> None:
        self._found.append(Finding(rule, text))

    # --- while it runs ------------------------------------------------------------------------------

    def _note(self, execution: Execution) -> None:
        """Follow what happens at the venue, on the machine's clock."""
        position = execution.position
        if not position.label.startswith(PREFIX):
            self._foreign.add(position.position_id)
            return
        self._ours[position.position_id] = position.label
        if position.status is PositionStatus.CLOSED:
            self._closed.add(position.label)
        is_bare = position.status is PositionStatus.OPEN and position.stop_points is None
        if not is_bare:
            self._bare.pop(position.position_id, None)
        elif position.position_id not in self._bare:
            self._bare[position.position_id] = (position.label, 0.0)
            self._sample_soon()

    def _sample_soon(self) -> None:
        if not self._is_sampling:
            self._is_sampling = True
            self._world.loop.call_later(SAMPLE_S, self._sample, context=copy_context_of_nobody())

    def _sample(self) -> None:
        """Count how long a position stands bare while a gateway could do something about it."""
        self._is_sampling = False
        for position_id, (label, able_s) in list(self._bare.items()):
            able_s = able_s + SAMPLE_S if self._can_act() and not self._is_closing(position_id) else 0.0
            self._bare[position_id] = (label, able_s)
            if able_s > PROTECTION_S:
                del self._bare[position_id]
                self._find(Rule.UNPROTECTED, f"{label} stood without a stop for {PROTECTION_S} s")
        if self._bare and not self._world.is_over:
            self._sample_soon()

    def _can_act(self) -> bool:
        venue = self._world.venue
        processes = (p for (service, _), p in self._world.processes.items() if service == "gateway")
        ready = any(not (p.is_dead or p.is_stopped or p.trouble()) for p in processes)
        return ready and bool(venue.wires) and self._world.loop.now_s > venue.silent_until_s

    def _is_closing(self, position_id: int) -> bool:
        """Whether the venue has taken its closing, and waits for a quote: there is no more to be done."""
        orders = self._world.venue.matching.orders.values()
        return any(order.closing and order.position_id == position_id for order in orders)

    def _note_refusal(self, envelope: Any) -> None:  # noqa: ANN401 - generated class
        """A gateway whose amendment or closing the venue does not look at has acted, and has its time anew.

        That is an error of the session. An error of the order, as of levels that cannot be, is the gateway's.
        """
        if envelope.payloadType != model.PROTO_OA_ERROR_RES:
            return
        purpose, _, rest = envelope.clientMsgId.partition(":")
        label = rest.partition(":")[0]
        if purpose not in ("amend", "close"):
            return
        for position_id, (bare, _) in self._bare.items():
            if bare == label:
                self._bare[position_id] = (bare, 0.0)

    def note_halt_file(self, *, is_there: bool) -> None:
        """Learn that the halt file was made or taken away."""
        self._halted_since_s = self._world.loop.now_s if is_there else None

    def _check_leave(self, wire: Wire, envelope: Any) -> None:  # noqa: ANN401 - generated class
        """A request that was queued before a stop does not leave after it."""
        if envelope.payloadType != model.PROTO_OA_NEW_ORDER_REQ:
            return
        self.orders_sent += 1
        sent = messages.ProtoOANewOrderReq()
        sent.ParseFromString(envelope.payload)
        self._check_in_time(sent.clientOrderId, wire)
        mark = self._world.server.marks.get("gateway", {}).get(streams.COMMANDS.name, "0-0")
        command = self._command_at(mark)
        if command is not None and command is not m.Command.RESUME:
            self._find(Rule.CONTROL, f"an order left after the gateway had read {command}")
        since_s = self._halted_since_s
        if since_s is not None and self._world.loop.now_s - since_s > HALT_FILE_S:
            self._find(Rule.CONTROL, "an order left while the halt file was there")

    def _check_in_time(self, label: str, wire: Wire) -> None:
        """Nothing leaves after it expired.

        Nobody can know the venue's time while it is silent, or while what it said last is on its way.
        """
        now_s = self._world.loop.now_s
        if now_s <= self._world.venue.silent_until_s or now_s < wire.told_until_s:
            return
        for _, order in self._read(streams.ORDERS, m.OrderRequested):
            if order.client_order_id == label:
                if streams.milliseconds(order.valid_until) <= self._world.venue.exchange.now_ms:
                    self._find(Rule.CONTROL, f"{label} left after it had expired")
                return

    def _check_write(self, write: Write) -> None:
        """Only who holds the lease writes, and marks only rise."""
        world = self._world
        token, ends_s = world.server.leases.get(write.service, ("", 0.0))
        if write.token != token or world.loop.now_s >= ends_s:
            self._find(Rule.LEASE, f"{write.service} wrote with the lease {write.token}; it is {token}'s")
        if len(world.buses[write.service]) > 1 and not world.server.times_back:
            holders = sum(bus.holds_lease() for bus in world.buses_of(write.service))
            if holders > 1:
                self._find(Rule.LEASE, f"{holders} instances of {write.service} hold its lease")
        if write.source is not None:
            mark = world.server.marks.get(write.service, {}).get(write.source.name, "0-0")
            if id_parts(mark) != id_parts(write.inputs[-1]):
                self._find(Rule.MARK, f"{write.service} on {write.source.name} is at {mark}")

    def _note_command(self, entry: Entry) -> None:
        """Keep a command: one that Redis loses is written again under another id, what it led to stays."""
        if isinstance(entry.message, m.CommandGiven):
            self._given[id_parts(entry.entry_id)] = entry.message.command

    def _command_at(self, entry_id: str) -> m.Command | None:
        """Return the last command up to an entry that was once read."""
        read = [at for at in self._given if at <= id_parts(entry_id)]
        return self._given[max(read)] if read else None

    def _check_request(self, request: Any) -> None:  # noqa: ANN401
        """Nothing foreign is touched."""
        name = request.DESCRIPTOR.name
        touches = name in ("ProtoOAClosePositionReq", "ProtoOAAmendPositionSLTPReq")
        if touches and request.positionId in self._foreign:
            self._find(Rule.FOREIGN, f"{name} of position {request.positionId}")

    def under_way(self) -> Iterator[str]:
        """Yield what the mesh has yet to do or tell of our positions: till then it is too early to judge."""
        for label, _ in self._bare.values():
            yield f"{label} has no stop"
        executions = self._read(streams.EXECUTIONS, m.ExecutionReported)
        told = {each.client_order_id for _, each in executions if each.kind is K.CLOSED}
        for label in sorted(self._closed - told):
            yield f"{label} is closed, and nobody was told"
        account = self._last_account()
        told_stops, stops = self._stops(account) if account else ({}, {})
        if told_stops != stops:
            yield "the account has other positions or stops than the venue, until the books are compared"

    # --- at the end ---------------------------------------------------------------------------------

    def judge(self) -> list[Finding]:
        """Compare everything, and return what does not hold."""
        books = self._world.venue.ledger.books()
        entries = [o for o in books["orders"] if not o["closing"] and o["label"].startswith(PREFIX)]
        positions = [p for p in books["positions"] if p["label"].startswith(PREFIX)]
        self._judge_orders(entries, positions, books["deals"])
        self._judge_positions(positions)
        self._judge_decisions()
        self._judge_slices()
        self._judge_numbers()
        self._judge_account()
        self._judge_money(books, positions)
        self._judge_control()
        self._judge_marks()
        self._judge_refusals()
        self._judge_locks()
        self._judge_alerts()
        for label, _ in self._bare.values():
            self._find(Rule.UNPROTECTED, f"{label} has no stop at the end")
        return self._found

    def _read(self, stream: Stream, kind: type[MessageT]) -> list[tuple[str, MessageT]]:
        """Return the messages of one kind that stand in a stream, with their ids."""
        entries = self._world.server.streams[stream.name].entries
        return [(each.entry_id, each.message) for each in entries if isinstance(each.message, kind)]

    def _executions(self) -> dict[str, list[m.ExecutionReported]]:
        found: dict[str, list[m.ExecutionReported]] = defaultdict(list)
        for _, execution in self._read(streams.EXECUTIONS, m.ExecutionReported):
            found[execution.client_order_id].append(execution)
        return found

    def _judge_orders(
        self,
        entries: Sequence[Mapping[str, Any]],
        positions: Sequence[Mapping[str, Any]],
        deals: Sequence[Mapping[str, Any]],
    ) -> None:
        """At most one order for an id; what the venue did, the streams say, and the other way round."""
        for label, count in Counter(order["client_order_id"] for order in entries).items():
            if count > 1:
                self._find(Rule.DUPLICATE, f"{label} is {count} orders at the venue")
        requested = {
            order.client_order_id: order for _, order in self._read(streams.ORDERS, m.OrderRequested)
        }
        executions = self._executions()
        at_venue = {order["client_order_id"]: order for order in entries}
        closed = {p["label"]: p for p in positions if p["status"] == "CLOSED"}
        for label in sorted(requested.keys() | at_venue.keys() | executions.keys()):
            kinds = [execution.kind for execution in executions.get(label, ())]
            order = at_venue.get(label)
            if label not in requested:
                self._find(Rule.LOST, f"{label} is at the venue or was executed, but never requested")
                continue
            if order is not None:
                self._judge_terms(requested[label], order)
            filled = order is not None and order["status"] == "FILLED"
            if filled != (K.FILLED in kinds):
                self._find(
                    Rule.LOST, f"{label}: filled at the venue {filled}, on the streams {K.FILLED in kinds}"
                )
            elif order is not None and kinds and kinds[-1] in (K.NOT_SENT, K.EXPIRED, K.REFUSED):
                self._find(Rule.LOST, f"{label} is at the venue, but told as {kinds[-1]}")
            elif (label in closed) != (K.CLOSED in kinds):
                self._find(
                    Rule.LOST, f"{label}: closed at the venue {label in closed}, on the streams not so"
                )
            elif label in closed:
                self._judge_result(label, closed[label], deals, executions[label])
            if not filled and not set(kinds) & set(_NO_POSITION):
                self._find(Rule.UNRESOLVED, f"{label} has no end: {', '.join(kinds) or 'nothing'}")

    def _judge_terms(self, request: m.OrderRequested, order: Mapping[str, Any]) -> None:
        asked = (
            request.symbol,
            "BUY" if request.direction is m.Direction.LONG else "SELL",
            request.volume_units,
        )
        sent = (order["symbol"], str(order["side"]), Decimal(order["volume_cents"]) / 100)
        if asked != sent:
            self._find(Rule.LOST, f"{request.client_order_id}: asked for {asked}, at the venue {sent}")

    def _judge_result(
        self,
        label: str,
        position: Mapping[str, Any],
        deals: Sequence[Mapping[str, Any]],
        executions: Sequence[m.ExecutionReported],
    ) -> None:
        """The result that was told is the ledger's."""
        cents = sum(
            deal["gross_cents"] + deal["swap_cents"] + deal["round_trip_commission_cents"]
            for deal in deals
            if deal["position_id"] == position["position_id"] and deal["gross_cents"] is not None
        )
        told = [e.pnl for e in executions if e.kind is K.CLOSED]
        if len(told) != 1:
            self._find(Rule.DUPLICATE, f"{label} was told to be closed {len(told)} times")
        elif told[0] != Decimal(cents) / 100:
            self._find(Rule.ACCOUNT, f"{label}: result {Decimal(cents) / 100}, told was {told[0]}")

    def _judge_positions(self, positions: Sequence[Mapping[str, Any]]) -> None:
        """Never two of ours in one symbol."""
        spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for position in positions:
            end_ms = position["closed_ms"] if position["status"] == "CLOSED" else 2**63
            spans[position["symbol"]].append((position["opened_ms"], end_ms or 2**63))
        for symbol, times in spans.items():
            times.sort()
            for (_, until_ms), (since_ms, _) in pairwise(times):
                if since_ms < until_ms:
                    self._find(Rule.TWO_POSITIONS, f"{symbol} at {since_ms}")

    def _judge_decisions(self) -> None:
        """Every signal that asked for entry has exactly one outcome.

        A refusal may stand before a request that was lost, obeyed, and written again.
        """
        requests = Counter(order.client_order_id for _, order in self._read(streams.ORDERS, m.OrderRequested))
        refusals = Counter(entry.client_order_id for _, entry in self._read(streams.ORDERS, m.EntryRefused))
        if self._world.server.times_back:
            refusals = Counter({label: n for label, n in refusals.items() if label not in requests})
        outcomes = requests + refusals
        for _, signal in self._read(streams.SIGNALS, m.SignalEmitted):
            if signal.verdict is m.Verdict.ALLOW:
                label = f"{PREFIX}{signal.close_time:%Y%m%dT%H%M}-{signal.symbol}"
                count = outcomes.pop(label, 0)
                if count != 1:
                    rule = Rule.DUPLICATE if count else Rule.LOST
                    self._find(rule, f"{label} was allowed and has {count} outcomes")
        if self._world.server.times_back:  # the signal may be lost, and be another one when it is made again
            executed = self._executions()
            outcomes = Counter({label: n for label, n in outcomes.items() if label not in executed})
        for label in outcomes:
            self._find(Rule.LOST, f"{label} was decided, but no signal asked for it")

    def _judge_slices(self) -> None:
        """All slices are there in order, as the market made them, and went through every stage once."""
        ids = self._world.server.streams[streams.BARS.name].ids
        places = [at for at in ids if at[1] < BARS]  # where no bar belongs somebody else wrote
        closes = range(places[0][0], self._world.venue.exchange.now_ms // M5_MS * M5_MS + 1, M5_MS)
        self._compare_slices("bars", list(product(closes, range(BARS))), places)
        for close_ms, bars in self._bars_since(self._world.store.slice_open(self._world.first_slice)).items():
            self._judge_bars(close_ms, bars)
        features = self._read(streams.FEATURES, m.FeaturesComputed)
        made = [id_parts(entry_id)[0] for entry_id, _ in features]
        signals = Counter([id_parts(i)[0] for i, _ in self._read(streams.SIGNALS, m.SignalEmitted)])
        warm = [close_ms for close_ms in closes if close_ms >= made[0]]
        self._compare_slices("features", warm, made)
        self._compare_slices("signals", warm, sorted(signals))
        for close_ms, count in signals.items():
            if count != BARS:
                self._find(Rule.SLICE, f"the slice {close_ms} has {count} signals")
        seen = [each.slices_seen for _, each in features]
        if seen != list(range(seen[0], seen[0] + len(seen))):
            self._find(Rule.SLICE, "the features counted a slice twice or missed one")
        for _, dead in self._read(streams.DEAD, m.DeadLettered):
            if dead.stream in ("bars", "features", "signals") and id_parts(dead.entry_id)[1] < BARS:
                self._find(Rule.SLICE, f"{dead.group} gave up {dead.stream} {dead.entry_id}: {dead.error}")

    def _bars_since(self, since_ms: int) -> dict[int, list[m.BarClosed]]:
        """Return the bars that closed later, by their close in ms."""
        bars: dict[int, list[m.BarClosed]] = defaultdict(list)
        entries = self._world.server.streams[streams.BARS.name]
        for (close_ms, place), entry in entries.after((since_ms + 1, 0)):
            if place < BARS and isinstance(entry.message, m.BarClosed):
                bars[close_ms].append(entry.message)
        return bars

    def _compare_slices(self, name: str, wanted: list[PlaceT], there: list[PlaceT]) -> None:
        if wanted != there:
            missing = sorted(set(wanted) - set(there))
            extra = sorted(set(there) - set(wanted))
            self._find(Rule.SLICE, f"{name}: missing {missing[:3]}, too many {extra[:3]}, or out of order")

    def _judge_bars(self, close_ms: int, bars: Sequence[m.BarClosed]) -> None:
        if [bar.symbol for bar in bars] != list(SYMBOLS):
            self._find(Rule.SLICE, f"the slice {close_ms} has {len(bars)} bars")
            return
        for bar in bars:
            true = self._world.store.bar(bar.symbol, close_ms - M5_MS)
            told = prices_of(bar)
            if (
                true is not None
                and not bar.synthetic
                and told == (true.open, true.high, true.low, true.close)
            ):
                continue
            if self._told is not None and self._told.was_told(bar):
                self.bars_off += 1
            else:
                self._find(Rule.SLICE, f"{bar.symbol}'s bar of {close_ms} is {told}, the market's {true}")

    def _judge_numbers(self) -> None:
        """Executions are numbered from one on, without gap or double."""
        numbers = [execution.number for _, execution in self._read(streams.EXECUTIONS, m.ExecutionReported)]
        if numbers != list(range(1, len(numbers) + 1)):
            self._find(Rule.NUMBER, f"executions are numbered {numbers}")

    def _judge_account(self) -> None:
        """The last account entry is what the venue has."""
        last = self._last_account()
        if last is None:
            self._find(Rule.ACCOUNT, "there is no account entry")
            return
        balance = Decimal(self._world.venue.matching.balance_cents) / 100
        if last.balance != balance:
            self._find(Rule.ACCOUNT, f"balance {balance}, told was {last.balance}")
        told, true = self._stops(last)
        if told != true:
            self._find(Rule.ACCOUNT, f"positions and their stops {true}, told were {told}")

    def _last_account(self) -> m.AccountReported | None:
        entries = reversed(self._world.server.streams[streams.ACCOUNT.name].entries)
        return next((e.message for e in entries if isinstance(e.message, m.AccountReported)), None)

    def _stops(self, account: m.AccountReported) -> tuple[dict[int, bool], dict[int, bool]]:
        """Return which positions have a stop, as an account entry says and at the venue."""
        told = {position.position_id: position.stop_loss_price is not None for position in account.positions}
        positions = self._world.venue.matching.positions
        return told, {number: each.stop_points is not None for number, each in positions.items()}

    def _judge_money(self, books: Mapping[str, Any], positions: Sequence[Mapping[str, Any]]) -> None:
        """Deposits, told results and what others did make the balance of the ledger, to the cent."""
        self.ledger_cents = sum(change["delta_cents"] for change in books["balance_changes"])
        closed = {p["position_id"] for p in positions if p["status"] == PositionStatus.CLOSED}
        by_deal = {deal["deal_id"]: deal["position_id"] for deal in books["deals"]}
        others = sum(
            change["delta_cents"]
            for change in books["balance_changes"]
            if by_deal.get(change["deal_id"]) not in closed
        )
        ended = [e for _, e in self._read(streams.EXECUTIONS, m.ExecutionReported) if e.kind is K.CLOSED]
        told = sum((e.pnl or Decimal(0) for e in ended), Decimal(0))
        self.told_cents = others + int(told * 100)
        if self.told_cents != self.ledger_cents:
            text = f"the ledger adds up to {self.ledger_cents} cents, what was told to {self.told_cents}"
            self._find(Rule.ACCOUNT, text)

    def _judge_control(self) -> None:
        """From the next decision on, a stop is obeyed; a flattening ends flat."""
        for _, order in self._read(streams.ORDERS, m.OrderRequested):
            command = self._command_at(order.inputs.get(streams.COMMANDS.name, "0-0"))
            if command is not None and command is not m.Command.RESUME:
                self._find(Rule.CONTROL, f"{order.client_order_id} was requested after {command}")
        commands = [command for _, command in self._read(streams.COMMANDS, m.CommandGiven)]
        if commands and commands[-1].command is m.Command.FLATTEN:
            ours = [p for p in self._world.venue.matching.positions.values() if p.label.startswith(PREFIX)]
            for position in ours:
                self._find(Rule.CONTROL, f"{position.label} is open after a flattening")

    def _judge_marks(self) -> None:
        """What was handled is marked as handled."""
        for service, stream in GROUPS:
            last = self._world.server.streams[stream.name].last
            mark = self._world.server.marks.get(service, {}).get(stream.name, "0-0")
            if self._world.is_calm() and id_parts(mark) != last:
                self._find(Rule.MARK, f"{service} on {stream.name} is at {mark}, the stream at {last}")

    def _judge_refusals(self) -> None:
        """A symbol is refused as locked only while something of ours or of others holds it."""
        accounts = dict(self._read(streams.ACCOUNT, m.AccountReported))
        requested = [order for _, order in self._read(streams.ORDERS, m.OrderRequested)]
        executions = self._executions()
        told_at: dict[str, tuple[int, int]] = {}  # label -> where its first execution stands
        for entry_id, execution in self._read(streams.EXECUTIONS, m.ExecutionReported):
            told_at.setdefault(execution.client_order_id, id_parts(entry_id))
        for _, refused in self._read(streams.ORDERS, m.EntryRefused):
            account = accounts.get(refused.account_id)
            if refused.reason != "ASSET_LOCKED" or account is None:
                continue
            # an order of a later slice holds it too, if Redis had lost it and its executions were read first
            read = id_parts(refused.inputs.get(streams.EXECUTIONS.name, "0-0"))
            told = {label for label, at in told_at.items() if at <= read}
            known = (
                order
                for order in requested
                if order.symbol == refused.symbol
                and (order.meta.event_time <= refused.meta.event_time or order.client_order_id in told)
            )
            held = any(
                not any(
                    e.number <= account.execution_number and e.kind in _SETTLED
                    for e in executions.get(order.client_order_id, ())
                )
                for order in known
            )
            if not held and all(position.symbol != refused.symbol for position in account.positions):
                self._find(Rule.UNRESOLVED, f"{refused.client_order_id} found its symbol locked by nothing")

    def _judge_locks(self) -> None:
        """What is resolved is unlocked: in the executor's state, and in the journal."""
        state = orjson.loads(self._world.server.states.get("executor", b"{}"))
        for label, request in state.get("ledger", {}).get("requests", {}).items():
            if request["filled_at"] is None and request["ended_at"] is None:
                self._find(Rule.UNRESOLVED, f"{label} still holds its symbol in the executor")
        path = self._world.outside.journal
        if path.exists():
            journal = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            open_ones = (
                "SELECT client_order_id, status FROM orders WHERE status IN ('SENDING','SENT','UNKNOWN')"
            )
            for label, status in journal.execute(open_ones):
                self._find(Rule.UNRESOLVED, f"{label} is {status} in the journal")
            journal.close()
        if not self._world.is_calm():
            self._find(Rule.UNRESOLVED, f"not everything is handled: {', '.join(self._behind())}")

    def _behind(self) -> Iterator[str]:
        for service, stream in self._world.unfinished():
            yield f"{service} on {stream}"

    def _judge_alerts(self) -> None:
        """Every execution that people are told of was posted, here or there."""
        for text in self.untold():
            self._find(Rule.TOLD, text)

    def untold(self) -> Iterator[str]:
        """Yield the executions that people have yet to be told of."""
        posted = {*self._world.outside.webhook.posted, *self._world.outside.spare.posted}
        for _, execution in self._read(streams.EXECUTIONS, m.ExecutionReported):
            if str(execution.meta.message_id) not in posted and card_of(execution, book=BOOK):
                yield f"{execution.client_order_id} {execution.kind}"
