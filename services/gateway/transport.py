"""How bytes reach the venue: a TLS connection, its certificate and host name verified before a word is said.

A transport carries whole messages, one envelope each. There are two: length-prefixed frames on the bare
connection (here) and WebSocket (`websocket.py`). Which one is used is a setting; nobody else knows.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

from shared.errors import InputError, UnavailableError

MESSAGE_BYTES_MAX = 15_000_000  # as the official client
CONNECT_TIMEOUT_S = 10.0

OnMessage = Callable[[bytes], None]
OnEnd = Callable[[str], None]

_LENGTH = struct.Struct(">I")
# OpenSSL's numbers of what can be wrong with a certificate; its own words follow in the error.
_WRONG = {
    9: "it is not valid yet",
    10: "it has expired",
    18: "nobody but itself vouches for it",
    19: "an authority that we do not trust has issued it",
    20: "an authority that we do not trust has issued it",
    21: "an authority that we do not trust has issued it",
    62: "it is another host's",
    64: "it is another address's",
}


class CertificateError(UnavailableError):
    """Who answers is not proven to be the venue. Nothing was sent to it."""


class Transport(Protocol):
    """A connection that carries whole messages, one envelope each."""

    def send(self, message: bytes) -> None:
        """Let a message leave now."""

    def abort(self) -> None:
        """Cut the connection, without waiting for anything."""


class Place(Protocol):
    """Where a venue is."""

    @property
    def host(self) -> str:
        """Its name, for the log."""

    async def dial(self, on_message: OnMessage, on_end: OnEnd) -> Transport:
        """Open a connection; UnavailableError if nobody answers."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a venue listens; `ca_file` is for one with a certificate authority of its own."""

    host: str
    port: int
    ca_file: Path | None = None
    kind: Literal["tcp", "wss"] = "tcp"  # how messages are told apart on the connection

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    async def dial(self, on_message: OnMessage, on_end: OnEnd) -> Transport:
        """Open a connection whose certificate and host name are verified before anything is sent.

        Args:
            on_message: called with every message.
            on_end: called when the connection has ended, with the reason; perhaps more than once.

        Raises:
            CertificateError: it is not proven that the venue answers. Nothing was sent.
            UnavailableError: nobody answers, or not in our protocol.
            InputError: the CA file cannot be read.
        """
        context = _context(self.ca_file)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await self._connect(_transport(self.kind), context, on_message, on_end)
        except ssl.SSLCertVerificationError as error:
            raise CertificateError(_certificate_trouble(self, error)) from error
        except TimeoutError:
            raise UnavailableError(f"{self}: no secure connection within {CONNECT_TIMEOUT_S:g} s") from None
        except OSError as error:  # the resolver's and TLS's errors are such ones too
            raise UnavailableError(f"{self}: {error}") from error

    async def _connect(
        self, kind: type[TlsTransport], context: ssl.SSLContext, on_message: OnMessage, on_end: OnEnd
    ) -> TlsTransport:
        _, transport = await asyncio.get_running_loop().create_connection(
            lambda: kind(str(self), on_message, on_end),
            self.host,
            self.port,
            ssl=context,
            server_hostname=self.host,
        )
        try:
            await transport.ready
        except BaseException:
            transport.abort()
            raise
        return transport


class TlsTransport(asyncio.Protocol):
    """Asyncio's side of a TLS connection. Subclasses know where a message ends, and set `ready`."""

    def __init__(self, name: str, on_message: OnMessage, on_end: OnEnd) -> None:
        self._name = name
        self._on_message, self._on_end = on_message, on_end
        self._wire: asyncio.Transport | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio calls this when the certificate is verified, not before."""
        self._wire = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio calls this once."""
        self._end(str(exc) if exc else "the venue closed it")

    def send(self, message: bytes) -> None:
        """Let a message leave now."""
        raise NotImplementedError

    def abort(self) -> None:
        """Cut the connection, without waiting for anything."""
        if self._wire is not None:
            self._wire.abort()

    def _end(self, why: str) -> None:
        self.abort()
        if not self.ready.done():
            self.ready.set_exception(UnavailableError(f"{self._name}: {why}"))
        self._on_end(why)

    def _write(self, content: bytes) -> None:
        assert self._wire is not None  # noqa: S101 - `dial` gives out connected ones
        self._wire.write(content)


class Framed(TlsTransport):
    """Each message behind its length, four bytes, big-endian."""

    def __init__(self, name: str, on_message: OnMessage, on_end: OnEnd) -> None:
        super().__init__(name, on_message, on_end)
        self._unread = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing is to be agreed on."""
        super().connection_made(transport)
        self.ready.set_result(None)

    def send(self, message: bytes) -> None:
        """Let a message leave now."""
        self._write(_LENGTH.pack(len(message)) + message)

    def data_received(self, data: bytes) -> None:
        """Asyncio calls this with whatever has come: parts of messages, or many of them."""
        self._unread += data
        at = 0
        while len(self._unread) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._unread, at)
            if length > MESSAGE_BYTES_MAX:
                self._end(f"a message of {length} bytes was announced, {MESSAGE_BYTES_MAX} are the most")
                return
            end = at + _LENGTH.size + length
            if len(self._unread) < end:
                break
            self._on_message(bytes(self._unread[at + _LENGTH.size : end]))
            at = end
        del self._unread[:at]


def _transport(kind: Literal["tcp", "wss"]) -> type[TlsTransport]:
    if kind == "tcp":
        return Framed
    from services.gateway.websocket import WebSocket  # who speaks plain frames need not load it

    return WebSocket


def _context(ca_file: Path | None) -> ssl.SSLContext:
    """Return what verifies: against the platform's authorities, or one file's alone."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"CA file {ca_file}: {error}") from error


def _certificate_trouble(address: Address, error: ssl.SSLCertVerificationError) -> str:
    what = _WRONG.get(error.verify_code, "it cannot be verified")
    trusted = f"the authorities of {address.ca_file}" if address.ca_file else "this machine's authorities"
    return (
        f"{address}: its certificate is refused: {what} ({error.verify_message}); trusted are {trusted}."
        " Nothing was sent"
    )
