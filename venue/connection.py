"""One client's connection: who it is, which accounts it is logged in to, and who answers its requests."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from google.protobuf.message import DecodeError, Message

from venue import account_answers, history_answers, price_answers, symbol_answers, trading_answers
from venue.credentials import Application, Credentials, Environment, Grant, Scope
from venue.exchange import Answer
from venue.fault_names import OUTGOING_ACTS, REQUEST_ACTS, Act
from venue.faults import Fault, Faults
from venue.outbox import Agenda, Encode, Outbox
from venue.protocol import (
    HEARTBEAT_EVENT,
    Generated,
    Packet,
    common,
    decode,
    messages,
    set_later_field,
)
from venue.records import Order, OrderKind, RefusedError
from venue.session import AnswerTo, Floor, Request, RequestError, Session

RETRY_AFTER = 6  # of ProtoOAErrorRes, in seconds; the official package lacks it
NOT_AUTHORIZED = "Trading account is not authorized"

# These codes come as a plain error even to a trading request; all others as an order error.
_PLAIN_ERRORS = frozenset({"INVALID_REQUEST"})
_AT_REQUESTS = frozenset(Act) - OUTGOING_ACTS - {Act.SHUT, Act.LEAVE_BARE}
_HISTORY = frozenset(
    {
        "ProtoOAGetTrendbarsReq",
        "ProtoOAGetTickDataReq",
        "ProtoOADealListReq",
        "ProtoOAOrderListReq",
        "ProtoOACashFlowHistoryListReq",
    }
)
_ACCOUNT_ANSWERS: Mapping[str, AnswerTo] = {
    **account_answers.ANSWERS,
    **history_answers.ANSWERS,
    **price_answers.ANSWERS,
    **symbol_answers.ANSWERS,
    **trading_answers.ANSWERS,
}


class Bucket:
    """A token bucket: so many a second, and as many at once."""

    def __init__(self, per_s: int) -> None:
        self.per_s = per_s
        self._tokens = float(per_s)
        self._at_s: float | None = None

    def take(self, now_s: float) -> bool:
        """Take a token if there is one."""
        if self._at_s is not None:
            self._tokens = min(self.per_s, self._tokens + (now_s - self._at_s) * self.per_s)
        self._at_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    @property
    def retry_after_s(self) -> int:
        """In how many whole seconds there will be a token."""
        return math.ceil((1 - self._tokens) / self.per_s)


@dataclass(frozen=True, slots=True)
class Lobby:
    """What all connections share."""

    credentials: Credentials
    floors: Mapping[int, Floor]  # by account
    faults: Faults
    agenda: Agenda
    requests_per_s: int
    history_requests_per_s: int


class Host(Protocol):
    """The server, as a connection sees it."""

    def answer(self, answer: Answer, session: Session, client_msg_id: str | None) -> None:
        """Send what a request led to, to every session of the account."""

    def end_grant(self, grant: Grant, reason: str) -> None:
        """End every session that a pair of tokens opened."""

    def strike(self, fault: Fault, connection: Connection) -> None:
        """Do what a fault does to a connection, or to all of them."""


AnswerHere: TypeAlias = "Callable[[Connection, Request], Iterable[Message]]"


class Connection:
    """The state and the requests of one connection."""

    def __init__(
        self,
        lobby: Lobby,
        host: Host,
        answers: Mapping[str, AnswerHere],
        environment: Environment,
        encode: Encode,
        write: Callable[[bytes], None],
        now_s: float,
    ) -> None:
        """Take what is shared, who answers without an account, and how messages are put on the wire."""
        self.lobby = lobby
        self.host = host
        self.environment = environment
        self.application: Application | None = None
        self.sessions: dict[int, Session] = {}  # by account
        self.outbox = Outbox(lobby.faults, lobby.agenda, lambda fault: host.strike(fault, self), encode)
        self._answers = answers
        self._write = write
        self._requests = Bucket(lobby.requests_per_s)
        self._history_requests = Bucket(lobby.history_requests_per_s)
        self.heard_s = now_s
        self.sent_s = now_s

    # -- messages ------------------------------------------------------------------------------

    def send(self, message: Message, client_msg_id: str | None = None) -> None:
        """Put a message on the way; it leaves with the next flush."""
        self.outbox.send(Packet(message), client_msg_id)

    def flush(self, now_s: float) -> None:
        """Write all that is on the way."""
        out = self.outbox.take()
        if out:
            self._write(out)
            self.sent_s = now_s

    def heartbeat(self) -> None:
        """Send a sign of life."""
        self.send(common.ProtoHeartbeatEvent())

    def take(self, envelope: common.ProtoMessage, now_s: float) -> None:
        """Answer one message."""
        if self.outbox.is_frozen or self.outbox.is_ending:
            return
        self.heard_s = now_s
        if envelope.payloadType == HEARTBEAT_EVENT:
            return
        client_msg_id = envelope.clientMsgId if envelope.HasField("clientMsgId") else None
        try:
            request = self._understood(envelope)
        except RequestError as error:
            self.send(self._error(error), client_msg_id)
            return
        faults, fault = self.lobby.faults, None
        if faults.are_in_force:
            words = (type(request).__name__, "request")
            fault = faults.striking(words, self.lobby.agenda.now_ms, acts=_AT_REQUESTS)
        if fault is None:
            self._try(request, client_msg_id, now_s)
        else:
            self._try_under(fault, request, client_msg_id, now_s)

    def _understood(self, envelope: common.ProtoMessage) -> Request:
        try:
            request = decode(envelope)
        except DecodeError as error:
            raise RequestError("INVALID_REQUEST", f"The message cannot be decoded: {error}") from error
        name = type(request).__name__
        if name not in self._answers and name not in _ACCOUNT_ANSWERS:
            raise RequestError(
                "UNSUPPORTED_MESSAGE", f"Messages of type {envelope.payloadType} are not served"
            )
        return request

    def _try(self, request: Request, client_msg_id: str | None, now_s: float) -> Order | None:
        """Carry out a request and answer it; return the order that it led to."""
        name = type(request).__name__
        account_id = getattr(request, "ctidTraderAccountId", None)
        try:
            self._check_application(name)
            self._check_rate(name, now_s)
            if name in self._answers:
                for reply in self._answers[name](self, request):
                    self.send(reply, client_msg_id)
                return None
            session = self._session(account_id, name)
            answer = _ACCOUNT_ANSWERS[name](session, request)
            if isinstance(answer, Answer):
                self.host.answer(answer, session, client_msg_id)
                return answer.order
            for reply in answer:
                session.send(reply, client_msg_id)
        except RefusedError as error:
            self.send(self._refusal(error.code, error.description, request), client_msg_id)
        except RequestError as error:
            self.send(self._error(error, account_id), client_msg_id)
        return None

    def _session(self, account_id: int | None, name: str) -> Session:
        session = self.sessions.get(account_id or 0)
        may_trade = session is not None and session.grant.scope is Scope.TRADING
        if session is None or (name in trading_answers.ANSWERS and not may_trade):
            raise RequestError("INVALID_REQUEST", NOT_AUTHORIZED)
        return session

    def _check_application(self, name: str) -> None:
        if self.application is None and name != "ProtoOAApplicationAuthReq":
            raise RequestError("CH_CLIENT_NOT_AUTHENTICATED", "Send ProtoOAApplicationAuthReq first")

    def _check_rate(self, name: str, now_s: float) -> None:
        bucket = self._history_requests if name in _HISTORY else self._requests
        if not bucket.take(now_s):
            raise RequestError(
                "BLOCKED_PAYLOAD_TYPE", f"More than {bucket.per_s} requests a second", bucket.retry_after_s
            )

    # -- faults --------------------------------------------------------------------------------

    def _try_under(self, fault: Fault, request: Request, client_msg_id: str | None, now_s: float) -> None:
        """Take a request that a fault strikes."""
        act, delay_ms = fault.named.act, fault.request.delay_ms or None
        if act is Act.RACE and self.application is not None:
            raced = self.lobby.credentials.refresh(request.refreshToken, self.application.client_id)
            if raced is not None:
                self.host.end_grant(raced[0], "The token was refreshed")
        if fault.named.executed:
            with self.outbox.muted(delay_ms):
                order = self._try(request, client_msg_id, now_s)
            if act is Act.MUTE and order is not None and order.kind is not OrderKind.STOP_LOSS_TAKE_PROFIT:
                self.outbox.hush(order, delay_ms)
        elif act not in (Act.IGNORE, Act.REFUSE):
            self._try(request, client_msg_id, now_s)
        if act is Act.REFUSE:
            self.send(self._fault_error(fault, request), client_msg_id)
        elif act not in REQUEST_ACTS:
            self.host.strike(fault, self)

    def _fault_error(self, fault: Fault, request: Request) -> Generated:
        code = fault.error_code
        if code == "POSITION_NOT_FOUND" and hasattr(request, "positionId"):
            return self._refusal(code, f"Position not found with id {request.positionId}", request)
        retry_after_s = 1 if code == "BLOCKED_PAYLOAD_TYPE" else None
        account_id = getattr(request, "ctidTraderAccountId", None)
        error = self._error(RequestError(code, retry_after_s=retry_after_s), account_id)
        if fault.named.ends and fault.ends_ms is not None:
            error.maintenanceEndTimestamp = fault.ends_ms // 1_000
        return error

    def _error(self, error: RequestError, account_id: int | None = None) -> Generated:
        message = messages.ProtoOAErrorRes(errorCode=error.code, description=error.description)
        if account_id in self.sessions:
            message.ctidTraderAccountId = account_id
        if error.retry_after_s is not None:
            set_later_field(message, RETRY_AFTER, error.retry_after_s)
        return message

    def _refusal(self, code: str, description: str, request: Request) -> Generated:
        if code in _PLAIN_ERRORS:
            return self._error(RequestError(code, description), request.ctidTraderAccountId)
        return messages.ProtoOAOrderErrorEvent(
            ctidTraderAccountId=request.ctidTraderAccountId,
            errorCode=code,
            description=description,
            orderId=getattr(request, "orderId", 0),
            positionId=getattr(request, "positionId", 0),
        )
