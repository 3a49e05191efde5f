"""One connection to the venue: requests with their answers, at the pace that the venue allows.

What nobody asked for (quotes, executions) goes to the inbox in the order of arrival; so does every answer
to an order, because one order has several. When the connection ends, every open request ends with it.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from services.gateway.inbox import Inbox
from services.gateway.protocol import TYPES, common, oa, payload_type
from services.gateway.rate import Departures, Limits, Urgency, Waiting
from services.gateway.refusals import TooFastError, VenueError, refusal
from services.gateway.transport import Place, Transport
from shared.clock import monotonic_s
from shared.errors import OutcomeUnknownError, UnavailableError
from shared.log import get_logger

ANSWER_TIMEOUT_S = 10.0
HEARTBEAT_S = 10.0  # the venue drops a client that is silent for longer than some 30 s
SILENCE_S = 60.0  # a link without a byte for so long is dead, whatever TCP says
WAITING_MAX = 1_000  # requests that have not left; more is a flood that no rate limit lets through
TOO_FAST_TRIES = 5
TOO_FAST_FIRST_S = 1.0  # doubles with every refusal: what the venue asks for is not always enough
TOO_FAST_MAX_S = 60.0
LIMITS = Limits()

_HISTORY = frozenset(
    payload_type(kind)
    for kind in (
        oa.ProtoOAGetTrendbarsReq,
        oa.ProtoOAGetTickDataReq,
        oa.ProtoOADealListReq,
        oa.ProtoOAOrderListReq,
        oa.ProtoOACashFlowHistoryListReq,
        oa.ProtoOADealListByPositionIdReq,
        oa.ProtoOAOrderListByPositionIdReq,
    )
)
_ERRORS = ("ProtoOAErrorRes", "ProtoErrorRes", "ProtoOAOrderErrorEvent")

log = get_logger("gateway.link")


class AnswerLostError(UnavailableError, OutcomeUnknownError):
    """A request has left and will not be answered: what it asked for may have been done."""


class UnexpectedAnswerError(UnavailableError):
    """What came under a request's id is not its answer."""


class Received(NamedTuple):
    """A message from the venue, with the id of the request it belongs to ("" for none)."""

    message: Any
    request_id: str


class Link:
    """An open connection. Made by `Link.connect`; ends once and for all."""

    def __init__(self, inbox: Inbox[Received]) -> None:
        self._inbox = inbox
        self._transport: Transport | None = None
        self._departures: Departures[_Request] = Departures(LIMITS)
        self._timer: asyncio.TimerHandle | None = None  # until something more may leave
        self._open: dict[str, _Question] = {}  # without an answer, by their ids
        # other clients of the account have ids too, and the venue shows us their events: ours are our own
        self._id_prefix, self._numbers = secrets.token_hex(4), itertools.count(1)
        self._heard_s = self._sent_s = monotonic_s()
        self._has_heard = False  # since it was last looked
        self.ended = asyncio.Event()
        self.why_ended = ""

    @classmethod
    async def connect(cls, place: Place, inbox: Inbox[Received]) -> Link:
        """Open a connection.

        Raises:
            UnavailableError, InputError: as `Place.dial`.
        """
        link = cls(inbox)
        link._transport = await place.dial(link._on_message, link._on_end)
        return link

    # --- out ------------------------------------------------------------------------------------

    def send(self, message: Any, request_id: str) -> None:  # noqa: ANN401
        """Let an order leave: now, before all requests that wait, unless the venue's limit is reached.

        Answers come to the inbox under `request_id`.

        Raises:
            UnavailableError: the connection has ended; nothing was sent.
        """
        self._check_open()
        self._offer(_Request(common_envelope(message, request_id)), Urgency.ORDER, message.payloadType)

    async def request(self, message: Any, *, timeout_s: float | None = None) -> Any:  # noqa: ANN401
        """Ask, at the venue's pace, and return the answer.

        Asked too fast all the same, it waits as long as the venue says, and longer each time. The time-out
        begins when the request leaves.

        Raises:
            VenueError: the venue refused; its class says what to do.
            AnswerLostError: no answer in time, or the connection ended first: it may have been done.
            UnavailableError: it has not left, or something else came as its answer.
        """
        for tried in itertools.count(1):
            try:
                return await self._ask(message, ANSWER_TIMEOUT_S if timeout_s is None else timeout_s)
            except TooFastError as error:
                pause_s = max(error.retry_after_s or 0.0, TOO_FAST_FIRST_S * 2 ** (tried - 1))
                self._departures.block(message.payloadType, monotonic_s() + pause_s)
                if tried == TOO_FAST_TRIES or pause_s > TOO_FAST_MAX_S:
                    raise
                log.warning("link.too_fast", kind=message.DESCRIPTOR.name, pause_s=pause_s, error=str(error))
        raise AssertionError("unreachable")

    async def _ask(self, message: Any, timeout_s: float) -> Any:  # noqa: ANN401
        self._check_open()
        if len(self._departures) >= WAITING_MAX:
            raise UnavailableError(f"{WAITING_MAX} requests wait to leave already")
        kind, request_id = message.payloadType, f"{self._id_prefix}-{next(self._numbers)}"
        request = _Question(common_envelope(message, request_id), timeout_s)
        self._open[request_id] = request
        waiting = self._offer(request, Urgency.HISTORY if kind in _HISTORY else Urgency.REQUEST, kind)
        try:
            return _checked(await request.answer, message)
        except TimeoutError:
            name = message.DESCRIPTOR.name
            raise AnswerLostError(f"no answer to {name} within {timeout_s:g} s") from None
        finally:
            self._departures.withdraw(waiting)
            del self._open[request_id]
            request.forget()

    def _offer(self, request: _Request, urgency: Urgency, kind: int) -> Waiting[_Request]:
        waiting = Waiting(request, kind, urgency)
        self._departures.offer(waiting)
        self._depart()
        return waiting

    def _depart(self) -> None:
        """Let leave what may, and come back when more may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.ended.is_set():
            return
        now_s = monotonic_s()
        for request in self._departures.take(now_s):
            self._write(request.content)
            request.has_left()
        wait_s = self._departures.wait_s(now_s)
        if wait_s is not None:
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._depart)

    def _write(self, content: bytes) -> None:
        assert self._transport is not None  # noqa: S101 - `connect` gives out connected ones
        self._transport.send(content)
        self._sent_s = monotonic_s()

    def _check_open(self) -> None:
        if self._transport is None or self.ended.is_set():
            raise UnavailableError(f"the connection has ended: {self.why_ended}")

    def abort(self, why: str) -> None:
        """Cut the connection, without waiting for anything."""
        if not self.ended.is_set() and self._transport is not None:
            log.warning("link.aborted", why=why)
            self._transport.abort()
            self._on_end(why)

    async def keep_alive(self) -> None:
        """Send heartbeats and watch for silence until the connection ends."""
        while not self.ended.is_set():
            now = monotonic_s()
            if self._has_heard:
                self._heard_s, self._has_heard = now, False
            if now - self._heard_s > SILENCE_S:
                self.abort(f"nothing heard for {SILENCE_S:.0f} s")
            elif now - self._sent_s >= HEARTBEAT_S:
                self._write(common_envelope(common.ProtoHeartbeatEvent(), ""))
            await asyncio.sleep(1)

    # --- in -------------------------------------------------------------------------------------

    def _on_message(self, content: bytes) -> None:
        self._has_heard = True
        envelope = common.ProtoMessage()
        try:
            envelope.ParseFromString(content)
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
        request = self._open.get(envelope.clientMsgId)
        if request is not None and not request.answer.done():
            request.answer.set_result(message)
            return
        if not self._inbox.put(Received(message, envelope.clientMsgId)):
            self.abort(f"{self._inbox.limit} messages wait to be handled")

    def _on_end(self, why: str) -> None:
        if self.ended.is_set():
            return
        self.why_ended = why
        self.ended.set()
        self._depart()  # stops the timer
        for request in self._open.values():
            if not request.answer.done():
                kind = AnswerLostError if request.is_under_way else UnavailableError
                request.answer.set_exception(kind(f"the connection ended: {why}"))


class _Request:
    """The bytes of one message. What is said to it is not waited for here."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def has_left(self) -> None:
        """Take note that the bytes are on their way."""


class _Question(_Request):
    """A message that is answered: a bounded time after it has left, which may be long after it was made."""

    def __init__(self, content: bytes, timeout_s: float) -> None:
        super().__init__(content)
        self.is_under_way = False
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._timeout_s = timeout_s
        self._timer: asyncio.TimerHandle | None = None

    def has_left(self) -> None:
        """Begin to wait for the answer."""
        self.is_under_way = True
        self._timer = asyncio.get_running_loop().call_later(self._timeout_s, self._give_up)

    def _give_up(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(TimeoutError())

    def forget(self) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self.answer.done() and not self.answer.cancelled():
            self.answer.exception()  # so that a failure counts as seen


def common_envelope(message: Any, request_id: str) -> bytes:  # noqa: ANN401
    """Return the bytes of the envelope around a message."""
    envelope = common.ProtoMessage(
        payloadType=message.payloadType, payload=message.SerializeToString(), clientMsgId=request_id or None
    )
    content: bytes = envelope.SerializeToString()
    return content


def error_of(message: Any) -> VenueError | None:  # noqa: ANN401
    """Return the error that a message carries, or None: there are three carriers."""
    if message.DESCRIPTOR.name not in _ERRORS:
        return None
    return refusal(
        message.errorCode,
        message.description,
        retry_after_s=getattr(message, "retryAfter", None) or None,
        maintenance_end=getattr(message, "maintenanceEndTimestamp", 0),
    )


def _checked(message: Any, asked: Any) -> Any:  # noqa: ANN401
    """Return the answer, if it is one: type and error code of every reply are looked at."""
    error = error_of(message)
    if error is not None:
        raise error
    name = message.DESCRIPTOR.name
    if name.removesuffix("Res") != asked.DESCRIPTOR.name.removesuffix("Req"):
        raise UnexpectedAnswerError(f"{name} came as the answer to {asked.DESCRIPTOR.name}")
    return message
