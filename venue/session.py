"""One client's connection: what it may do, what it is subscribed to, and who answers it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from google.protobuf.message import DecodeError, Message

from venue.credentials import Credentials
from venue.directory import Directory
from venue.exchange import Answer, Exchange
from venue.ledger import Ledger
from venue.protocol import HEARTBEAT_EVENT, common, decode, encode, messages, pack
from venue.records import RefusedError
from venue.translation import Translator

NOT_AUTHORIZED = "Trading account is not authorized"

# These codes come as a plain error even to a trading request; all others as an order error.
_PLAIN_ERRORS = frozenset({"INVALID_REQUEST"})


# The generated message classes carry no types.
Request: TypeAlias = Any


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

    def tokens_rotated(self) -> None:
        """End every session of the account: its token is void."""


AnswerTo: TypeAlias = "Callable[[Session, Request], Iterable[Message] | Answer | None]"


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
        self._out = bytearray()
        self._requests = Bucket(floor.requests_per_s)
        self._history_requests = Bucket(floor.history_requests_per_s)
        self.is_known = False  # application auth done
        self.is_authorized = False  # account auth done
        self.spots: dict[str, bool] = {}  # symbol -> with time stamps
        self.bars: set[str] = set()
        self.heard_s = now_s
        self.sent_s = now_s

    # -- frames --------------------------------------------------------------------------------

    def send(self, message: Message, client_msg_id: str | None = None) -> None:
        """Put a message on the way; it leaves with the next flush."""
        kind, body = encode(message)
        self._out += pack(kind, body, client_msg_id)

    def send_frame(self, frame: bytes) -> None:
        """Put a ready frame on the way."""
        self._out += frame

    def flush(self, now_s: float) -> None:
        """Write all that is on the way."""
        if self._out:
            self._write(bytes(self._out))
            self._out.clear()
            self.sent_s = now_s

    def heartbeat(self) -> None:
        """Send a sign of life."""
        self.send(common.ProtoHeartbeatEvent())

    def take(self, envelope: common.ProtoMessage, now_s: float) -> None:
        """Answer one frame."""
        self.heard_s = now_s
        if envelope.payloadType == HEARTBEAT_EVENT:
            return
        client_msg_id = envelope.clientMsgId if envelope.HasField("clientMsgId") else None
        try:
            for reply in self._replies(envelope, client_msg_id, now_s):
                self.send(reply, client_msg_id)
        except RequestError as error:
            self.send(self._error(error.code, error.description), client_msg_id)

    def _replies(
        self, envelope: common.ProtoMessage, client_msg_id: str | None, now_s: float
    ) -> Iterable[Message]:
        try:
            request = decode(envelope)
        except DecodeError as error:
            raise RequestError("INVALID_REQUEST", f"The message cannot be decoded: {error}") from error
        answer_to = self._answers.get(type(request).__name__)
        if request is None or answer_to is None:
            raise RequestError(
                "UNSUPPORTED_MESSAGE", f"Messages of type {envelope.payloadType} are not served"
            )
        self._check_rate(request, now_s)
        self._check_rights(request)
        try:
            answer = answer_to(self, request)
        except RefusedError as error:
            return [self._refusal(error, request)]
        if isinstance(answer, Answer):
            self.host.answer(answer, self, client_msg_id)
            return []
        return answer or []

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

    def _error(self, code: str, description: str) -> Message:
        error = messages.ProtoOAErrorRes(errorCode=code, description=description)
        if self.is_authorized:
            error.ctidTraderAccountId = self.account_id
        return error  # type: ignore[no-any-return] # the generated classes carry no types

    def _refusal(self, error: RefusedError, request: Request) -> Message:
        if error.code in _PLAIN_ERRORS:
            return self._error(error.code, error.description)
        refusal = messages.ProtoOAOrderErrorEvent(
            ctidTraderAccountId=self.account_id,
            errorCode=error.code,
            description=error.description,
            positionId=getattr(request, "positionId", 0),
        )
        return refusal  # type: ignore[no-any-return] # as above

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


_HISTORY = frozenset({"ProtoOAGetTrendbarsReq", "ProtoOADealListReq", "ProtoOAOrderListReq"})
