"""How messages are put on a connection: length-prefixed frames."""

from __future__ import annotations

import asyncio
import struct

from venue.protocol import FRAME_BYTES_MAX, FrameTooLongError, common, envelope, envelope_of

_LENGTH = struct.Struct(">I")


def framed(kind: int, body: bytes, client_msg_id: str | None) -> bytes:
    """Return a message as a frame."""
    content = envelope(kind, body, client_msg_id)
    return _LENGTH.pack(len(content)) + content


class FrameWire:
    """A frame is its length in four bytes, high byte first, and an envelope."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    def encode(self, kind: int, body: bytes, client_msg_id: str | None) -> bytes:
        """Return a frame."""
        return framed(kind, body, client_msg_id)

    async def receive(self) -> common.ProtoMessage:
        """Return the next frame's envelope.

        Raises:
            DecodeError: it is not understood; the next one may be.
            FrameTooLongError: it is longer than the venue takes.
            EOFError: the client has left.
        """
        (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
        if length > FRAME_BYTES_MAX:
            raise FrameTooLongError(f"a frame of {length} bytes is longer than {FRAME_BYTES_MAX}")
        return envelope_of(await self._reader.readexactly(length))
