"""The Open API doors: TLS connections, messages in and out, whatever form they have on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from shared.clock import monotonic_s
from venue.audience import Audience
from venue.connection import Connection, Lobby
from venue.credentials import Environment, Grant
from venue.exchange import Answer
from venue.faults import Fault
from venue.incidents import Incidents
from venue.protocol import FrameTooLongError, common
from venue.session import Session
from venue.session_answers import ANSWERS
from venue.stopwatch import Stopwatch
from venue.wires import Wire, open_wire

log = logging.getLogger(__name__)

HEARTBEAT_AFTER_S = 25.0  # of the venue's own silence
CLIENT_SILENCE_S_MAX = 120.0  # well over what the official client keeps
HOUSEKEEPING_EVERY_S = 1.0
BEHIND_BYTES = 1_000_000  # unread by a client: the venue waits for it ...
DRAIN_TIMEOUT_S = 5.0  # ... but not longer than this
HANDSHAKE_S_MAX = 10.0
BACKLOG = 128  # clients that wait to be let in
ACCEPT_RETRY_S = 0.2  # when the system has no more descriptors


@dataclass(frozen=True, slots=True)
class Door:
    """What is served on a port."""

    environment: Environment = Environment.DEMO
    json_only: bool = False


class VenueServer:
    """All connections to the venue. Listens to the exchange."""

    def __init__(self, lobby: Lobby) -> None:
        self._lobby = lobby
        self._connections: dict[Connection, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._incidents = Incidents(lobby, self._connections.keys())
        self._listeners: list[socket.socket] = []
        self._keeping: list[asyncio.Task[None]] = []
        self._read_s = 0.0  # when the request in hand was read
        self.stopwatch = Stopwatch()
        self._audiences: Mapping[int, Audience] = {
            account_id: Audience(floor, self._connections.keys(), self.stopwatch, self.flush)
            for account_id, floor in lobby.floors.items()
        }
        for account_id, floor in lobby.floors.items():
            floor.exchange.listener = self._audiences[account_id]

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    def open(self, door: Door, host: str, port: int, context: ssl.SSLContext) -> int:
        """Open a door; return its port.

        Raises:
            OSError: the port is taken, or not ours to take.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
        listener.setblocking(False)
        self._listeners.append(listener)
        if not self._keeping:
            self._keeping.append(asyncio.create_task(self._keep_house()))
        self._keeping.append(asyncio.create_task(self._accept(door, listener, context)))
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Close all doors and every connection."""
        for task in (*self._keeping, *self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for listener in self._listeners:
            listener.close()

    async def drain(self) -> None:
        """Wait until every client's bytes have left the process; cut off who does not take them."""
        for writer in list(self._connections.values()):
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

    async def _accept(self, door: Door, listener: socket.socket, context: ssl.SSLContext) -> None:
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
                self._start(self._serve(door, connected, context))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, door: Door, connected: socket.socket, context: ssl.SSLContext) -> None:
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
        transport.set_write_buffer_limits(high=1, low=0)  # drain means: handed to the kernel
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            async with asyncio.timeout(CLIENT_SILENCE_S_MAX):
                wire = await open_wire(reader, json_only=door.json_only)
            await self._converse(door, wire, writer)
        except (EOFError, OSError):
            log.debug("a client left")
        except asyncio.CancelledError:
            log.debug("the venue closes a connection")
        except Exception:  # one client's request must not end the venue for all
            log.exception("a connection ends by a mistake of the venue's own")
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                async with asyncio.timeout(HOUSEKEEPING_EVERY_S):
                    await writer.wait_closed()

    async def _converse(self, door: Door, wire: Wire, writer: asyncio.StreamWriter) -> None:
        connection = Connection(
            self._lobby, self, ANSWERS, door.environment, wire.encode, writer.write, monotonic_s()
        )

        def say(content: bytes) -> None:
            connection.outbox.put_control(content)
            connection.flush(monotonic_s())

        self._connections[connection] = writer
        try:
            while True:
                try:
                    envelope = await wire.receive(say)
                except DecodeError as error:
                    connection.send(common.ProtoErrorRes(errorCode="INVALID_REQUEST", description=str(error)))
                except FrameTooLongError as error:
                    connection.send(common.ProtoErrorRes(errorCode="FRAME_TOO_LONG", description=str(error)))
                    connection.flush(monotonic_s())
                    return
                else:
                    self._read_s = monotonic_s()
                    connection.take(envelope, self._read_s)
                self._write_all()
        finally:
            del self._connections[connection]

    async def _keep_house(self) -> None:
        """Send heartbeats, end expired tokens, drop the silent and those who do not read."""
        while True:
            await asyncio.sleep(HOUSEKEEPING_EVERY_S)
            now_s = monotonic_s()
            for connection, writer in list(self._connections.items()):
                if writer.is_closing():
                    continue
                unsent = writer.transport.get_write_buffer_size()
                if now_s - connection.heard_s > CLIENT_SILENCE_S_MAX:
                    log.warning("a client is cut off: silent, %d bytes unread", unsent)
                    writer.transport.abort()
                elif now_s - connection.sent_s >= HEARTBEAT_AFTER_S:
                    connection.heartbeat()
            self._incidents.end_expired()
            self._write_all()

    # -- writing -------------------------------------------------------------------------------

    async def flush(self) -> None:
        """Write what is on the way, and wait for clients that are far behind."""
        self._write_all()
        for writer in list(self._connections.values()):
            if not writer.is_closing() and writer.transport.get_write_buffer_size() > BEHIND_BYTES:
                await self._drain_one(writer)

    def _write_all(self) -> None:
        now_s = monotonic_s()
        for connection, writer in self._connections.items():
            connection.flush(now_s)
            if connection.outbox.is_ending:
                writer.close()
        self.stopwatch.written(monotonic_s())

    # -- what a connection asks for ------------------------------------------------------------

    def answer(self, answer: Answer, session: Session, client_msg_id: str | None) -> None:
        """Send what a request led to, to every session of the account."""
        self._audiences[session.account_id].answer(answer, session, client_msg_id, self._read_s)

    def end_grant(self, grant: Grant, reason: str) -> None:
        """End every session that a pair of tokens opened."""
        self._incidents.end_grant(grant, reason)

    def strike(self, fault: Fault, connection: Connection) -> None:
        """Do what a fault does to a connection, or to all of them."""
        self._incidents.strike(fault, connection)
