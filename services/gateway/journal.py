"""The order journal: what may have left, and what happened, on disk before anybody hears of it.

SQLite, WAL, synchronous FULL. One file per book, locked: a second gateway on it does not start. The events
are the outbox of the stream `executions`: numbered here, without gaps, and published in that order.
"""

from __future__ import annotations

import asyncio
import fcntl
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from services.gateway.orders import Status
from shared import streams
from shared.clock import monotonic_s
from shared.errors import InputError, InvariantError, UnavailableError
from shared.messages import ExecutionReported, OrderRequested

FREE_S = 5.0
FREE_POLL_S = 0.05
REQUESTS_KEPT = 64  # that need not be read from their JSON again

_SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    client_order_id TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    request TEXT NOT NULL,
    position_id INTEGER,
    sent_ms INTEGER
);
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY,
    client_order_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    entry TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS orders_by_status ON orders (status);
CREATE INDEX IF NOT EXISTS events_by_order ON events (client_order_id);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of an order, to be journalled."""

    event: ExecutionReported
    status: Status  # that it leads to
    request: OrderRequested


@dataclass(frozen=True, slots=True)
class OrderRecord:
    """What the journal knows of one order."""

    request: OrderRequested
    status: Status
    position_id: int | None
    sent_ms: int | None  # venue time at which it was about to leave


class Journal:
    """One book's journal. Writes run in one thread of their own: a commit waits for the disk."""

    _lock_file: IO[str]
    _db: sqlite3.Connection
    _reads: sqlite3.Connection  # sees what is committed, never a half

    def __init__(self, path: Path) -> None:
        """Name it; it is opened by the instance that is active."""
        self._path = path
        self._is_open = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")

    def open(self) -> None:
        """Open or create it.

        Raises:
            UnavailableError: another gateway holds it.
            InputError: it cannot be written.
        """
        path = self._path
        self._lock_file = _locked(path)
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._reads = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
        except sqlite3.Error as error:
            self._lock_file.close()
            raise InputError(f"GATEWAY_JOURNAL {path}: {error}") from error
        self._is_open = True

    @property
    def is_open(self) -> bool:
        """Whether it can be read and written."""
        return self._is_open

    async def open_when_free(self) -> None:
        """Open it as soon as the gateway before lets go: one that lost its lease may still be ending.

        Raises:
            UnavailableError: it did not let go in time.
            InputError: it cannot be written.
        """
        deadline_s = monotonic_s() + FREE_S
        while not self._is_open:
            try:
                self.open()
            except UnavailableError:
                if monotonic_s() > deadline_s:
                    raise
                await asyncio.sleep(FREE_POLL_S)

    def close(self) -> None:
        """Finish the write in hand and let go of the file."""
        self._thread.shutdown()
        if self._is_open:
            self._is_open = False
            self._db.close()
            self._reads.close()
            self._lock_file.close()

    # --- writing --------------------------------------------------------------------------------

    async def begin(self, requests: Sequence[OrderRequested], sent_ms: int) -> None:
        """Record, as one step, that orders are about to leave. After this they are never sent again."""
        rows = [
            (request.client_order_id, Status.SENDING, request.model_dump_json(), sent_ms)
            for request in requests
        ]
        await self._write(lambda db: db.executemany("INSERT INTO orders VALUES (?, ?, ?, NULL, ?)", rows))

    async def record(self, entries: Sequence[Entry]) -> None:
        """Record events and the statuses they lead to, as one step; their numbers are the next ones."""
        events, statuses = [], []
        for entry in entries:
            event, order = entry.event, entry.event.client_order_id
            events.append((event.number, order, event.kind, event.model_dump_json()))
            statuses.append((order, entry.status, entry.request.model_dump_json(), event.position_id))

        def write(db: sqlite3.Connection) -> None:
            db.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", events)
            db.executemany(
                "INSERT INTO orders VALUES (?1, ?2, ?3, ?4, NULL) ON CONFLICT DO UPDATE"
                " SET status = ?2, position_id = coalesce(?4, position_id)",
                statuses,
            )

        await self._write(write)

    async def remember(self, **facts: str) -> None:
        """Store plain facts by name."""
        rows = list(facts.items())
        await self._write(lambda db: db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows))

    async def _write(self, statement: Callable[[sqlite3.Connection], object]) -> None:
        def run() -> None:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                statement(self._db)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("ROLLBACK")
                raise

        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, run)
        except sqlite3.Error as error:
            raise InvariantError(f"GATEWAY_JOURNAL {self._path} cannot be written: {error}") from error

    # --- reading: by key, small ------------------------------------------------------------------

    def order(self, client_order_id: str) -> OrderRecord | None:
        """Return what is known of an order, or None: never heard of."""
        found = self._orders("WHERE client_order_id = ?", (client_order_id,))
        return found[0] if found else None

    def orders(self, *statuses: Status) -> list[OrderRecord]:
        """Return the orders in any of these statuses, oldest first."""
        marks = ", ".join("?" * len(statuses))
        return self._orders(f"WHERE status IN ({marks}) ORDER BY rowid", statuses)

    def orders_sent_since(self, since_ms: int, *statuses: Status) -> list[OrderRecord]:
        """Return the orders in any of these statuses that were sent since a venue time, oldest first."""
        marks = ", ".join("?" * len(statuses))
        where = f"WHERE status IN ({marks}) AND sent_ms >= ? ORDER BY rowid"
        return self._orders(where, (*statuses, since_ms))

    def _orders(self, where: str, values: tuple[str | int, ...]) -> list[OrderRecord]:
        rows = self._reads.execute(
            "SELECT request, status, position_id, sent_ms FROM orders " + where,  # noqa: S608
            values,
        )
        return [
            OrderRecord(_request_of(request), Status(status), position_id, sent_ms)
            for request, status, position_id, sent_ms in rows
        ]

    def requests_since(self, number: int) -> list[OrderRequested]:
        """Return the requests of which nothing happened up to an event, oldest first."""
        rows = self._reads.execute(
            "SELECT request FROM orders WHERE client_order_id NOT IN"
            " (SELECT client_order_id FROM events WHERE number <= ?) ORDER BY rowid",
            (number,),
        )
        return [_request_of(request) for (request,) in rows]

    def last_number(self) -> int:
        """Return the number of the newest event; 0 before the first."""
        return int(self._reads.execute("SELECT coalesce(max(number), 0) FROM events").fetchone()[0])

    def events(self, after: int = 0) -> list[ExecutionReported]:
        """Return the events above a number, in order."""
        rows = self._reads.execute("SELECT entry FROM events WHERE number > ? ORDER BY number", (after,))
        return [ExecutionReported.model_validate_json(entry) for (entry,) in rows]

    def events_of(self, client_order_id: str) -> list[ExecutionReported]:
        """Return one order's events, in order."""
        rows = self._reads.execute(
            "SELECT entry FROM events WHERE client_order_id = ? ORDER BY number", (client_order_id,)
        )
        return [ExecutionReported.model_validate_json(entry) for (entry,) in rows]

    def fact(self, name: str) -> str | None:
        """Return a plain fact by name."""
        row = self._reads.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else None


@lru_cache(maxsize=REQUESTS_KEPT)
def _request_of(text: str) -> OrderRequested:
    """Return a request as it was journalled; that of an order under way is asked for at every event."""
    return OrderRequested.model_validate_json(text)


def _locked(path: Path) -> IO[str]:
    """Return the open file that keeps other gateways off the journal; the lock ends with the process."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_suffix(".lock").open("w")
    except OSError as error:
        raise InputError(f"GATEWAY_JOURNAL {path}: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise UnavailableError(
            f"GATEWAY_JOURNAL {path}: {error}; is another gateway running on it?"
        ) from error
    return file


def execution_key() -> str:
    """Return the name under which the bus counts what was published."""
    return f"{streams.EXECUTIONS.name}:number"
