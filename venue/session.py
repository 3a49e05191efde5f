"""One client's connection: what it may do, what it is subscribed to, and who answers it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from google.protobuf.message import DecodeError, Message

from venue.credentials import Credentials
from venue.directory import Directory
from venue.exchange import Answer, Exchange
from venue.fault_names import OUTGOING_ACTS, REQUEST_ACTS, Act
from venue.faults import Fault
from venue.ledger import Ledger
from venue.outbox import Outbox, known_as
from venue.protocol import HEARTBEAT_EVENT, Generated, Packet, common, decode, messages
from venue.records import Order, OrderKind, RefusedError
from venue.translation import Translator

NOT_AUTHORIZED = "Trading account is not authorized"

# These codes come as a plain error even to a trading request; all others as an order error.
_PLAIN_ERRORS = frozenset({"INVALID_REQUEST"})
_AT_REQUESTS = frozenset(Act) - OUTGOING_ACTS - {Act.SHUT, Act.LEAVE_BARE}


Request: TypeAlias = Generated


class RequestError(Exception):
    """A request cannot be answered as asked; the connection lives on."""

    def __init__(self, code: str, description: str = "") -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description


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


@dataclass(frozen=True, slots=True)
class Floor:
    """What all sessions share."""

    exchange: Exchange
    ledger: Ledger
    directory: Directory
    translator: Translator
    credentials: Credentials
    requests_per_s: int
    history_requests_per_s: int


class Host(Protocol):
    """The server, as a session sees it."""

    def answer(self, answer: Answer, session: Session, client_msg_id: str | None) -> None:
        """Send what a request led to, to every session of the account."""

    def end_logins(self, reason: str) -> None:
        """End every session of the account: its token is void."""

    def strike(self, fault: Fault, session: Session) -> None:
        """Do what a fault does to a connection, or to all of them."""


AnswerTo: TypeAlias = "Callable[[Session, Request], Iterable[Message] | Answer]"


class Session:
    """The state and the requests of one connection."""

    def __init__(
        self,
        floor: Floor,
        host: Host,
        answers: Mapping[str, AnswerTo],
        write: Callable[[bytes], None],
        now_s: float,
    ) -> None:
        self.floor = floor
        self.host = host
        self._answers = answers
        self._write = write
        self.outbox = Outbox(floor.exchange.faults, floor.exchange, lambda fault: host.strike(fault, self))
        self._requests = Bucket(floor.requests_per_s)
        self._history_requests = Bucket(floor.history_requests_per_s)
        self.is_known = False  # application auth done
        self.is_authorized = False  # account auth done
        self.spots: dict[str, bool] = {}  # symbol -> with time stamps
        self.bars: set[str] = set()
        self.heard_s = now_s
        self.sent_s = now_s

    # -- messages ------------------------------------------------------------------------------

    def send(self, message: Message, client_msg_id: str | None = None) -> None:
        """Put a message on the way; it leaves with the next flush."""
        symbol_id = getattr(message, "symbolId", None)
        symbol = self.floor.directory.symbols.get(symbol_id, "") if isinstance(symbol_id, int) else ""
        self.outbox.send(Packet(message, known_as(message), symbol), client_msg_id)

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
        """Answer one frame."""
        if self.outbox.is_frozen or self.outbox.is_ending:
            return
        self.heard_s = now_s
        if envelope.payloadType == HEARTBEAT_EVENT:
            return
        client_msg_id = envelope.clientMsgId if envelope.HasField("clientMsgId") else None
        try:
            request, answer_to = self._understood(envelope)
        except RequestError as error:
            self.send(self._error(error), client_msg_id)
            return
        words = (type(request).__name__, "request")
        exchange = self.floor.exchange
        fault = exchange.faults.striking(words, exchange.now_ms, acts=_AT_REQUESTS)
        if fault is None:
            self._try(request, answer_to, client_msg_id, now_s)
        else:
            self._try_under(fault, request, answer_to, client_msg_id, now_s)

    def _understood(self, envelope: common.ProtoMessage) -> tuple[Request, AnswerTo]:
        try:
            request = decode(envelope)
        except DecodeError as error:
            raise RequestError("INVALID_REQUEST", f"The message cannot be decoded: {error}") from error
        answer_to = self._answers.get(type(request).__name__)
        if request is None or answer_to is None:
            raise RequestError(
                "UNSUPPORTED_MESSAGE", f"Messages of type {envelope.payloadType} are not served"
            )
        return request, answer_to

    def _try(
        self, request: Request, answer_to: AnswerTo, client_msg_id: str | None, now_s: float
    ) -> Order | None:
        """Carry out a request and answer it; return the order that it led to."""
        try:
            self._check_rate(request, now_s)
            self._check_rights(request)
            answer = answer_to(self, request)
            if isinstance(answer, Answer):
                self.host.answer(answer, self, client_msg_id)
                return answer.order
            for reply in answer:
                self.send(reply, client_msg_id)
        except RefusedError as error:
            self.send(self._refusal(error.code, error.description, request), client_msg_id)
        except RequestError as error:
            self.send(self._error(error), client_msg_id)
        return None

    # -- faults --------------------------------------------------------------------------------

    def _try_under(
        self,
        fault: Fault,
        request: Request,
        answer_to: AnswerTo,
        client_msg_id: str | None,
        now_s: float,
    ) -> None:
        """Take a request that a fault strikes."""
        if fault.named.act is Act.RACE:
            self.floor.credentials.rotate(self.floor.credentials.refresh_token)
            self.host.end_logins("The token was refreshed")
        act, delay_ms = fault.named.act, fault.request.delay_ms or None
        if fault.named.executed:
            with self.outbox.muted(delay_ms):
                order = self._try(request, answer_to, client_msg_id, now_s)
            if act is Act.MUTE and order is not None and order.kind is not OrderKind.STOP_LOSS_TAKE_PROFIT:
                self.outbox.hush(order, delay_ms)
        elif act not in (Act.IGNORE, Act.REFUSE):
            self._try(request, answer_to, client_msg_id, now_s)
        if act is Act.REFUSE:
            self.send(self._fault_error(fault, request), client_msg_id)
        elif act not in REQUEST_ACTS:
            self.host.strike(fault, self)

    def _fault_error(self, fault: Fault, request: Request) -> Generated:
        code = fault.error_code
        if code == "POSITION_NOT_FOUND" and hasattr(request, "positionId"):
            return self._refusal(code, f"Position not found with id {request.positionId}", request)
        error = self._error(RequestError(code))
        if fault.named.ends and fault.ends_ms is not None:
            error.maintenanceEndTimestamp = fault.ends_ms // 1_000
        return error

    def _check_rate(self, request: Message, now_s: float) -> None:
        history = type(request).__name__ in _HISTORY
        bucket = self._history_requests if history else self._requests
        if not bucket.take(now_s):
            raise RequestError("BLOCKED_PAYLOAD_TYPE", f"More than {bucket.per_s} requests a second")

    def _check_rights(self, request: Message) -> None:
        if isinstance(request, messages.ProtoOAApplicationAuthReq):
            return
        if not self.is_known:
            raise RequestError("CH_CLIENT_NOT_AUTHENTICATED", "Send ProtoOAApplicationAuthReq first")
        if isinstance(request, messages.ProtoOAAccountAuthReq):
            return
        account_id = getattr(request, "ctidTraderAccountId", None)
        if account_id is not None and not (self.is_authorized and account_id == self.account_id):
            raise RequestError("INVALID_REQUEST", NOT_AUTHORIZED)

    @property
    def account_id(self) -> int:
        """The account that this venue holds."""
        return self.floor.credentials.account_id

    def _error(self, error: RequestError) -> Generated:
        message = messages.ProtoOAErrorRes(errorCode=error.code, description=error.description)
        if self.is_authorized:
            message.ctidTraderAccountId = self.account_id
        return message

    def _refusal(self, code: str, description: str, request: Request) -> Generated:
        if code in _PLAIN_ERRORS:
            return self._error(RequestError(code, description))
        return messages.ProtoOAOrderErrorEvent(
            ctidTraderAccountId=self.account_id,
            errorCode=code,
            description=description,
            positionId=getattr(request, "positionId", 0),
        )

    def leave(self) -> None:
        """Forget the account and its subscriptions."""
        self.is_authorized = False
        self.spots.clear()
        self.bars.clear()


def symbol_name(session: Session, number: int) -> str:
    """Return a symbol by its id."""
    symbol = session.floor.directory.symbols.get(number)
    if symbol is None:
        raise RequestError("SYMBOL_NOT_FOUND", f"Symbol not found with id {number}")
    return symbol


_HISTORY = frozenset(
    {
        "ProtoOAGetTickDataReq",
        "ProtoOACashFlowHistoryListReq",
        "ProtoOAGetTrendbarsReq",
        "ProtoOADealListReq",
        "ProtoOAOrderListReq",
    }
)
