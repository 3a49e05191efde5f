"""The venue in a simulation: the exchange, its sessions and answers, behind a network that may do anything.

Frames are those of the real protocol, only sockets and TLS are left out; the gateway's own link and the
venue's own session speak over it. A frame arrives whole or not at all: that is all that a cut at any byte of
it can do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache, lru_cache
from math import inf
from pathlib import Path
from typing import Any

from services.gateway.protocol import TYPES  # first: it installs the reactor

# isort: split
from services.gateway.access import Credentials as GatewayCredentials
from services.gateway.tokens import Tokens
from shared.errors import UnavailableError
from sim.loop import OWNER, VirtualLoop
from sim.market import SparsePlayback, SparseStore
from sim.process import DiedError, Process, Side, copy_context_of_nobody
from venue.account_answers import trader_of
from venue.bars import Bar
from venue.book import CONTRACTS
from venue.connection import Connection, Lobby
from venue.credentials import (
    ACCESS_TOKEN_LIFE_S,
    Account,
    Application,
    Credentials,
    Environment,
    Grant,
    Scope,
)
from venue.directory import Directory
from venue.exchange import Answer, Exchange, Stepped
from venue.faults import Fault, Faults
from venue.incidents import Incidents
from venue.ledger import Ledger
from venue.matching import Matching
from venue.periods import Period
from venue.playback import Spot
from venue.protocol import Packet, common, messages, model
from venue.records import Execution, ExecutionKind, OrderStatus, RefusedError
from venue.session import Floor, Session
from venue.session_answers import ANSWERS
from venue.terms import AccountKind, Terms
from venue.translation import Translator, spot_event
from venue.wires import framed

TOKENS = ("sim-access", "sim-refresh")  # the log hides them, so they are no common words
ACCOUNT_ID = 40_000_001
WAY_S = 0.002  # of a frame, one way
REQUESTS_PER_S, HISTORY_PER_S = 50, 5
QUOTES_KEPT = 16_384  # on their way to a gateway, some 1 kB each

Books = Callable[[Execution], None]


class Trick(StrEnum):
    """What may happen to what the venue says of an order."""

    LOSE = "lose"
    LOSE_ALL = "lose all"  # that it is accepted, filled and protected
    DELAY = "delay"
    DOUBLE = "double"
    SWAP = "swap"  # it comes after the next one
    CONTRADICT = "contradict"  # behind it comes the opposite


class Cut(StrEnum):
    """When the connection breaks around an order."""

    BEFORE = "before"  # at any of its bytes but the last: it never arrives
    AFTER = "after"  # it arrives; nothing that is said of it does


@dataclass
class Wire:
    """One connection between a gateway and the venue."""

    venue: SimVenue
    process: Process
    connection: Connection
    on_frame: Callable[[bytes], None]
    on_end: Callable[[str], None]
    is_open: bool = True
    sent_until_s: float = 0.0  # when the last frame of each direction arrives: the order is kept
    told_until_s: float = 0.0
    begun: bytes = b""  # of a frame that the venue has not written to its end
    arrived: deque[bytes] = field(
        default_factory=deque
    )  # frames that the gateway has not taken yet, in order
    context: Context = field(init=False)  # what is given to the process runs in its name

    def __post_init__(self) -> None:
        """Make the context."""
        self.context = _context_of(self.process)

    # --- the gateway's side -----------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        """Let a frame leave; it is on its way when the process dies after this."""
        envelope = common.ProtoMessage()
        envelope.ParseFromString(message)
        before, after = _sides_of("send", envelope.payloadType)
        self.process.reach(before)
        if self.is_open:
            self.venue.carry(self, envelope)
        self.process.reach(after)

    def abort(self) -> None:
        """Cut the connection from the gateway's side."""
        self.is_open = False
        self.venue.wires.pop(self.connection, None)

    # --- the venue's side -------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Carry the venue's bytes to the gateway, frame by frame."""
        data = self.begun + data
        at, size, frames = 0, len(data), list[bytes]()
        while at + 4 <= size and (end := at + 4 + int.from_bytes(data[at : at + 4], "big")) <= size:
            frames.append(data[at + 4 : end])
            at = end
        self.begun = data[at:]
        if frames:
            self.told_until_s = self.venue.arrival_s(self.told_until_s)
            self.venue.loop.call_at(self.told_until_s, self.give, frames, context=self.context)

    def give(self, frames: Sequence[bytes] = ()) -> None:
        """Hand frames to the link one by one, if there is still somebody; if it stands still, later."""
        self.arrived.extend(frames)
        try:
            while self.arrived and self.is_open and not self.process.is_dead:
                if self.process.is_stopped:
                    self.venue.loop.call_soon(self.give, context=self.context)
                    return
                self._give(self.arrived.popleft())
        except DiedError:
            return

    def _give(self, frame: bytes) -> None:
        envelope = common.ProtoMessage()
        envelope.ParseFromString(frame)
        for listener in self.venue.on_told:
            listener(envelope)
        before, after = _sides_of("receive", envelope.payloadType)
        self.process.reach(before)
        self.on_frame(frame)
        self.process.reach(after)

    def break_off(self, why: str) -> None:
        """End the connection; the gateway hears of it, unless it is gone."""
        if self.is_open:
            self.abort()
            self.venue.loop.call_soon(self._end, why, context=self.context)

    def _end(self, why: str) -> None:
        if not self.process.is_dead:
            self.on_end(why)


class SimVenue:
    """One account at one venue, and everything that may go wrong on the way to it."""

    def __init__(
        self, loop: VirtualLoop, store: SparseStore, start_ms: int, folder: Path, deposit_cents: int
    ) -> None:
        self.loop = loop
        self.wires: dict[Connection, Wire] = {}
        self.ledger = Ledger(None)  # the venue outlives all that is played here
        self.protections: deque[int | None] = deque()  # how late the next ones are set; None: never
        terms = Terms(contracts=CONTRACTS)
        self.matching = Matching(terms, protection_delay_ms=self._protection_delay_ms)
        playback = SparsePlayback(store, start_ms)
        self.exchange = Exchange.resume(
            playback, self.matching, self.ledger, Faults(), Stepped(), deposit_cents=deposit_cents
        )
        self.exchange.listener = self
        directory = Directory(CONTRACTS)
        self.translator = Translator(directory, ACCOUNT_ID)
        account = Account(ACCOUNT_ID, 1, Environment.DEMO, AccountKind.HEDGED)
        grant = Grant("client", Scope.TRADING, *TOKENS, expires_s=inf)
        self._credentials = Credentials(
            folder / "credentials",
            token_life_s=ACCESS_TOKEN_LIFE_S,
            control_token="",
            applications=[Application("client", "simulated")],
            accounts=[account],
            grants=[grant],
        )
        self.who = GatewayCredentials("client", "simulated", ACCOUNT_ID, Tokens(folder, *TOKENS))
        floor = Floor(account, self.exchange, self.ledger, directory, self.translator)
        self._lobby = Lobby(
            self._credentials,
            {ACCOUNT_ID: floor},
            self.exchange.faults,
            self.exchange,
            REQUESTS_PER_S,
            HISTORY_PER_S,
        )
        self._directory = directory
        self._incidents = Incidents(self._lobby, self.wires.keys())
        self._requesters: dict[int, tuple[Session, str | None]] = {}
        # --- what may go wrong
        self.is_reachable = True
        self.silent_until_s = 0.0
        self.tricks: deque[tuple[Trick, float]] = deque()  # on the next executions; the number is the delay
        self.untold: set[int] = set()  # numbers of positions of which nothing is told until they are closed
        self.cuts: deque[Cut] = deque()  # at the next orders
        self.refusals = 0  # of the next orders
        self.errors = 0  # instead of answers to the next requests that are not about orders
        self._held: Execution | None = None  # to be told after the next one
        self.fired: list[str] = []  # what has gone wrong
        # --- what it saw
        self.books: list[Books] = []  # told every execution, whatever becomes of its message
        self.on_sent: list[Callable[[Wire, Any], None]] = []  # told every envelope that a gateway lets leave
        self.on_request: list[Callable[[Any], None]] = []  # told every message that arrives
        self.on_told: list[Callable[[Any], None]] = []  # told every envelope that reaches a gateway

    def close(self) -> None:
        """Close the books."""
        self.ledger.close()

    # --- the way ----------------------------------------------------------------------------------

    @property
    def host(self) -> str:
        """What the gateway calls it."""
        return "simulated"

    async def dial(self, on_frame: Callable[[bytes], None], on_end: Callable[[str], None]) -> Wire:
        """Open a connection for the process that asks."""
        process = OWNER.get()
        assert isinstance(process, Process)  # noqa: S101 - only processes have a gateway in them
        if not self.is_reachable or self._incidents.is_shut():
            raise UnavailableError("simulated: nobody answers")
        wire: Wire | None = None

        def write(data: bytes) -> None:
            assert wire is not None  # noqa: S101 - nothing is written before it is made
            wire.write(data)

        connection = Connection(self._lobby, self, ANSWERS, Environment.DEMO, framed, write, self.loop.now_s)
        wire = self.wires[connection] = Wire(self, process, connection, on_frame, on_end)
        process.on_death.append(wire.abort)
        return wire

    def arrival_s(self, after_s: float) -> float:
        """Return when a frame arrives that is sent now, behind one that arrives at `after_s`."""
        return max(self.loop.now_s + WAY_S, self.silent_until_s, after_s)

    def carry(self, wire: Wire, envelope: Any) -> None:  # noqa: ANN401 - generated class
        """Carry a gateway's frame to the venue."""
        for listener in self.on_sent:
            listener(wire, envelope)
        if self.cuts and _name_of(envelope.payloadType) == "ProtoOANewOrderReq":
            cut = self.cuts.popleft()
            self.fired.append(f"the connection broke {cut} an order")
            if cut is Cut.AFTER:
                self._arrive(wire, envelope)
            wire.break_off("cut")
            return
        wire.sent_until_s = self.arrival_s(wire.sent_until_s)
        self.loop.call_at(wire.sent_until_s, self._arrive, wire, envelope, context=copy_context_of_nobody())

    def _arrive(self, wire: Wire, envelope: Any) -> None:  # noqa: ANN401
        """Take a frame; one that was on its way when its sender died arrives all the same."""
        request = TYPES[envelope.payloadType]()
        request.ParseFromString(envelope.payload)
        for listener in self.on_request:
            listener(request)
        if self._is_spoilt(wire, envelope, request):
            return
        wire.connection.take(envelope, self.loop.now_s)
        self._flush()

    def _is_spoilt(self, wire: Wire, envelope: Any, request: Any) -> bool:  # noqa: ANN401
        """Answer with an error what is to go wrong."""
        name = request.DESCRIPTOR.name
        if self.refusals and name == "ProtoOANewOrderReq":
            self.refusals -= 1
            error: Any = messages.ProtoOAOrderErrorEvent(
                ctidTraderAccountId=ACCOUNT_ID, errorCode="TRADING_DISABLED", description="refused"
            )
        elif self.errors and name in _MAY_BE_REFUSED:
            self.errors -= 1
            error = messages.ProtoOAErrorRes(
                errorCode="BLOCKED_PAYLOAD_TYPE", description="too many requests"
            )
        else:
            return False
        self.fired.append(f"the venue refused {name}")
        wire.connection.send(error, envelope.clientMsgId or None)
        self._flush()
        return True

    def symbol(self, symbol_id: int) -> str | None:
        """Return the symbol that a message is about."""
        return self._directory.symbols.get(symbol_id)

    def another_client(self) -> Connection:
        """Let another client in to the account, which only asks; its answers go nowhere."""
        connection = Connection(
            self._lobby, self, ANSWERS, Environment.DEMO, framed, lambda data: None, self.loop.now_s
        )
        connection.application = self._credentials.applications[0]
        floor, grant = self._lobby.floors[ACCOUNT_ID], self._credentials.grants[0]
        connection.sessions[ACCOUNT_ID] = Session(floor, connection.outbox, grant)
        return connection

    def disconnect(self, goodbye: str = "") -> None:
        """End every connection; with a goodbye the venue says so and the gateway has to hang up."""
        for wire in list(self.wires.values()):
            if not goodbye:
                wire.break_off("cut")
            elif wire.connection.sessions:
                wire.connection.send(_GOODBYES[goodbye]())
        self._flush()

    def void_token(self) -> None:
        """Let the access token end before its time; the refresh token still works."""
        grants = self._credentials.grants
        grants[0] = replace(grants[0], access_token="void")  # noqa: S106 - it opens nothing
        self.disconnect("token")

    def grant_again(self) -> None:
        """Let the operator grant access again, with the pair that the gateway has on disk."""
        pair, grants = self.who.tokens.current(), self._credentials.grants
        grants[0] = replace(grants[0], access_token=pair.access_token, refresh_token=pair.refresh_token)

    def tell_news(self, name: str) -> None:
        """Say something that nobody asked for, of an account and symbols that are as they were."""
        for session in self._sessions():
            session.send(self._news(session)[name])
        self._flush()

    def _news(self, session: Session) -> dict[str, Any]:
        account: dict[str, Any] = {"ctidTraderAccountId": ACCOUNT_ID}
        number = next(iter(self.matching.positions), 0)
        position = self.matching.positions.get(number)
        stop = position.stop_points if position else None
        call = model.ProtoOAMarginCall(marginCallType=model.MARGIN_LEVEL_THRESHOLD_1, marginLevelThreshold=50)
        return {
            "symbol": messages.ProtoOASymbolChangedEvent(
                **account, symbolId=[self._directory.symbol_ids["EURUSD"]]
            ),
            "trader": messages.ProtoOATraderUpdatedEvent(**account, trader=trader_of(session)),
            "margin": messages.ProtoOAMarginChangedEvent(
                **account,
                positionId=number,
                usedMargin=position.used_margin_cents if position else 0,
                moneyDigits=2,
            ),
            "trailing": messages.ProtoOATrailingSLChangedEvent(
                **account,
                positionId=number if stop else 0,
                orderId=1,
                stopPrice=(stop or 0) / 100_000,
                utcLastUpdateTimestamp=self.exchange.now_ms,
            ),
            "call": messages.ProtoOAMarginCallTriggerEvent(**account, marginCall=call),
        }

    # --- what the exchange says -------------------------------------------------------------------

    def on_spot(self, spot: Spot) -> None:
        """Tell a quote to who has asked for it."""
        for session in self._sessions():
            stamped = session.spots.get(spot.symbol)
            if stamped is not None:
                bars = self.exchange.playback.forming_bars(spot, session.bars.get(spot.symbol, ()))
                number = self._directory.symbol_ids[spot.symbol]
                session.outbox.send(_quote(number, spot, tuple(bars.items()), with_stamp=stamped))

    def on_execution(self, execution: Execution) -> None:
        """Note an execution, and tell it as the faults have it."""
        for book in self.books:
            book(execution)
        held, self._held = self._held, None
        trick, delay_s = self._trick(execution)
        match trick:
            case Trick.LOSE | Trick.LOSE_ALL:
                pass
            case Trick.DELAY:
                self.loop.call_later(delay_s, self._tell_late, execution, context=copy_context_of_nobody())
            case Trick.SWAP:
                self._held = execution
            case _:
                self._tell(execution)
        if trick is Trick.DOUBLE:
            self._tell(execution)
        if trick is Trick.CONTRADICT:
            self._tell(replace(execution, kind=ExecutionKind.REJECTED, deal=None, error_code="CONTRADICTION"))
        if held is not None:
            self._tell(held)

    def _trick(self, execution: Execution) -> tuple[Trick | None, float]:
        order = execution.order
        is_end = order.closing and execution.kind is ExecutionKind.FILLED
        if order.position_id in self.untold and not is_end:
            return Trick.LOSE, 0.0
        if not self.tricks or order.closing:
            return None, 0.0
        trick, delay_s = self.tricks.popleft()
        if trick is Trick.LOSE_ALL:
            self.untold.add(order.position_id)
        self.fired.append(f"{execution.kind} of {order.client_order_id}: {trick}")
        return trick, delay_s

    def _tell_late(self, execution: Execution) -> None:
        self._tell(execution)
        self._flush()

    def _tell(self, execution: Execution) -> None:
        requester, client_msg_id = self._requesters.get(execution.order.order_id, (None, None))
        event = self.translator.execution(execution)
        for session in self._sessions():
            session.send(event, client_msg_id if session is requester else None)

    def on_notice(self, notice: object) -> None:
        """No margin call, stop or swap comes up in these markets."""

    async def flush(self) -> None:
        """Send what was taken."""
        self._flush()

    def beat(self) -> None:
        """Send a sign of life."""
        for connection in self.wires:
            connection.heartbeat()
        self._flush()

    def _flush(self) -> None:
        now_s = self.loop.now_s
        for connection, wire in list(self.wires.items()):
            connection.flush(now_s)
            if connection.outbox.is_ending:  # behind what was still told
                self.loop.call_at(
                    wire.told_until_s, wire.break_off, "ended", context=copy_context_of_nobody()
                )

    def _sessions(self) -> Iterator[Session]:
        """Yield who is logged in to the account."""
        for connection in list(self.wires):
            yield from list(connection.sessions.values())  # a fault may end one while it is told

    # --- what a session asks for --------------------------------------------------------------------

    def answer(self, answer: Answer, session: Session, client_msg_id: str | None) -> None:
        """Tell what a request led to, and remember whose order it is until it is done."""
        if answer.order.status is OrderStatus.ACCEPTED:
            self._requesters[answer.order.order_id] = (session, client_msg_id)
        for execution in answer.executions:
            self.on_execution(execution)

    def end_grant(self, grant: Grant, reason: str) -> None:
        """A refresh is known to its one gateway, which opens its session anew."""

    def strike(self, fault: Fault, connection: Connection) -> None:
        """Do what a fault does to a connection, or to all of them."""
        self._incidents.strike(fault, connection)

    def _protection_delay_ms(self, now_ms: int) -> int | None:
        if not self.protections:
            return self.exchange.faults.protection_delay_ms(now_ms)
        delay_ms = self.protections.popleft()
        self.fired.append("a protective order came late" if delay_ms else "a protective order never came")
        return delay_ms

    # --- the operator's hand ------------------------------------------------------------------------

    def by_hand(self, work: Callable[[Matching, int], tuple[Execution, ...]]) -> bool:
        """Let somebody else do something to the account; False if the venue refuses it."""
        try:
            done = work(self.matching, self.exchange.now_ms)
        except RefusedError:
            return False
        self.ledger.write(self.matching.take_changes(), self.exchange.now_ms)
        for execution in done:
            self.on_execution(execution)
        self._flush()
        return True


_MAY_BE_REFUSED = (
    "ProtoOAReconcileReq",
    "ProtoOATraderReq",
    "ProtoOAOrderListReq",
    "ProtoOAClosePositionReq",
    "ProtoOAAmendPositionSLTPReq",
)
_GOODBYES: dict[str, Callable[[], Any]] = {
    "client": lambda: messages.ProtoOAClientDisconnectEvent(reason="the venue is maintained"),
    "account": lambda: messages.ProtoOAAccountDisconnectEvent(ctidTraderAccountId=ACCOUNT_ID),
    "token": lambda: messages.ProtoOAAccountsTokenInvalidatedEvent(
        ctidTraderAccountIds=[ACCOUNT_ID], reason="a new token was made"
    ),
}
GOODBYES = tuple(_GOODBYES)
NEWS = ("symbol", "trader", "margin", "trailing", "call")


def _name_of(payload_type: int) -> str:
    return str(TYPES[payload_type].DESCRIPTOR.name)


@lru_cache(maxsize=QUOTES_KEPT)
def _quote(number: int, spot: Spot, bars: tuple[tuple[Period, Bar], ...], *, with_stamp: bool) -> Packet:
    """Return a quote on its way; every schedule that plays the market has the same ones."""
    event = spot_event(ACCOUNT_ID, number, spot, dict(bars), with_stamp=with_stamp)
    return Packet(event, symbol=spot.symbol)


@cache
def _sides_of(way: str, payload_type: int) -> tuple[str, str]:
    """Return the crash points on both sides of a message on its way."""
    point = f"gateway link.{way} {_name_of(payload_type)}"
    return f"{point}:{Side.BEFORE}", f"{point}:{Side.AFTER}"


def _context_of(process: Process) -> Context:
    context = copy_context_of_nobody()
    context.run(OWNER.set, process)
    return context
