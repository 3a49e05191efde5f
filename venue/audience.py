"""Who hears what happens to an account: its sessions, whichever connections they are on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass

from venue.connection import Connection
from venue.exchange import Answer
from venue.periods import Period
from venue.playback import Spot
from venue.protocol import Packet
from venue.records import Execution, Notice, OrderKind, OrderStatus
from venue.session import Floor, Session
from venue.stopwatch import Stopwatch
from venue.translation import depth_event, spot_event


@dataclass(frozen=True, slots=True)
class _Requester:
    session: Session
    client_msg_id: str | None


class Audience:
    """All sessions of one account. Listens to its exchange."""

    def __init__(
        self,
        floor: Floor,
        connections: Iterable[Connection],
        stopwatch: Stopwatch,
        flush: Callable[[], Awaitable[None]],
    ) -> None:
        """Take the account, all connections, whoever is there at the time, and who writes to them."""
        self._floor = floor
        self._connections = connections
        self._stopwatch = stopwatch
        self._flush = flush
        self._requesters: dict[int, _Requester] = {}  # by order, until it is done

    def sessions(self) -> Iterator[Session]:
        """Yield who is logged in now, in the order of the connections."""
        account_id = self._floor.account.account_id
        for connection in self._connections:
            session = connection.sessions.get(account_id)
            if session is not None:
                yield session

    def on_spot(self, spot: Spot) -> None:
        """Put a quote on the way to its subscribers, made once for all who want it alike."""
        self._stopwatch.queued(spot.time_ms)
        packets: dict[tuple[bool, tuple[Period, ...]], Packet] = {}
        for session in self.sessions():
            with_stamp = session.spots.get(spot.symbol)
            if with_stamp is None:
                continue
            variant = with_stamp, session.bars.get(spot.symbol, ())
            packet = packets.get(variant)
            if packet is None:
                packet = packets[variant] = self._spot_packet(spot, *variant)
            session.outbox.send(packet)
        self._tell_depth(spot)

    def _tell_depth(self, spot: Spot) -> None:
        change = self._floor.exchange.depth.on_spot(spot)
        if change is None:
            return
        event = depth_event(
            self._floor.account.account_id, self._floor.directory.symbol_ids[spot.symbol], change
        )
        packet = Packet(event, symbol=spot.symbol)
        for session in self.sessions():
            if spot.symbol in session.depth:
                session.outbox.send(packet)

    def _spot_packet(self, spot: Spot, with_stamp: bool, periods: tuple[Period, ...]) -> Packet:
        event = spot_event(
            self._floor.account.account_id,
            self._floor.directory.symbol_ids[spot.symbol],
            spot,
            self._floor.exchange.playback.forming_bars(spot, periods),
            with_stamp=with_stamp,
        )
        return Packet(event, symbol=spot.symbol)

    def on_execution(self, execution: Execution) -> None:
        """Put an execution on the way; who sent the order finds its own message id on it."""
        requester = self._requesters.get(execution.order.order_id)
        if execution.order.status is not OrderStatus.ACCEPTED:
            self._requesters.pop(execution.order.order_id, None)
        event = self._floor.translator.execution(execution)
        packet = Packet(event, symbol=execution.order.symbol)
        for session in self.sessions():
            own = requester is not None and requester.session is session
            session.outbox.send(packet, requester.client_msg_id if own and requester is not None else None)

    def on_notice(self, notice: Notice) -> None:
        """Put what happened beside executions on the way to every session."""
        event = self._floor.translator.notice(notice)
        packet = Packet(event)
        for session in self.sessions():
            session.outbox.send(packet)

    async def flush(self) -> None:
        """Write what is on the way, and wait for clients that are far behind."""
        await self._flush()

    def answer(self, answer: Answer, session: Session, client_msg_id: str | None, read_s: float) -> None:
        """Send the executions that a request led to, and remember whose order it is until it is done."""
        self._requesters[answer.order.order_id] = _Requester(session, client_msg_id)
        self._stopwatch.arrived(answer.order.client_order_id, read_s)
        for execution in answer.executions:
            self.on_execution(execution)
        if answer.order.kind not in (OrderKind.MARKET, OrderKind.MARKET_RANGE):
            self._requesters.pop(answer.order.order_id, None)  # what it does later, nobody asked for now
