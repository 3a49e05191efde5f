"""The control door: plain HTTP with JSON on loopback, for who runs the venue, not for its clients."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson

from shared.errors import InputError
from venue.credentials import Credentials
from venue.exchange import Exchange
from venue.playing import play
from venue.server import VenueServer
from venue.session import Floor
from venue.web import BadCallError, Call, Reply, WebDoor

LOOPBACK = "127.0.0.1"
UNTIL_MS_MAX = 2_147_483_646_000


class ControlDoor:
    """Steps the venue, shows its state and its books, and asks for faults."""

    def __init__(
        self,
        floors: Sequence[Floor],
        server: VenueServer,
        credentials: Credentials,
        stop: asyncio.Event,
        *,
        stepped: bool,
    ) -> None:
        self._floors = floors  # of every account; the first is meant where none is named
        self._venue = server
        self._credentials = credentials
        self._stop = stop
        self._stepped = stepped
        self._door = WebDoor(self._answer, _refused)
        self._routes: dict[tuple[str, str], Callable[[Call], Awaitable[dict[str, Any]]]] = {
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
        return await self._door.start(LOOPBACK, port)

    async def stop(self) -> None:
        """Close the door and every connection."""
        await self._door.stop()

    def state(self) -> dict[str, Any]:
        """Return where the venue stands: its time, its first account, and every account by its number."""
        exchange = self._exchange
        return {
            "time_ms": exchange.now_ms,
            "next_quote_ms": exchange.playback.next_quote_ms,
            "last_stamp_ms": exchange.last_stamp_ms,
            "next_bar_quotes": exchange.playback.quoted_in_slice(),
            **_account_state(exchange),
            "accounts": {
                str(floor.account.account_id): {
                    "environment": floor.account.environment,
                    "kind": floor.account.kind,
                    **_account_state(floor.exchange),
                }
                for floor in self._floors
            },
            "connections": self._venue.connections,
            "faults_fired": exchange.faults.fired(),
        }

    @property
    def _exchange(self) -> Exchange:
        return self._floors[0].exchange

    # -- calls ---------------------------------------------------------------------------------

    async def _step(self, call: Call) -> dict[str, Any]:
        until_ms = _parsed(call.content).get("until_ms")
        if not isinstance(until_ms, int) or isinstance(until_ms, bool):
            raise BadCallError(400, "until_ms is a whole number")
        if not 0 <= until_ms <= UNTIL_MS_MAX:
            raise BadCallError(400, f"until_ms is a time from 0 to {UNTIL_MS_MAX}")
        if not self._stepped:
            raise BadCallError(409, "This venue's time runs by itself: start it with speed 0 to step it")
        await play([floor.exchange for floor in self._floors], until_ms)
        await self._venue.drain()
        return self.state()

    async def _state_of(self, _: Call) -> dict[str, Any]:
        return self.state()

    async def _ledger(self, call: Call) -> dict[str, Any]:
        since = call.query.get("since", "0")
        if not since.isdecimal():
            raise BadCallError(400, "since is a revision, a number from 0 on")
        first = str(self._floors[0].account.account_id)
        account = call.query.get("account", first)
        for floor in self._floors:
            if str(floor.account.account_id) == account:
                return floor.ledger.books(int(since))
        raise BadCallError(404, f"There is no account {account}")

    async def _timing(self, _: Call) -> dict[str, Any]:
        """When bars began on the wire and orders arrived, in seconds of the machine's monotonic clock."""
        watch = self._venue.stopwatch
        return {
            "first_quotes": {str(open_ms): at_s for open_ms, at_s in watch.first_quotes.items()},
            "orders": dict(watch.orders),
        }

    async def _faults(self, _: Call) -> dict[str, Any]:
        return self._exchange.faults.told()

    async def _ask_fault(self, call: Call) -> dict[str, Any]:
        try:
            self._exchange.faults.ask(_parsed(call.content))
        except InputError as error:
            raise BadCallError(400, str(error)) from error
        return self._exchange.faults.told()

    async def _end_faults(self, _: Call) -> dict[str, Any]:
        self._exchange.faults.end_all()
        return self._exchange.faults.told()

    async def _shutdown(self, _: Call) -> dict[str, Any]:
        self._stop.set()
        return {"stopping": True}

    # -- HTTP ----------------------------------------------------------------------------------

    async def _answer(self, call: Call) -> Reply:
        if not self._credentials.is_control_token(call.token):
            raise BadCallError(401, "Give the control token: Authorization: Bearer ...")
        route = self._routes.get((call.method, call.path))
        if route is None:
            raise BadCallError(404, f"{call.method} {call.path} is not served")
        return Reply(orjson.dumps(await route(call)))


def _account_state(exchange: Exchange) -> dict[str, Any]:
    matching = exchange.matching
    return {
        "open_orders": len(matching.orders),
        "open_positions": len(matching.positions),
        "unprotected": len(matching.unprotected),
        "balance_cents": matching.balance_cents,
        "equity_cents": matching.equity_cents(),
        "revision": exchange.ledger.revision,
    }


def _refused(error: BadCallError) -> Reply:
    return Reply(orjson.dumps({"error": str(error)}), error.status)


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        body = orjson.loads(content) if content else {}
    except orjson.JSONDecodeError as error:
        raise BadCallError(400, f"The body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadCallError(400, "The body is not a JSON object")
    return body
