"""The names of all faults: what each does, and to which message. Pure; one table.

A message is chosen by its name in the Open API (`ProtoOATraderRes`) or by one of these words:

- on their way in: `request`, every message of a client but its heartbeat;
- on their way out: `answer`, to one request; `quote`; `execution`, and one kind of it: `accept`, `fill`,
  `partial_fill`, `replace`, `cancel`, `expire`, `reject`, `cancel_reject`, `swap`, each with `protective_`
  before it where the order is the one that holds a position's stop and target;
- `handshake`, a client that connects, and `protection`, the protective order itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, auto


class Act(StrEnum):
    """What is done to a message, or because of it."""

    # to a message on its way out
    LOSE = auto()
    DELAY = auto()
    DOUBLE = auto()
    SWAP = auto()
    CONTRADICT = auto()
    DISTORT = auto()
    CUT = auto()
    HALVE = auto()
    # to a request
    IGNORE = auto()
    MUTE = auto()
    REFUSE = auto()
    RACE = auto()
    # to the connection of a message, or to all of them
    DISCONNECT = auto()
    FREEZE = auto()
    TELL_AND_DISCONNECT = auto()
    LEAVE_ACCOUNT = auto()
    VOID_TOKEN = auto()
    CHANGE_SYMBOLS = auto()
    RENUMBER_SYMBOLS = auto()
    TELL_TRADER = auto()
    # elsewhere
    SHUT = auto()
    LEAVE_BARE = auto()


OUTGOING_ACTS = frozenset(
    {Act.LOSE, Act.DELAY, Act.DOUBLE, Act.SWAP, Act.CONTRADICT, Act.DISTORT, Act.CUT, Act.HALVE}
)
REQUEST_ACTS = frozenset({Act.IGNORE, Act.MUTE, Act.REFUSE, Act.RACE})


class Distortion(StrEnum):
    """How the content of a message is made wrong."""

    STRIP = auto()
    EXTEND = auto()
    UNKNOWN_ENUM = auto()
    ASK_ONLY = auto()
    BID_ONLY = auto()
    NO_BAR = auto()
    OLD_BAR = auto()
    LAST_BAR_LATE = auto()
    FEWER_BARS = auto()
    HUGE_RESULT = auto()


@dataclass(frozen=True, slots=True)
class Named:
    """One fault of the table."""

    says: str
    act: Act
    message: str = ""  # empty: whoever asks for the fault names one
    needs: frozenset[str] = frozenset()
    takes: frozenset[str] = frozenset()
    error_code: str = ""
    executed: bool = False  # a request is carried out all the same
    distortion: Distortion | None = None
    ends: bool = False  # the refusal says when it will be over


_DELAY, _CODE, _BYTE, _FIELD = (frozenset({name}) for name in ("delay_ms", "error_code", "byte", "field"))
_NEW, _AMEND = "ProtoOANewOrderReq", "ProtoOAAmendPositionSLTPReq"
_BARS = "ProtoOAGetTrendbarsRes"

FAULTS: Mapping[str, Named] = {
    # -- orders
    "order_lost": Named("An order is not carried out, and nothing is said of it", Act.IGNORE, _NEW),
    "order_unanswered": Named(
        "An order is carried out, and nothing is ever said of it", Act.MUTE, _NEW, executed=True
    ),
    "order_answer_late": Named(
        "All that is said of an order comes late", Act.MUTE, _NEW, needs=_DELAY, executed=True
    ),
    "order_refused": Named(
        "An order is refused without a reason", Act.REFUSE, _NEW, takes=_CODE, error_code="UNKNOWN_ERROR"
    ),
    "order_refused_but_executed": Named(
        "An order is answered with an error, and carried out",
        Act.REFUSE,
        _NEW,
        takes=_CODE,
        error_code="TIMEOUT_ERROR",
        executed=True,
    ),
    "accept_lost": Named("An order's acceptance is not told, its fill is", Act.LOSE, "accept"),
    "accept_late": Named("An order's acceptance is told late", Act.DELAY, "accept", needs=_DELAY),
    "accept_after_fill": Named("An order's fill is told before its acceptance", Act.SWAP, "accept"),
    "fill_lost": Named("An order's fill is not told", Act.LOSE, "fill"),
    "fill_late": Named("An order's fill is told late", Act.DELAY, "fill", needs=_DELAY),
    "execution_lost": Named("An execution is not told", Act.LOSE, "execution"),
    "execution_late": Named("An execution is told late", Act.DELAY, "execution", needs=_DELAY),
    "execution_doubled": Named("An execution is told twice", Act.DOUBLE, "execution"),
    "execution_swapped": Named("An execution is told after the one that follows it", Act.SWAP, "execution"),
    "execution_contradicted": Named(
        "An execution is followed by one that says that the order was rejected", Act.CONTRADICT, "execution"
    ),
    "protection_missing": Named(
        "The order that holds a position's stop never comes to be", Act.LEAVE_BARE, "protection"
    ),
    "protection_late": Named(
        "A position stands bare for a while before its stop", Act.LEAVE_BARE, "protection", needs=_DELAY
    ),
    "disconnected_after_accept": Named(
        "The connection ends between acceptance and fill", Act.DISCONNECT, "accept"
    ),
    "filled_while_disconnected": Named(
        "The connection ends after an acceptance, and nobody is let in for a while",
        Act.DISCONNECT,
        "accept",
        needs=_DELAY,
    ),
    "position_not_found": Named(
        "A request to amend is refused as if the position were not known yet",
        Act.REFUSE,
        _AMEND,
        error_code="POSITION_NOT_FOUND",
    ),
    # -- requests
    "request_ignored": Named("A request is neither carried out nor answered", Act.IGNORE),
    "request_unanswered": Named(
        "A request is carried out and not answered, or late", Act.MUTE, takes=_DELAY, executed=True
    ),
    "request_refused": Named("A request is answered with this error", Act.REFUSE, needs=_CODE),
    "answer_late": Named("An answer comes late", Act.DELAY, "answer", needs=_DELAY),
    "rate_limited": Named(
        "A request is refused as one too many", Act.REFUSE, "request", error_code="BLOCKED_PAYLOAD_TYPE"
    ),
    "not_routed": Named(
        "The account's server cannot be reached", Act.REFUSE, "request", error_code="CANT_ROUTE_REQUEST"
    ),
    "maintenance": Named(
        "Every request is refused for a while, with the time of its end",
        Act.REFUSE,
        "request",
        needs=frozenset({"lasts_ms"}),
        error_code="SERVER_IS_UNDER_MAINTENANCE",
        ends=True,
    ),
    "maintenance_open_end": Named(
        "Every request is refused for a while, without saying how long",
        Act.REFUSE,
        "request",
        needs=frozenset({"lasts_ms"}),
        error_code="SERVER_IS_UNDER_MAINTENANCE",
    ),
    # -- sessions
    "account_auth_unanswered": Named(
        "A login to an account is not answered", Act.IGNORE, "ProtoOAAccountAuthReq"
    ),
    "token_voided": Named("The access token ends in mid-session", Act.VOID_TOKEN, "quote"),
    "refresh_raced": Named(
        "Somebody else used the refresh token a moment before", Act.RACE, "ProtoOARefreshTokenReq"
    ),
    "account_disconnected": Named("The account's session ends", Act.LEAVE_ACCOUNT, "quote"),
    "client_disconnected": Named(
        "The venue says that it disconnects, and does", Act.TELL_AND_DISCONNECT, "quote"
    ),
    "symbols_changed": Named("All symbols are said to have changed", Act.CHANGE_SYMBOLS, "quote"),
    "symbol_ids_changed": Named(
        "Every connection ends, and symbols have other ids after it", Act.RENUMBER_SYMBOLS, "quote"
    ),
    "trader_updated": Named("The account is told without having been asked for", Act.TELL_TRADER, "quote"),
    # -- connections
    "link_dropped": Named(
        "The connection ends after a message; with a delay, nobody is let in for so long",
        Act.DISCONNECT,
        "quote",
        takes=_DELAY,
    ),
    "link_frozen": Named(
        "The connection stays open and carries nothing any more, either way", Act.FREEZE, "quote"
    ),
    "frame_cut": Named(
        "The connection ends within a message, at a drawn or a given byte", Act.CUT, "quote", takes=_BYTE
    ),
    "frame_halved": Named(
        "A message comes in two parts, with a delay between", Act.HALVE, "quote", needs=_DELAY, takes=_BYTE
    ),
    "handshake_closed": Named("A connection ends before its TLS handshake", Act.SHUT, "handshake"),
    # -- any message
    "message_lost": Named("A message is not sent", Act.LOSE),
    "message_late": Named("A message is sent late", Act.DELAY, needs=_DELAY),
    "message_doubled": Named("A message is sent twice", Act.DOUBLE),
    "message_swapped": Named("A message is sent after the next one of its type", Act.SWAP),
    "field_missing": Named(
        "A message lacks a field, drawn from the optional ones or given",
        Act.DISTORT,
        "execution",
        takes=_FIELD,
        distortion=Distortion.STRIP,
    ),
    "field_unknown": Named(
        "A message has a field of a later version",
        Act.DISTORT,
        "execution",
        distortion=Distortion.EXTEND,
    ),
    "enum_unknown": Named(
        "A message has an enumeration's value of a later version",
        Act.DISTORT,
        "execution",
        takes=_FIELD,
        distortion=Distortion.UNKNOWN_ENUM,
    ),
    # -- prices
    "quotes_missing": Named("A quote is not sent", Act.LOSE, "quote"),
    "quotes_late": Named("A quote is sent late", Act.DELAY, "quote", needs=_DELAY),
    "quotes_doubled": Named("A quote is sent twice", Act.DOUBLE, "quote"),
    "quotes_swapped": Named("A quote is sent after the next one", Act.SWAP, "quote"),
    "quotes_ask_only": Named(
        "A quote has no bid, and so no bar", Act.DISTORT, "quote", distortion=Distortion.ASK_ONLY
    ),
    "quotes_bid_only": Named("A quote has no ask", Act.DISTORT, "quote", distortion=Distortion.BID_ONLY),
    "live_bar_missing": Named(
        "A quote lacks its live bar", Act.DISTORT, "quote", distortion=Distortion.NO_BAR
    ),
    "live_bar_old": Named(
        "A quote's live bar says that it is the one before",
        Act.DISTORT,
        "quote",
        distortion=Distortion.OLD_BAR,
    ),
    "history_late": Named(
        "History lacks the newest bars: the forming one and the last that closed",
        Act.DISTORT,
        _BARS,
        distortion=Distortion.LAST_BAR_LATE,
    ),
    "history_cut": Named(
        "History has the newer half of what was asked for, and says nothing of it",
        Act.DISTORT,
        _BARS,
        distortion=Distortion.FEWER_BARS,
    ),
    "result_beyond_int32": Named(
        "An unrealised result is larger than the official package's field",
        Act.DISTORT,
        "ProtoOAGetPositionUnrealizedPnLRes",
        distortion=Distortion.HUGE_RESULT,
    ),
}
