"""The venue's books on disk: the judge of what really happened. SQLite, one transaction a step.

A transaction is on its way to the disk before any client hears of what it holds, so a killed venue
comes back with everything that a client has seen. Each record is JSON, easily read with `sqlite3`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import orjson

from shared.errors import InputError, UnavailableError
from venue.records import (
    BalanceChange,
    Deal,
    MarginCall,
    Order,
    OrderStatus,
    Position,
    PositionStatus,
    Record,
    Refusal,
    StopChange,
)

LEDGER_NAME = "ledger.sqlite3"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (
    book TEXT NOT NULL, id INTEGER NOT NULL, revision INTEGER NOT NULL, at_ms INTEGER NOT NULL,
    position_id INTEGER, standing INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (book, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS records_by_time ON records (book, at_ms);
CREATE INDEX IF NOT EXISTS records_by_position ON records (book, position_id);
CREATE INDEX IF NOT EXISTS records_by_revision ON records (book, revision);
CREATE INDEX IF NOT EXISTS deals_by_order ON records (json_extract(body, '$.order_id')) WHERE book = 'Deal';
CREATE INDEX IF NOT EXISTS records_standing ON records (book) WHERE standing = 1;
"""
_UPSERT = """
INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (book, id) DO UPDATE SET revision = excluded.revision, at_ms = excluded.at_ms,
    position_id = excluded.position_id, standing = excluded.standing, body = excluded.body
"""
_SET_MARK = "INSERT INTO marks VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"

RecordT = TypeVar("RecordT", bound=Record)


class Ledger:
    """The books of one venue, held by one process."""

    def __init__(self, folder: Path | None) -> None:
        """Open or make the books in `folder`; None: books in memory, which end with the process.

        Raises:
            UnavailableError: another process holds them.
        """
        self._is_kept = folder is not None
        path = folder / LEDGER_NAME if folder else ":memory:"
        self._db = sqlite3.connect(path, isolation_level=None, timeout=2)
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_SCHEMA)
        except sqlite3.OperationalError as error:
            self._db.close()
            raise UnavailableError(f"the books in {folder} cannot be opened: {error}") from error
        self._revision = int(self.mark("revision") or 0)

    def close(self) -> None:
        """Close the books."""
        self._db.close()

    @property
    def revision(self) -> int:
        """The number of the last transaction that changed a record."""
        return self._revision

    def mark(self, name: str) -> str | None:
        """Return a remembered value."""
        row = self._db.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def pledge(self, name: str, value: str) -> None:
        """Hold that a value never changes over the life of these books.

        Raises:
            InputError: the books were begun with another one.
        """
        known = self.mark(name)
        if known is None:
            self._db.execute(_SET_MARK, (name, value))
        elif known != value:
            raise InputError(f"these books were begun with {name} {known}, not {value}: use another folder")

    def write(self, records: Iterable[Record], now_ms: int) -> None:
        """Write records and the venue's time in one transaction; in memory never the time alone."""
        rows = {}
        for record in records:
            row = _row(record, self._revision + 1)
            rows[row[0], row[1]] = row  # the last snapshot of a record is the one that counts
        if not rows:
            if self._is_kept:  # who opens the books again goes on from there
                self._db.execute(_SET_MARK, ("time_ms", str(now_ms)))  # a transaction of its own
            return
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(_UPSERT, rows.values())
        marks = (("revision", str(self._revision + 1)), ("time_ms", str(now_ms)))
        self._db.executemany(_SET_MARK, marks)
        self._db.execute("COMMIT")
        self._revision += 1

    # -- reading -------------------------------------------------------------------------------

    def standing(self, kind: type[RecordT]) -> list[RecordT]:
        """Return the waiting orders or the open positions."""
        query = "SELECT body FROM records WHERE book = ? AND standing = 1 ORDER BY id"
        return self._read(kind, query, kind.__name__)

    def find(self, kind: type[RecordT], record_id: int) -> RecordT | None:
        """Return one record by its id."""
        query = "SELECT body FROM records WHERE book = ? AND id = ?"
        found = self._read(kind, query, kind.__name__, record_id)
        return found[0] if found else None

    def between(self, kind: type[RecordT], from_ms: int, to_ms: int, limit: int | None) -> list[RecordT]:
        """Return at most `limit` records (None: all) last changed in [from_ms, to_ms], newest first."""
        query = (
            "SELECT body FROM records WHERE book = ? AND at_ms BETWEEN ? AND ?"
            " ORDER BY at_ms DESC, id DESC LIMIT ?"
        )
        return self._read(kind, query, kind.__name__, from_ms, to_ms, -1 if limit is None else limit)

    def of_position(self, kind: type[RecordT], position_id: int) -> list[RecordT]:
        """Return the orders, deals or stop changes of one position, newest first."""
        query = "SELECT body FROM records WHERE book = ? AND position_id = ? ORDER BY id DESC"
        return self._read(kind, query, kind.__name__, position_id)

    def of_order(self, order_id: int) -> list[Deal]:
        """Return the deals of one order, newest first."""
        query = (
            "SELECT body FROM records WHERE book = 'Deal' AND json_extract(body, '$.order_id') = ?"
            " ORDER BY id DESC"
        )
        return self._read(Deal, query, order_id)

    def opened_ms(self) -> int:
        """Return when the account got its first money, 0 if it has none yet."""
        query = "SELECT MIN(at_ms) FROM records WHERE book = ?"
        (first_ms,) = self._db.execute(query, (BalanceChange.__name__,)).fetchone()
        return int(first_ms or 0)

    def last_id(self, kind: type[Record]) -> int:
        """Return the highest id given to a record of this kind, 0 if there is none."""
        query = "SELECT COALESCE(MAX(id), 0) FROM records WHERE book = ?"
        return int(self._db.execute(query, (kind.__name__,)).fetchone()[0])

    def last_position_id(self) -> int:
        """Return the highest position id given to an order or a position, 0 if there is none."""
        query = "SELECT COALESCE(MAX(position_id), 0) FROM records WHERE book IN ('Order', 'Position')"
        return int(self._db.execute(query).fetchone()[0])

    def balance(self) -> BalanceChange | None:
        """Return the last move of the balance, None in new books."""
        return self.find(BalanceChange, self.last_id(BalanceChange))

    def books(self, since: int = 0) -> dict[str, Any]:
        """Return all that changed after revision `since`, for audit.

        A position also says when it stood without a stop loss: `unprotected`, pairs of venue
        milliseconds, the last one open (null) if it still does.
        """
        time_ms = self.mark("time_ms")
        positions = self._plain(Position, since)
        for position in positions:
            changes = reversed(self.of_position(StopChange, position["position_id"]))
            position["unprotected"] = list(unprotected_spans(position, changes))
        return {
            "revision": self.revision,
            "time_ms": None if time_ms is None else int(time_ms),
            "orders": self._plain(Order, since),
            "deals": self._plain(Deal, since),
            "positions": positions,
            "balance_changes": self._plain(BalanceChange, since),
            "refusals": self._plain(Refusal, since),
        }

    def _plain(self, kind: type[Record], since: int) -> list[dict[str, Any]]:
        query = "SELECT body FROM records WHERE book = ? AND revision > ? ORDER BY id"
        return [orjson.loads(body) for (body,) in self._db.execute(query, (kind.__name__, since))]

    def _read(self, kind: type[RecordT], query: str, *values: str | int) -> list[RecordT]:
        return [_record(kind, body) for (body,) in self._db.execute(query, values)]


def unprotected_spans(
    position: dict[str, Any], changes: Iterable[StopChange]
) -> Iterator[tuple[int, int | None]]:
    """Yield when a position had no stop loss, given its stop changes, oldest first."""
    since: int | None = position["opened_ms"]
    for change in changes:
        if since is not None and change.stop_points is not None:
            if change.at_ms > since:
                yield since, change.at_ms
            since = None
        elif since is None and change.stop_points is None:
            since = change.at_ms
    if since is not None:
        yield since, position["closed_ms"]


def _row(record: Record, revision: int) -> tuple[str, int, int, int, int | None, int, str]:
    standing, position_id = False, None
    match record:
        case Order():
            record_id, at_ms, position_id = record.order_id, record.updated_ms, record.position_id
            standing = record.status is OrderStatus.ACCEPTED
        case Position():
            record_id, at_ms, position_id = record.position_id, record.updated_ms, record.position_id
            standing = record.status is PositionStatus.OPEN
        case Deal():
            record_id, at_ms, position_id = record.deal_id, record.executed_ms, record.position_id
        case StopChange():
            record_id, at_ms, position_id = record.change_id, record.at_ms, record.position_id
        case BalanceChange():
            record_id, at_ms = record.balance_version, record.at_ms
        case MarginCall():
            record_id, at_ms, standing = record.call_id, record.updated_ms, True
        case Refusal():
            record_id, at_ms = record.refusal_id, record.at_ms
    body = orjson.dumps(record).decode()
    return type(record).__name__, record_id, revision, at_ms, position_id, int(standing), body


def _enums(kind: type[Record]) -> dict[str, type[StrEnum]]:
    """Return the fields of a record that are enumerations, optional ones included."""
    found = {}
    for name, hint in get_type_hints(kind).items():
        for part in getattr(hint, "__args__", (hint,)):
            if isinstance(part, type) and issubclass(part, StrEnum):
                found[name] = part
    return found


_ENUMS: dict[type, dict[str, type[StrEnum]]] = {
    kind: _enums(kind) for kind in (Order, Position, Deal, BalanceChange, StopChange, Refusal, MarginCall)
}


def _record(kind: type[RecordT], body: str) -> RecordT:
    values = orjson.loads(body)
    for name, enum in _ENUMS[kind].items():
        if values[name] is not None:
            values[name] = enum(values[name])
    return kind(**values)
