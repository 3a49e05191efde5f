"""How messages are put on a connection: length-prefixed frames, or WebSocket messages with protobuf or JSON.

Both kinds come on one port: who begins with `GET ` speaks WebSocket. As a length that would be a frame of
more than a gigabyte.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from venue.json_form import from_json, to_json
from venue.protocol import FRAME_BYTES_MAX, FrameTooLongError, common, envelope, envelope_of

READ_BYTES = 65_536
_LENGTH = struct.Struct(">I")
_HTTP = b"GET "
_CONTENT = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
_quiet = logging.getLogger(f"{__name__}.websocket")  # connections are this door's own to tell of
_quiet.setLevel(logging.WARNING)

Say = Callable[[bytes], None]


class Wire(Protocol):
    """One connection's form of messages."""

    def encode(self, kind: int, body: bytes, client_msg_id: str | None) -> bytes:
        """Return a message as it stands on the wire."""

    async def receive(self, say: Say) -> common.ProtoMessage:
        """Return the next message.

        Args:
            say: puts on its way what the wire itself has to say: a handshake, a pong.

        Raises:
            DecodeError: it is not understood; the next one may be.
            FrameTooLongError: it is longer than the venue takes.
            EOFError: the client has left, or does not speak what it began.
        """


async def open_wire(reader: asyncio.StreamReader, *, json_only: bool) -> Wire:
    """Return the wire that a client chooses with its first bytes.

    Args:
        reader: of the connection.
        json_only: the port is the one for JSON.

    Raises:
        EOFError: it left before it had chosen, or chose what this port has not.
    """
    head = await reader.readexactly(_LENGTH.size)
    if head == _HTTP:
        return WebSocketWire(reader, head, is_json=json_only)
    if json_only:
        raise EOFError("the port for JSON takes WebSocket connections only")
    return FrameWire(reader, head)


def framed(kind: int, body: bytes, client_msg_id: str | None) -> bytes:
    """Return a message as a frame."""
    content = envelope(kind, body, client_msg_id)
    return _LENGTH.pack(len(content)) + content


class FrameWire:
    """A frame is its length in four bytes, high byte first, and an envelope."""

    def __init__(self, reader: asyncio.StreamReader, head: bytes) -> None:
        self._reader = reader
        self._head = head

    def encode(self, kind: int, body: bytes, client_msg_id: str | None) -> bytes:
        """Return a frame."""
        return framed(kind, body, client_msg_id)

    async def receive(self, _: Say) -> common.ProtoMessage:
        """Return the next frame's envelope."""
        head, self._head = self._head, b""
        (length,) = _LENGTH.unpack(head or await self._reader.readexactly(_LENGTH.size))
        if length > FRAME_BYTES_MAX:
            raise FrameTooLongError(f"a frame of {length} bytes is longer than {FRAME_BYTES_MAX}")
        return envelope_of(await self._reader.readexactly(length))


class WebSocketWire:
    """A WebSocket message is an envelope without a length, or a JSON text."""

    def __init__(self, reader: asyncio.StreamReader, head: bytes, *, is_json: bool) -> None:
        self._reader = reader
        self._is_json = is_json
        self._protocol = ServerProtocol(max_size=FRAME_BYTES_MAX, logger=_quiet)
        self._protocol.receive_data(head)
        self._messages: deque[bytes] = deque()
        self._parts: list[bytes] = []

    def encode(self, kind: int, body: bytes, client_msg_id: str | None) -> bytes:
        """Return a message as one WebSocket frame."""
        if self._is_json:
            return Frame(Opcode.TEXT, to_json(kind, body, client_msg_id)).serialize(mask=False)
        return Frame(Opcode.BINARY, envelope(kind, body, client_msg_id)).serialize(mask=False)

    async def receive(self, say: Say) -> common.ProtoMessage:
        """Return the next message's envelope."""
        while not self._messages:
            if self._protocol.close_expected():
                raise EOFError("the client closes, or does not speak WebSocket")
            content = await self._reader.read(READ_BYTES)
            if not content:
                raise EOFError("the client has left")
            self._protocol.receive_data(content)
            for event in self._protocol.events_received():
                if isinstance(event, Request):
                    self._protocol.send_response(self._protocol.accept(event))
                elif isinstance(event, Frame) and event.opcode in _CONTENT:
                    self._assemble(event)
            say(b"".join(self._protocol.data_to_send()))
        message = self._messages.popleft()
        return from_json(message) if self._is_json else envelope_of(message)

    def _assemble(self, frame: Frame) -> None:
        self._parts.append(bytes(frame.data))
        if frame.fin:
            self._messages.append(b"".join(self._parts))
            self._parts = []
