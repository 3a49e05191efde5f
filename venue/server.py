"""The Open API door: TLS connections, frames in and out, quotes and executions to whom they concern."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from shared.clock import monotonic_s
from venue import account_answers, history_answers, price_answers, symbol_answers, trading_answers
from venue.exchange import Answer
from venue.faults import Fault
from venue.incidents import Incidents
from venue.outbox import known_as
from venue.playback import Spot
from venue.protocol import FrameTooLongError, Packet, common, read_envelope
from venue.records import Execution, Notice, OrderKind, OrderStatus
from venue.session import Floor, Session
from venue.stopwatch import Stopwatch
from venue.translation import spot_event

log = logging.getLogger(__name__)

ANSWERS = {
    **account_answers.ANSWERS,
    **history_answers.ANSWERS,
    **price_answers.ANSWERS,
    **symbol_answers.ANSWERS,
    **trading_answers.ANSWERS,
}

HEARTBEAT_AFTER_S = 25.0  # of the venue's own silence
CLIENT_SILENCE_S_MAX = 120.0  # well over what the official client keeps
HOUSEKEEPING_EVERY_S = 1.0
BEHIND_BYTES = 1_000_000  # unread by a client: the venue waits for it ...
DRAIN_TIMEOUT_S = 5.0  # ... but not longer than this
HANDSHAKE_S_MAX = 10.0
BACKLOG = 128  # clients that wait to be let in
ACCEPT_RETRY_S = 0.2  # when the system has no more descriptors


@dataclass(frozen=True, slots=True)
class _Requester:
    session: Session
    client_msg_id: str | None


class VenueServer:
    """All connections to the venue. Listens to the exchange."""

    def __init__(self, floor: Floor) -> None:
        self._floor = floor
        self._sessions: dict[Session, asyncio.StreamWriter] = {}
        self._requesters: dict[int, _Requester] = {}  # by order, until it is done
        self._tasks: set[asyncio.Task[None]] = set()
        self._incidents = Incidents(floor, self._sessions.keys())
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._housekeeping: asyncio.Task[None] | None = None
        self._read_s = 0.0  # when the request in hand was read
        self.stopwatch = Stopwatch()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._sessions)

    async def start(self, host: str, port: int, context: ssl.SSLContext) -> int:
        """Open the door; return its port."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        listener.setblocking(False)
        self._listener = listener
        self._accepting = asyncio.create_task(self._accept(listener, context))
        self._housekeeping = asyncio.create_task(self._keep_house())
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Close the door and every connection."""
        for task in (self._accepting, self._housekeeping, *self._tasks):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._listener is not None:
            self._listener.close()

    async def drain(self) -> None:
        """Wait until every client's bytes have left the process; cut off who does not take them."""
        for writer in list(self._sessions.values()):
            await self._drain_one(writer)

    async def _drain_one(self, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                await writer.drain()
        except TimeoutError:
            log.warning("a client is cut off: it takes no bytes")
            writer.transport.abort()
        except ConnectionError:
            log.debug("a client left unread bytes")

    # -- one connection ------------------------------------------------------------------------

    async def _accept(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        """Let clients in, one after the other; a handshake holds nobody up."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                connected, _ = await loop.sock_accept(listener)
            except OSError as error:
                log.warning("a client cannot be let in: %s", error)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            if self._incidents.is_shut():
                connected.close()
            else:
                self._start(self._serve(connected, context))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connected: socket.socket, context: ssl.SSLContext) -> None:
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, connected, ssl=context, ssl_handshake_timeout=HANDSHAKE_S_MAX
            )
        except OSError:  # TLS errors and time-outs are of this kind too
            log.debug("a client left in its handshake")
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        transport.set_write_buffer_limits(high=1, low=0)  # drain means: handed to the kernel
        session = Session(self._floor, self, ANSWERS, writer.write, monotonic_s())
        self._sessions[session] = writer
        try:
            await self._converse(session, reader)
        except (asyncio.IncompleteReadError, OSError):
            log.debug("a client left")
        except asyncio.CancelledError:
            log.debug("the venue closes a connection")
        finally:
            del self._sessions[session]
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                async with asyncio.timeout(HOUSEKEEPING_EVERY_S):
                    await writer.wait_closed()

    async def _converse(self, session: Session, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                envelope = await read_envelope(reader)
            except DecodeError as error:
                session.send(common.ProtoErrorRes(errorCode="INVALID_REQUEST", description=str(error)))
            except FrameTooLongError as error:
                session.send(common.ProtoErrorRes(errorCode="FRAME_TOO_LONG", description=str(error)))
                session.flush(monotonic_s())
                return
            else:
                self._read_s = monotonic_s()
                session.take(envelope, self._read_s)
            self._write_all()

    async def _keep_house(self) -> None:
        """Send heartbeats, drop the silent and those who do not read."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_EVERY_S)
            now_s = monotonic_s()
            for session, writer in list(self._sessions.items()):
                if writer.is_closing():
                    continue
                unsent = writer.transport.get_write_buffer_size()
                if now_s - session.heard_s > CLIENT_SILENCE_S_MAX:
                    log.warning("a client is cut off: silent, %d bytes unread", unsent)
                    writer.transport.abort()
                elif now_s - session.sent_s >= HEARTBEAT_AFTER_S:
                    session.heartbeat()
                    self._flush_one(session, writer, now_s)

    # -- what the exchange says ----------------------------------------------------------------

    def on_spot(self, spot: Spot) -> None:
        """Put a quote on the way to its subscribers, made once for all who want it alike."""
        self.stopwatch.queued(spot.time_ms)
        packets: dict[tuple[bool, bool], Packet] = {}
        for session in self._sessions:
            with_stamp = session.spots.get(spot.symbol)
            if with_stamp is None:
                continue
            variant = with_stamp, spot.symbol in session.bars
            packet = packets.get(variant)
            if packet is None:
                packet = packets[variant] = self._spot_packet(spot, *variant)
            session.outbox.send(packet)

    def _spot_packet(self, spot: Spot, with_stamp: bool, with_bar: bool) -> Packet:
        event = spot_event(
            self._floor.credentials.account_id,
            self._floor.directory.symbol_ids[spot.symbol],
            spot,
            spot.bar if with_bar else None,
            with_stamp=with_stamp,
        )
        return Packet(event, known_as(event), spot.symbol)

    def on_execution(self, execution: Execution) -> None:
        """Put an execution on the way; who sent the order finds its own message id on it."""
        requester = self._requesters.get(execution.order.order_id)
        if execution.order.status is not OrderStatus.ACCEPTED:
            self._requesters.pop(execution.order.order_id, None)
        event = self._floor.translator.execution(execution)
        packet = Packet(event, known_as(event), execution.order.symbol)
        for session in self._sessions:
            if session.is_authorized:
                own = requester is not None and requester.session is session
                client_msg_id = requester.client_msg_id if own and requester is not None else None
                session.outbox.send(packet, client_msg_id)

    def on_notice(self, notice: Notice) -> None:
        """Put what happened beside executions on the way to every session of the account."""
        event = self._floor.translator.notice(notice)
        packet = Packet(event, known_as(event))
        for session in self._sessions:
            if session.is_authorized:
                session.outbox.send(packet)

    async def flush(self) -> None:
        """Write what is on the way, and wait for clients that are far behind."""
        self._write_all()
        for writer in list(self._sessions.values()):
            if not writer.is_closing() and writer.transport.get_write_buffer_size() > BEHIND_BYTES:
                await self._drain_one(writer)

    def _write_all(self) -> None:
        now_s = monotonic_s()
        for session, writer in self._sessions.items():
            self._flush_one(session, writer, now_s)
        self.stopwatch.written(monotonic_s())

    def _flush_one(self, session: Session, writer: asyncio.StreamWriter, now_s: float) -> None:
        session.flush(now_s)
        if session.outbox.is_ending:
            writer.close()

    # -- what a session asks for ---------------------------------------------------------------

    def answer(self, answer: Answer, session: Session, client_msg_id: str | None) -> None:
        """Send the executions that a request led to, and remember whose order it is until it is done."""
        self._requesters[answer.order.order_id] = _Requester(session, client_msg_id)
        self.stopwatch.arrived(answer.order.client_order_id, self._read_s)
        for execution in answer.executions:
            self.on_execution(execution)
        if answer.order.kind not in (OrderKind.MARKET, OrderKind.MARKET_RANGE):
            self._requesters.pop(answer.order.order_id, None)  # what it does later, nobody asked for now

    def end_logins(self, reason: str) -> None:
        """End every session of the account: its token is void."""
        self._incidents.end_logins(reason)

    def strike(self, fault: Fault, session: Session) -> None:
        """Do what a fault does to a connection, or to all of them."""
        self._incidents.strike(fault, session)
