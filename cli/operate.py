"""`tradeguard pause|resume|flatten|halt|status`: what an operator orders, what the mesh says of itself."""

from __future__ import annotations

import asyncio
import getpass
import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import redis.asyncio as redis
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from redis.exceptions import RedisError, ResponseError

from services.executor.state import ExecutorState
from services.gateway.settings import GatewaySettings
from shared import streams
from shared.bus import BusUnavailableError
from shared.clock import monotonic_s, utc_now
from shared.errors import InputError, MeshError
from shared.messages import AccountReported, BarClosed, Command, CommandGiven, EventReported, Meta
from shared.redis_bus import RedisBus
from shared.redis_line import SOCKET_TIMEOUT_S
from shared.settings import ServiceSettings, load

SERVICES = ("gateway", "features", "inference", "executor", "notifier")
POLL_S = 0.05  # between two looks for an acknowledgement
EVENTS_COUNT = 500  # read at a time
TIMEOUT_S = 10.0  # an executor that decides a slice answers in milliseconds
PLACES = 6  # that numbers are shown with
BEAT_AGE_MAX_S = 5.0  # or the lease's life, where that is longer: four beats fit into it


class HaltSettings(BaseSettings):
    """Where the halt file is. Read apart, so that a wrong setting elsewhere cannot stop a halt."""

    model_config = SettingsConfigDict(frozen=True, env_file=".env", extra="ignore", env_ignore_empty=True)

    halt_file: Path = Field(
        default=GatewaySettings.model_fields["halt_file"].default, validation_alias="GATEWAY_HALT_FILE"
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a command. `problem` is empty if the mesh obeys it."""

    command: str
    state: str | None  # the control state that the executor announced; None: not acknowledged
    acknowledged_by: str | None
    halt_file: str
    halt_file_stands: bool
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the values by their names."""
        return asdict(self)

    def as_text(self) -> str:
        """Return one line for a reader."""
        if self.problem:
            return f"{self.command}: {self.problem}"
        file = f"; the halt file {self.halt_file} stands" if self.halt_file_stands else ""
        return f"{self.state}, acknowledged by {self.acknowledged_by}{file}"


def give(command: Command, *, why: str, book: str | None, timeout_s: float) -> Answer:
    """Give a command and wait until the executor says that it obeys, or the time is over.

    A halt begins with the halt file, which stops the gateway on this machine without Redis. A resume
    takes the file away last, once the mesh has answered: until then it goes on to hold.

    Raises:
        InputError: a setting or the book's name is wrong.
    """
    path = load(HaltSettings).halt_file
    problems = [_create(path)] if command is Command.HALT else []
    state: str | None = None
    try:
        settings = load(ServiceSettings)
        name = _book(book, settings)
        state = asyncio.run(_order(settings.redis_url, name, command, why, timeout_s))
    except MeshError as error:
        if isinstance(error, InputError) and command is not Command.HALT:
            raise
        problems.append(f"the mesh did not acknowledge it: {error}")
    if state is not None and command is Command.RESUME:
        problems.append(_remove(path))
    problem = "; ".join(filter(None, problems))
    if problem and path.exists():
        problem += f" (the halt file {path} stands: a gateway that sees it sends no order)"
    return Answer(
        command=command.value,
        state=state,
        acknowledged_by=None if state is None else "executor",
        halt_file=str(path),
        halt_file_stands=path.exists(),
        problem=problem,
    )


def _create(path: Path) -> str:
    """Create the halt file; return what went wrong."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        return f"the halt file {path} cannot be made ({error.strerror}): set GATEWAY_HALT_FILE"
    return ""


def _remove(path: Path) -> str:
    """Take the halt file away; return what went wrong."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        return f"the halt file {path} cannot be removed ({error.strerror}): remove it by hand"
    return ""


async def _order(url: str, book: str, command: Command, why: str, timeout_s: float) -> str:
    """Append the command and return the state that the executor announces for it.

    Raises:
        BusUnavailableError: Redis does not answer, or the executor does not in time.
    """
    now = utc_now()
    meta = Meta.root(f"{book}:command:{command.value}:{now.isoformat()}:{secrets.token_hex(8)}", now)
    given = CommandGiven(meta=meta, command=command, who=_who(), why=why)
    async with RedisBus.connect(url, book, "cli") as bus:
        last = await bus.last(streams.EVENTS)
        start = f"({last[0]}" if last else "-"
        await bus.append(given)
        deadline_s = monotonic_s() + timeout_s
        while True:
            events = await bus.history(streams.EVENTS, start, count=EVENTS_COUNT)
            states = [state for _, event in events if (state := _announced(event, given)) is not None]
            if states:
                return states[-1]
            start = f"({events[-1][0]}" if events else start
            if len(events) < EVENTS_COUNT:
                if monotonic_s() > deadline_s:
                    break
                await asyncio.sleep(POLL_S)
    raise BusUnavailableError(
        f"no answer from the executor of book {book} within {timeout_s:g} s; the command stands on the "
        "stream and will be obeyed when the executor runs: see `tradeguard status`"
    )


def _announced(event: object, given: CommandGiven) -> str | None:
    """Return the state that an event announces in answer to the command; None if it is another event."""
    if not isinstance(event, EventReported) or event.kind != "control":
        return None
    is_answer = event.details.get("command_id") == str(given.meta.message_id)
    return event.details.get("state") if is_answer else None


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _book(given: str | None, settings: ServiceSettings) -> str:
    name = settings.book if given is None else given
    streams.key(name, "")  # refuses a name that is not one
    return name


# --- status -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Status:
    """What a book's services, groups, control and account say now."""

    book: str
    services: dict[str, dict[str, Any]]
    groups: list[dict[str, Any]]
    last_slice: str | None
    control: dict[str, Any]
    limits: list[dict[str, Any]]  # of the whole book, as of the last live slice
    account: dict[str, Any] | None
    halt_file: str | None  # None: it does not stand
    problems: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the values by their names; `ok` if there is no problem."""
        return {"ok": not self.problems, **asdict(self)}

    def as_text(self) -> str:
        """Return tables for a reader."""
        parts = [
            f"book {self.book}: {'all services are ready' if not self.problems else 'NOT READY'}",
            f"control {self.control['state']} by {self.control['who'] or 'nobody'}: {self.control['why']}",
            f"last slice {self.last_slice or 'none yet'}",
        ]
        if self.halt_file:
            parts.append(f"HALT FILE {self.halt_file} stands: no order leaves the gateway")
        services = ({"service": name, **fields} for name, fields in self.services.items())
        parts += ["", _table(list(services)), "", _table(self.groups) or "no group reads a stream yet"]
        parts += ["", _table(self.limits)] if self.limits else []
        if self.account:
            account, positions = self.account, self.account["positions"]
            money = f"balance {account['balance']}, equity {account['equity']} {account['currency']}"
            parts += ["", f"{money}, open positions: {len(positions)}", _table(positions)]
        parts += [f"problem: {problem}" for problem in self.problems]
        return "\n".join(parts).rstrip()


def status(*, book: str | None) -> Status:
    """Return how a book is.

    Raises:
        InputError: a setting or the book's name is wrong.
        BusUnavailableError: Redis does not answer.
    """
    settings = load(ServiceSettings)
    return asyncio.run(_status(settings, _book(book, settings), load(HaltSettings).halt_file))


async def _status(settings: ServiceSettings, book: str, halt_file: Path) -> Status:
    age_max_s = max(BEAT_AGE_MAX_S, settings.lease_ttl_s)
    async with RedisBus.connect(settings.redis_url, book, "executor") as bus:  # whose state is read
        health = {name: _beat(await bus.health(name), utc_now()) for name in SERVICES}
        bar = await bus.last(streams.BARS)
        account = await bus.last(streams.ACCOUNT)
        saved = await bus.state()
    groups = await _groups(settings.redis_url, book)
    halted = await asyncio.to_thread(halt_file.exists)
    return Status(
        book=book,
        services=health,
        groups=groups,
        last_slice=cast(BarClosed, bar[1]).close_time.isoformat() if bar else None,
        control=_control(saved),
        limits=_limits(saved),
        account=_account(cast(AccountReported, account[1])) if account else None,
        halt_file=str(halt_file) if halted else None,
        problems=[text for name, beat in health.items() if (text := _trouble(name, beat, age_max_s))],
    )


def _beat(said: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """Return what a service last said of itself, with its age; 'absent' if it never did."""
    age_s: float | None = None
    with suppress(KeyError, ValueError, TypeError):
        age_s = round((now - datetime.fromisoformat(said["beat"])).total_seconds(), 1)
    return {
        "status": said.get("status", "absent"),
        "beat_age_s": age_s,
        "pid": said.get("pid"),
        "detail": said.get("detail", ""),
    }


def _trouble(name: str, beat: Mapping[str, Any], age_max_s: float) -> str:
    """Return why a service does not count as ready; '' if it does."""
    if beat["status"] == "absent":
        return f"{name} has never run in this book"
    if beat["status"] != "ready":
        return f"{name} is {beat['status']}" + (f": {beat['detail']}" if beat["detail"] else "")
    if beat["beat_age_s"] is None or abs(beat["beat_age_s"]) > age_max_s:
        return f"{name} said it was ready, but its last beat is {beat['beat_age_s']} s old"
    return ""


def _control(state: bytes | None) -> dict[str, Any]:
    """Return the control state that the executor saved; what cannot be read means halted."""
    if state is None:
        return {"state": "UNKNOWN", "who": "", "why": "the executor has committed nothing yet", "since": None}
    try:
        return ExecutorState.model_validate_json(state).control.model_dump(mode="json")
    except ValidationError:
        return {"state": "HALTED", "who": "", "why": "the saved state is unreadable", "since": None}


def _limits(state: bytes | None) -> list[dict[str, Any]]:
    """Return how far each limit of the book is, as the executor saved it; none if that cannot be read."""
    try:
        standing = ExecutorState.model_validate_json(state).standing if state else {}
    except ValidationError:
        return []
    return [
        {
            "limit": name.value,
            "value": _text(each.value),
            "bound": _text(each.bound),
            "used_percent": _percent(each.value, each.bound),
            "trips": each.trips,
            "counted_from": _text(each.money.level) if each.money else None,
            "trips_at": _text(each.money.trips_at) if each.money else None,
            "stops": each.stops,
        }
        for name, each in standing.items()
    ]


def _percent(value: Decimal | None, bound: Decimal | None) -> float | None:
    return round(float(100 * value / bound), 1) if value is not None and bound else None


def _account(account: AccountReported) -> dict[str, Any]:
    return {
        "at": account.meta.event_time.isoformat(),
        "currency": account.currency,
        "balance": str(account.balance),
        "equity": str(account.equity),
        "positions": [
            {
                "symbol": position.symbol,
                "direction": position.direction.value,
                "volume_units": str(position.volume_units),
                "entry_price": str(position.entry_price),
                "stop_loss_price": _text(position.stop_loss_price),
                "take_profit_price": _text(position.take_profit_price),
                "unrealized_pnl": str(position.unrealized_pnl),
                "order": position.client_order_id or "not ours",
            }
            for position in account.positions
        ],
    }


async def _groups(url: str, book: str) -> list[dict[str, Any]]:
    """Return how far every group is behind: entries not read yet, and read but not committed.

    Raises:
        BusUnavailableError: Redis does not answer.
    """
    client = redis.Redis.from_url(url, decode_responses=True, socket_timeout=SOCKET_TIMEOUT_S)
    rows: list[dict[str, Any]] = []
    try:
        for stream in streams.STREAMS:
            with suppress(ResponseError):  # no such stream yet
                for group in await client.xinfo_groups(streams.key(book, stream.name)):
                    rows.append(
                        {
                            "stream": stream.name,
                            "group": group["name"],
                            "lag": group.get("lag"),
                            "pending": group["pending"],
                            "last_read": group["last-delivered-id"],
                        }
                    )
    except RedisError as error:
        raise BusUnavailableError(f"redis: {error}") from error
    finally:
        await client.aclose()
    return rows


def _text(value: object) -> str | None:
    if isinstance(value, Decimal):
        return streams.decimal_text(round(value, PLACES))
    return None if value is None else str(value)


def _table(rows: list[dict[str, Any]]) -> str:
    """Return rows of one shape as aligned columns."""
    if not rows:
        return ""
    cells = [list(rows[0]), *(["-" if cell is None else str(cell) for cell in row.values()] for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return "\n".join(line.rstrip() for line in lines)
