"""The venue over WebSocket: one binary message is one envelope. Framing by `websockets`, I/O by asyncio."""

from __future__ import annotations

import asyncio
import logging

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from services.gateway.transport import MESSAGE_BYTES_MAX, OnEnd, OnMessage, TlsTransport

_DATA = (Opcode.BINARY, Opcode.TEXT, Opcode.CONT)
# The library writes every frame into its log at DEBUG, and frames hold tokens.
_silent = logging.getLogger("gateway.websocket")
_silent.setLevel(logging.WARNING)


class WebSocket(TlsTransport):
    """Messages as binary WebSocket messages; pings are answered, fragments put together."""

    def __init__(self, name: str, on_message: OnMessage, on_end: OnEnd) -> None:
        super().__init__(name, on_message, on_end)
        self._protocol = ClientProtocol(
            parse_uri(f"wss://{name}/"), max_size=MESSAGE_BYTES_MAX, logger=_silent
        )
        self._fragments = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for WebSocket; `ready` when the venue has agreed."""
        super().connection_made(transport)
        self._protocol.send_request(self._protocol.connect())
        self._flush()

    def send(self, message: bytes) -> None:
        """Let one message leave now."""
        self._protocol.send_binary(message)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Asyncio calls this with whatever has come."""
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode in _DATA:
                self._fragments += event.data
                if event.fin:
                    message, self._fragments = bytes(self._fragments), bytearray()
                    self._on_message(message)
        self._flush()
        if self._protocol.close_expected():
            self._end(self._why_closed())
        elif self._protocol.state is State.OPEN and not self.ready.done():
            self.ready.set_result(None)

    def _why_closed(self) -> str:
        if self._protocol.handshake_exc is not None:
            return f"no WebSocket there: {self._protocol.handshake_exc}"
        return f"WebSocket closed: {self._protocol.close_rcvd or self._protocol.close_sent}"

    def _flush(self) -> None:
        """Write what the protocol wants to say; its empty piece means the end."""
        for piece in self._protocol.data_to_send():
            if piece:
                self._write(piece)
