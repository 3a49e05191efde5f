"""The control door: plain HTTP with JSON on loopback, for who runs the venue, not for its clients."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson

from shared.errors import InputError
from venue.credentials import Credentials
from venue.exchange import Exchange
from venue.server import VenueServer

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
BODY_BYTES_MAX = 100_000
HEADERS_MAX = 64
UNTIL_MS_MAX = 2_147_483_646_000
IDLE_S_MAX = 600.0

_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 409: "Conflict"}


class BadCallError(Exception):
    """A call that cannot be answered, with the status to say so."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    path: str
    query: dict[str, list[str]]
    token: str
    body: dict[str, Any]
    keep_alive: bool


class ControlDoor:
    """Steps the venue, shows its state and its books, and asks for faults."""

    def __init__(
        self,
        exchange: Exchange,
        server: VenueServer,
        credentials: Credentials,
        stop: asyncio.Event,
        *,
        stepped: bool,
    ) -> None:
        self._exchange = exchange
        self._venue = server
        self._credentials = credentials
        self._stop = stop
        self._stepped = stepped
        self._door: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._routes: dict[tuple[str, str], Callable[[_Call], Awaitable[dict[str, Any]]]] = {
            ("POST", "/step"): self._step,
            ("GET", "/state"): self._state_of,
            ("GET", "/ledger"): self._ledger,
            ("GET", "/timing"): self._timing,
            ("GET", "/faults"): self._faults,
            ("POST", "/faults"): self._ask_fault,
            ("DELETE", "/faults"): self._end_faults,
            ("POST", "/shutdown"): self._shutdown,
        }

    async def start(self, port: int) -> int:
        """Open the door; return its port."""
        self._door = await asyncio.start_server(self._serve, LOOPBACK, port)
        return int(self._door.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close the door and every connection."""
        if self._door is not None:
            self._door.close()
        for task in list(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._door is not None:
            await self._door.wait_closed()

    def state(self) -> dict[str, Any]:
        """Return where the venue stands."""
        exchange = self._exchange
        matching = exchange.matching
        return {
            "time_ms": exchange.now_ms,
            "next_quote_ms": exchange.playback.next_quote_ms,
            "last_stamp_ms": exchange.last_stamp_ms,
            "open_orders": len(matching.orders),
            "open_positions": len(matching.positions),
            "unprotected": len(matching.unprotected),
            "next_bar_quotes": exchange.playback.quoted_in_slice(),
            "balance_cents": matching.balance_cents,
            "equity_cents": matching.equity_cents(),
            "revision": exchange.ledger.revision,
            "connections": self._venue.connections,
            "faults_fired": exchange.faults.fired(),
        }

    # -- calls ---------------------------------------------------------------------------------

    async def _step(self, call: _Call) -> dict[str, Any]:
        until_ms = _number(call.body, "until_ms")
        if not 0 <= until_ms <= UNTIL_MS_MAX:
            raise BadCallError(400, f"until_ms is a time from 0 to {UNTIL_MS_MAX}")
        if not self._stepped:
            raise BadCallError(409, "This venue's time runs by itself: start it with speed 0 to step it")
        await self._exchange.play(until_ms)
        await self._venue.drain()
        return self.state()

    async def _state_of(self, _: _Call) -> dict[str, Any]:
        return self.state()

    async def _ledger(self, call: _Call) -> dict[str, Any]:
        since = call.query.get("since", ["0"])[-1]
        if not since.isdecimal():
            raise BadCallError(400, "since is a revision, a number from 0 on")
        return self._exchange.ledger.books(int(since))

    async def _timing(self, _: _Call) -> dict[str, Any]:
        """When bars began on the wire and orders arrived, in seconds of the machine's monotonic clock."""
        watch = self._venue.stopwatch
        return {
            "first_quotes": {str(open_ms): at_s for open_ms, at_s in watch.first_quotes.items()},
            "orders": dict(watch.orders),
        }

    async def _faults(self, _: _Call) -> dict[str, Any]:
        return self._exchange.faults.told()

    async def _ask_fault(self, call: _Call) -> dict[str, Any]:
        try:
            self._exchange.faults.ask(call.body)
        except InputError as error:
            raise BadCallError(400, str(error)) from error
        return self._exchange.faults.told()

    async def _end_faults(self, _: _Call) -> dict[str, Any]:
        self._exchange.faults.end_all()
        return self._exchange.faults.told()

    async def _shutdown(self, _: _Call) -> dict[str, Any]:
        self._stop.set()
        return {"stopping": True}

    # -- HTTP ----------------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            while await self._exchange_one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError, ValueError):
            log.debug("a control connection ended")
        except asyncio.CancelledError:
            log.debug("the venue closes a control connection")
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _exchange_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one call; tell whether another may follow."""
        keep_alive = False
        try:
            async with asyncio.timeout(IDLE_S_MAX):
                call = await _read_call(reader)
            keep_alive = call.keep_alive
            status, answer = 200, await self._route(call)(call)
        except BadCallError as error:
            status, answer = error.status, {"error": str(error)}
        body = orjson.dumps(answer)
        writer.write(
            f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n"
            f"Connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        return keep_alive

    def _route(self, call: _Call) -> Callable[[_Call], Awaitable[dict[str, Any]]]:
        if not self._credentials.is_control_token(call.token):
            raise BadCallError(401, "Give the control token: Authorization: Bearer ...")
        route = self._routes.get((call.method, call.path))
        if route is None:
            raise BadCallError(404, f"{call.method} {call.path} is not served")
        return route


async def _read_call(reader: asyncio.StreamReader) -> _Call:
    words = (await reader.readuntil(b"\r\n")).decode("latin-1").split()
    if len(words) != 3:
        raise BadCallError(400, "Not a request line")
    headers = {}
    for _ in range(HEADERS_MAX):
        line = (await reader.readuntil(b"\r\n")).decode("latin-1").strip()
        if not line:
            break
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    else:
        raise BadCallError(400, "Too many headers")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
        raise BadCallError(400, f"A body has a Content-Length of at most {BODY_BYTES_MAX}")
    content = await reader.readexactly(int(length))
    address = urlsplit(words[1])
    return _Call(
        method=words[0],
        path=address.path,
        query=parse_qs(address.query),
        token=headers.get("authorization", "").removeprefix("Bearer "),
        body=_parsed(content),
        keep_alive=headers.get("connection", "").lower() != "close",
    )


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(content) if content else {}
    except orjson.JSONDecodeError as error:
        raise BadCallError(400, f"The body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadCallError(400, "The body is not a JSON object")
    return body


def _number(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadCallError(400, f"{name} is a whole number")
    return value
