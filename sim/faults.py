"""What goes wrong in a schedule, drawn from its seed: plain data, to be told, repeated and shrunk."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from shared.messages import Command
from sim.points import SERVICES, crash_points
from sim.venue import GOODBYES, NEWS, Cut, Trick
from venue.book import SYMBOLS

SLICES_MIN = 50
LAST_FAULT_SLICE = SLICES_MIN - 8
FAULTS_MORE = (2, 6)  # beside the death that a schedule is named after
QUIET_S = 12.0  # long enough for a heartbeat, and for a reader to wait in vain
TWINS_CHANCE = 0.3  # that a service has two instances


class FaultKind(StrEnum):
    """Everything that may go wrong."""

    DIE_AT = "dies at a crash point"
    DIE = "dies"
    STOP = "is told to stop"
    PAUSE_AT = "stands still at a crash point"
    PAUSE = "stands still"
    REDIS_AWAY = "Redis is away"
    REDIS_OLDER = "Redis comes back older than it was"
    REDIS_CUT = "a call to Redis breaks before it arrives"
    REDIS_MUTE = "a call to Redis breaks after it arrived"
    DISK_FULL = "the journal's disk is full"
    VENUE_AWAY = "the venue cannot be reached"
    DISCONNECT = "the connection to the venue breaks"
    GOODBYE = "the venue ends the session"
    SILENCE = "the venue is silent"
    TRICK = "what the venue says of an order is"
    CUT_ORDER = "the connection breaks around an order"
    GRANT_VOID = "the venue takes our token no more"
    NEWS = "the venue tells news of the"
    REFUSE_ORDER = "the venue refuses an order"
    VENUE_ERROR = "the venue answers with an error"
    NO_PROTECTION = "the venue sets no stop"
    LATE_PROTECTION = "the venue sets a stop late"
    CLOCK_STEP = "the wall clock is stepped"
    COMMAND = "the operator commands"
    COMMAND_FIRST = "with the next order that is asked for the operator commands"
    HALT_FILE = "the halt file is there"
    GARBAGE = "somebody writes garbage"
    WEBHOOK_AWAY = "the webhook does not answer"
    QUIET_MARKET = "the market stands still"
    QUIET_SYMBOL = "a symbol seems to be silent:"
    BY_HAND = "somebody at the venue's own program"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, and when."""

    kind: FaultKind
    slice: int  # counted from the beginning of the schedule
    after_s: float = 0.0  # the slice's beginning
    service: str = ""
    point: str = ""
    nth: int = 1  # time that the point is passed, from then on
    seconds: float = 0.0
    detail: str = ""

    def __str__(self) -> str:
        what = " ".join(filter(None, (self.service, self.kind, self.detail, self.point)))
        often = f" the {self.nth}. time" if self.nth > 1 else ""
        long = f" ({self.seconds:.2f} s)" if self.seconds else ""
        return f"slice {self.slice} + {self.after_s:.2f} s: {what}{often}{long}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run: its seed, its market, who runs twice, and what goes wrong."""

    seed: int
    market: int
    twins: tuple[str, ...]
    faults: tuple[Fault, ...]

    def story(self) -> list[str]:
        """Return it in words."""
        twins = [f"two instances of {service}" for service in self.twins]
        return [f"seed {self.seed}, market {self.market}", *twins, *map(str, self.faults)]


def draw(seed: int, markets: int) -> Schedule:
    """Return the schedule of a seed. Consecutive seeds are named after consecutive crash points."""
    rng = random.Random(seed)  # noqa: S311 - a simulation's
    points = sorted(crash_points())
    point = points[seed % len(points)]
    faults = [*_death_at(point, rng), *(_any(rng) for _ in range(rng.randint(*FAULTS_MORE)))]
    faults += [_resumption(f, rng) for f in faults if f.kind is FaultKind.COMMAND and rng.random() < 0.8]
    faults += [_death_meanwhile(f, rng) for f in faults if f.kind is FaultKind.WEBHOOK_AWAY]
    twins = tuple(service for service in SERVICES if rng.random() < TWINS_CHANCE)
    ordered = sorted(faults, key=lambda fault: (fault.slice, fault.after_s))
    return Schedule(seed, rng.randrange(markets), twins, tuple(ordered))


def _death_at(point: str, rng: random.Random) -> list[Fault]:
    """Return the death at a point, and what makes it likely that the point is passed."""
    at = rng.randint(0, LAST_FAULT_SLICE - 2)
    service = point.partition(" ")[0]
    kind = FaultKind.DIE_AT if rng.random() < 0.85 else FaultKind.PAUSE_AT
    nth = 1 if rng.random() < 0.6 else rng.randint(2, 5)
    helpers = [make(service, at, rng) for pattern, make in _ENABLERS if re.search(pattern, point)]
    nth = 1 if helpers else nth
    return [Fault(kind, at, 0.0, service, point, nth, _seconds(rng)), *helpers]


def _resumption(stop: Fault, rng: random.Random) -> Fault:
    """Return the command that lifts a stop some slices later."""
    at = min(stop.slice + rng.randint(1, 4), SLICES_MIN - 2)
    return Fault(FaultKind.COMMAND, at, rng.uniform(0, 0.4), detail=Command.RESUME)


def _death_meanwhile(away: Fault, rng: random.Random) -> Fault:
    """Return the death of a notifier that has something to post and cannot."""
    after_s = away.after_s + rng.random() * away.seconds
    return Fault(FaultKind.DIE, away.slice, after_s, service="notifier", nth=rng.randint(1, 4))


def _seconds(rng: random.Random) -> float:
    """Return a pause: often short, at times longer than a lease."""
    return rng.uniform(0.05, 1.0) if rng.random() < 0.4 else rng.uniform(1.5, 6.0)


def _fault(kind: FaultKind, detail: str = "") -> Callable[[str, int, random.Random], Fault]:
    def make(service: str, at: int, rng: random.Random) -> Fault:
        return Fault(kind, at, rng.uniform(0, 0.4), service, seconds=_seconds(rng), detail=detail)

    return make


def _garbage(service: str, at: int, rng: random.Random) -> Fault:
    stream = {"features": "bars", "inference": "features", "notifier": "events"}.get(service, "commands")
    return Fault(FaultKind.GARBAGE, at, rng.uniform(0, 0.4), detail=stream)


def _older(service: str, at: int, rng: random.Random) -> Fault:
    """Return a loss of what happened just before."""
    return Fault(FaultKind.REDIS_OLDER, at, rng.uniform(0.4, 0.8), seconds=rng.uniform(0.8, 2.0))


def _quiet_symbol(service: str, at: int, rng: random.Random) -> Fault:
    return Fault(FaultKind.QUIET_SYMBOL, at, detail=rng.choice(SYMBOLS))


def _quiet_market(service: str, at: int, rng: random.Random) -> Fault:
    return Fault(FaultKind.QUIET_MARKET, at, seconds=QUIET_S)


_ENABLERS: tuple[tuple[str, Callable[[str, int, random.Random], Fault]], ...] = (
    (r"_bury", _garbage),
    (r"release_lease", _fault(FaultKind.STOP)),
    (r"spare\.post", _fault(FaultKind.WEBHOOK_AWAY)),
    (r"Amend", _fault(FaultKind.NO_PROTECTION)),
    (r"receive ProtoOAErrorRes", _fault(FaultKind.VENUE_ERROR)),
    (r"receive ProtoOAErrorRes", _fault(FaultKind.DISCONNECT)),
    (r"OrderErrorEvent", _fault(FaultKind.REFUSE_ORDER)),
    (r"ClientDisconnect", _fault(FaultKind.GOODBYE, "client")),
    (r"AccountDisconnect", _fault(FaultKind.GOODBYE, "account")),
    (r"TokenInvalidated", _fault(FaultKind.GOODBYE, "token")),
    (r"RefreshToken|AccountListByAccess", _fault(FaultKind.GRANT_VOID)),
    (r"MarginCall", _fault(FaultKind.NEWS, "call")),
    (r"MarginChanged", _fault(FaultKind.NEWS, "margin")),
    (r"SymbolChanged|Changes\._publish", _fault(FaultKind.NEWS, "symbol")),
    (r"TraderUpdated", _fault(FaultKind.NEWS, "trader")),
    (r"TrailingSL", _fault(FaultKind.NEWS, "trailing")),
    (r"UnsubscribeSpots", _quiet_symbol),
    (r"ClosePosition|on_command", _fault(FaultKind.COMMAND, Command.FLATTEN)),
    (r"DealList|OrderList", _fault(FaultKind.CUT_ORDER, Cut.AFTER)),
    (r"Heartbeat|has_pending", _quiet_market),
    (r"Auth|AssetList|Symbol|Trendbars|Subscribe|place\.dial|_one_session", _fault(FaultKind.DISCONNECT)),
    (r"_take_lease|_recover|Outbox\.start|wire|AccountKeeper\.open", _fault(FaultKind.DIE)),
    (r"_tell |_contracts|main\.build|Changes\.publish|Reconcile|Trader(Req|Res)", _fault(FaultKind.DIE)),
    (r"_restore_command", _fault(FaultKind.COMMAND, Command.PAUSE)),
    (r"_restore_|_write_again", _older),
    (r"_handle_pending|_drain", _fault(FaultKind.PAUSE)),
)


def _any(rng: random.Random) -> Fault:
    """Return any fault at any time."""
    kind = rng.choices(tuple(_WEIGHTS), tuple(_WEIGHTS.values()))[0]
    at, after_s = rng.randint(0, LAST_FAULT_SLICE), rng.uniform(0, 0.6)
    service = rng.choice(SERVICES) if rng.random() < 0.6 else "gateway"
    detail, point, seconds = "", "", _seconds(rng)
    match kind:
        case FaultKind.DIE_AT | FaultKind.PAUSE_AT:
            point = rng.choice(sorted(crash_points()))
            service = point.partition(" ")[0]
        case FaultKind.GARBAGE:
            return _garbage(service, at, rng)
        case FaultKind.QUIET_SYMBOL:
            return _quiet_symbol(service, at, rng)
        case FaultKind.QUIET_MARKET:
            return _quiet_market(service, at, rng)
        case FaultKind.GOODBYE:
            detail = rng.choice(GOODBYES)
        case FaultKind.NEWS:
            detail = rng.choice(NEWS)
        case FaultKind.TRICK:
            detail = rng.choice(list(Trick))
        case FaultKind.CUT_ORDER:
            detail = rng.choice(list(Cut))
        case FaultKind.COMMAND:
            detail = rng.choice(list(Command))
        case FaultKind.COMMAND_FIRST:
            detail = rng.choice(STOPS)
        case FaultKind.BY_HAND:
            detail = rng.choice(HANDS)
        case FaultKind.CLOCK_STEP:
            seconds = rng.choice((-3600.0, -2.0, -0.3, 0.3, 2.0, 3600.0))
    if kind not in _OF_A_SERVICE:
        service = ""
    return Fault(kind, at, after_s, service, point, rng.randint(1, 4), seconds, detail)


STOPS = (Command.PAUSE, Command.FLATTEN, Command.HALT)
HANDS = ("opens a position of its own", "closes one of ours", "takes a stop away")
_OF_A_SERVICE = frozenset(
    {FaultKind.DIE_AT, FaultKind.DIE, FaultKind.STOP, FaultKind.PAUSE_AT, FaultKind.PAUSE}
    | {FaultKind.REDIS_CUT, FaultKind.REDIS_MUTE}
)
_WEIGHTS = dict.fromkeys(FaultKind, 2) | {
    FaultKind.DIE_AT: 8,
    FaultKind.DIE: 4,
    FaultKind.PAUSE_AT: 3,
    FaultKind.PAUSE: 4,
    FaultKind.REDIS_OLDER: 4,
    FaultKind.TRICK: 6,
    FaultKind.COMMAND: 3,
    FaultKind.COMMAND_FIRST: 3,
    FaultKind.REDIS_CUT: 3,
    FaultKind.REDIS_MUTE: 3,
    FaultKind.CLOCK_STEP: 1,
    FaultKind.HALT_FILE: 1,
    FaultKind.GARBAGE: 1,
    FaultKind.GRANT_VOID: 1,
    FaultKind.NEWS: 1,
    FaultKind.QUIET_MARKET: 1,
    FaultKind.QUIET_SYMBOL: 1,
}
