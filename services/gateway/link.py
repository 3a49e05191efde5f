"""One connection to the venue: verified TLS, length-prefixed frames, requests with answers.

What nobody asked for (quotes, executions) goes to the inbox in the order of arrival; so does every answer
to an order, because one order has several. When the connection ends, every open request ends with it.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from google.protobuf.message import DecodeError
from OpenSSL import crypto
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate, optionsForClientTLS, platformTrust, trustRootFromCertificates
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from services.gateway.protocol import LOOP, TYPES, common, oa, payload_type
from services.gateway.rate import TokenBucket
from shared.clock import monotonic_s
from shared.errors import InputError, MeshError, UnavailableError
from shared.log import get_logger

FRAME_BYTES_MAX = 15_000_000  # as the official client
CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 10.0
HEARTBEAT_S = 10.0  # the venue drops a client that is silent for longer than some 30 s
SILENCE_S = 60.0  # a link without a byte for so long is dead, whatever TCP says
# The venue allows 50 and 5 a second. However it counts its seconds, burst and rate together stay within that.
REQUESTS_PER_S, REQUEST_BURST = 40.0, 10.0
HISTORY_PER_S, HISTORY_BURST = 4.0, 1.0
_HISTORY = (oa.ProtoOAGetTrendbarsReq, oa.ProtoOADealListReq, oa.ProtoOAOrderListReq)
_ERRORS = ("ProtoOAErrorRes", "ProtoErrorRes", "ProtoOAOrderErrorEvent")
_FATAL = (  # wrong, and will stay wrong
    "CH_CLIENT_AUTH_FAILURE",
    "CH_OA_CLIENT_NOT_FOUND",
    "CH_ACCESS_TOKEN_INVALID",
    "CH_CTID_TRADER_ACCOUNT_NOT_FOUND",
    "OA_AUTH_TOKEN_EXPIRED",
    "RET_NO_SUCH_LOGIN",
    "RET_ACCOUNT_DISABLED",
)

log = get_logger("gateway.link")


class VenueError(MeshError):
    """The venue answered with an error; `code` is its name for it."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(f"{code}: {description}" if description else code)
        self.code = code


class Frames(Protocol):
    """A connection that carries frames."""

    def sendString(self, string: bytes) -> None:  # noqa: N802 - Twisted's name
        """Let a frame leave now."""

    def abort(self) -> None:
        """Cut the connection, without waiting for anything."""


class Place(Protocol):
    """Where a venue is."""

    @property
    def host(self) -> str:
        """Its name, for the log."""

    async def dial(self, on_frame: Callable[[bytes], None], on_end: Callable[[str], None]) -> Frames:
        """Open a connection; UnavailableError if nobody answers."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a venue listens; `ca_file` is for one with a certificate authority of its own."""

    host: str
    port: int
    ca_file: Path | None = None

    async def dial(self, on_frame: Callable[[bytes], None], on_end: Callable[[str], None]) -> Frames:
        """Open a connection whose certificate and host name are verified before anything is sent.

        Raises:
            UnavailableError: nobody answers, or the certificate is not the venue's.
            InputError: the CA file cannot be read.
        """
        return await _dial(self, on_frame, on_end)


@dataclass(frozen=True, slots=True)
class Received:
    """A message from the venue, with the id of the request it belongs to ("" for none)."""

    message: Any
    request_id: str


@implementer(IHandshakeListener)
class _Frames(Int32StringReceiver):  # type: ignore[misc]  # Twisted has no types
    """Twisted's side of the link: frames in and out, and nothing else."""

    MAX_LENGTH = FRAME_BYTES_MAX

    def __init__(self, on_frame: Callable[[bytes], None], on_end: Callable[[str], None]) -> None:
        self._on_frame, self._on_end = on_frame, on_end
        self.secured: asyncio.Future[None] = LOOP.create_future()

    def connectionMade(self) -> None:  # noqa: N802 - Twisted's name
        self.transport.setTcpNoDelay(True)

    def handshakeCompleted(self) -> None:  # noqa: N802
        if not self.secured.done():
            self.secured.set_result(None)

    def stringReceived(self, string: bytes) -> None:  # noqa: N802
        self._on_frame(string)

    def lengthLimitExceeded(self, length: int) -> None:  # noqa: N802
        log.error("link.frame_too_long", length=length)
        self.transport.abortConnection()

    def abort(self) -> None:
        """Cut the connection."""
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802
        text = str(reason.value) or type(reason.value).__name__
        if not self.secured.done():
            self.secured.set_exception(UnavailableError(f"no secure connection: {text}"))
        self._on_end(text)


class Link:
    """An open connection. Made by `Link.connect`; ends once and for all."""

    def __init__(self, inbox: asyncio.Queue[Received]) -> None:
        self._inbox = inbox
        self._frames: Frames | None = None
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._requests = TokenBucket(REQUESTS_PER_S, REQUEST_BURST)
        self._history = TokenBucket(HISTORY_PER_S, HISTORY_BURST)
        self._heard_s = self._sent_s = monotonic_s()
        self.ended = asyncio.Event()
        self.why_ended = ""

    @classmethod
    async def connect(cls, place: Place, inbox: asyncio.Queue[Received]) -> Link:
        """Open a connection.

        Raises:
            UnavailableError, InputError: as `Address.dial`.
        """
        link = cls(inbox)
        link._frames = await place.dial(link._on_frame, link._on_end)
        return link

    # --- out ------------------------------------------------------------------------------------

    def send(self, message: Any, request_id: str) -> None:  # noqa: ANN401
        """Let a message leave now; answers come to the inbox under `request_id`.

        Raises:
            UnavailableError: the connection has ended; nothing was sent.
        """
        if self._frames is None or self.ended.is_set():
            raise UnavailableError(f"the connection has ended: {self.why_ended}")
        envelope = common_envelope(message, request_id)
        self._frames.sendString(envelope)
        self._sent_s = monotonic_s()

    async def request(self, message: Any, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:  # noqa: ANN401
        """Ask, within the venue's rate limits, and return the answer.

        Raises:
            VenueError: the venue refused, or answered something else; InputError when it always will
                refuse (credentials).
            UnavailableError: no answer in time, or the connection ended.
        """
        await asyncio.sleep(self._requests.wait_s(monotonic_s()))
        if isinstance(message, _HISTORY):
            await asyncio.sleep(self._history.wait_s(monotonic_s()))
        request_id = f"r{next(self._numbers)}"
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[request_id] = answer
        try:
            self.send(message, request_id)
            async with asyncio.timeout(timeout_s):
                return _checked(await answer, type(message))
        except TimeoutError:
            raise UnavailableError(f"no answer to {type(message).__name__} within {timeout_s} s") from None
        finally:
            self._answers.pop(request_id, None)

    def abort(self, why: str) -> None:
        """Cut the connection, without waiting for anything."""
        if not self.ended.is_set() and self._frames is not None:
            log.warning("link.aborted", why=why)
            self._frames.abort()
            self._on_end(why)

    async def keep_alive(self) -> None:
        """Send heartbeats and watch for silence until the connection ends."""
        while not self.ended.is_set():
            now = monotonic_s()
            if now - self._heard_s > SILENCE_S:
                self.abort(f"nothing heard for {SILENCE_S:.0f} s")
            elif now - self._sent_s >= HEARTBEAT_S:
                self.send(common.ProtoHeartbeatEvent(), "")
            await asyncio.sleep(1)

    # --- in -------------------------------------------------------------------------------------

    def _on_frame(self, frame: bytes) -> None:
        self._heard_s = monotonic_s()
        envelope = common.ProtoMessage()
        try:
            envelope.ParseFromString(frame)
            kind = TYPES.get(envelope.payloadType)
            if kind is None:  # newer than our definitions: not for us
                log.debug("link.unknown_payload", payload_type=envelope.payloadType)
                return
            message = kind()
            message.ParseFromString(envelope.payload)
        except DecodeError as error:
            log.warning("link.undecodable", error=str(error))
            return
        if kind is common.ProtoHeartbeatEvent:
            return
        answer = self._answers.get(envelope.clientMsgId)
        if answer is not None and not answer.done():
            answer.set_result(message)
        else:
            self._inbox.put_nowait(Received(message, envelope.clientMsgId))

    def _on_end(self, why: str) -> None:
        if self.ended.is_set():
            return
        self.why_ended = why
        self.ended.set()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(UnavailableError(f"the connection ended: {why}"))


def common_envelope(message: Any, request_id: str) -> bytes:  # noqa: ANN401
    """Return the bytes of the envelope around a message."""
    envelope = common.ProtoMessage(payloadType=payload_type(message), payload=message.SerializeToString())
    if request_id:
        envelope.clientMsgId = request_id
    return bytes(envelope.SerializeToString())


def error_of(message: Any) -> VenueError | None:  # noqa: ANN401
    """Return the error that a message carries, or None: there are three carriers."""
    if message.DESCRIPTOR.name in _ERRORS:
        return VenueError(message.errorCode, message.description)
    return None


def _checked(message: Any, asked: Any) -> Any:  # noqa: ANN401
    error = error_of(message)
    if error is None:
        name = message.DESCRIPTOR.name
        if name.removesuffix("Res") != asked.DESCRIPTOR.name.removesuffix("Req"):
            raise VenueError("UNEXPECTED_ANSWER", f"{name} to {asked.DESCRIPTOR.name}")
        return message
    if error.code in _FATAL:
        raise InputError(
            f"the venue refuses us: {error}; check CT_CLIENT_ID, CT_CLIENT_SECRET, CT_ACCESS_TOKEN,"
            " CT_ACCOUNT_ID"
        )
    raise error


async def _dial(
    address: Address, on_frame: Callable[[bytes], None], on_end: Callable[[str], None]
) -> _Frames:
    trust = platformTrust()
    if address.ca_file is not None:
        try:
            trust = trustRootFromCertificates([Certificate.loadPEM(address.ca_file.read_bytes())])
        except (OSError, ValueError, crypto.Error) as error:
            raise InputError(f"CA file {address.ca_file}: {error}") from error
    try:
        found = await LOOP.getaddrinfo(address.host, address.port, type=1)
        family, _, _, _, target = found[0]
        endpoint_type = TCP6ClientEndpoint if family is socket.AF_INET6 else TCP4ClientEndpoint
        endpoint = endpoint_type(reactor, target[0], address.port, timeout=CONNECT_TIMEOUT_S)
        secured = wrapClientTLS(optionsForClientTLS(address.host, trustRoot=trust), endpoint)
        factory = Factory.forProtocol(lambda: _Frames(on_frame, on_end))
        factory.noisy = False
        frames: _Frames = await secured.connect(factory).asFuture(LOOP)
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await frames.secured
    except UnavailableError:
        raise
    except Exception as error:  # Twisted's and the resolver's errors have no common root
        raise UnavailableError(f"{address.host}:{address.port}: {error}") from error
    return frames
