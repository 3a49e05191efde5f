"""`tradeguard streams`: what stands in the streams of a book, as tables for a reader or as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from cli.recorded import Entry, Recorded
from shared import streams
from shared.errors import InputError
from shared.streams import STREAMS, Stream

NAMES: Final = tuple(stream.name for stream in STREAMS)
CELL_LENGTH_MAX: Final = 60
_LONG_NUMBER: Final = re.compile(r"-?\d+\.\d{9,}(e-?\d+)?")

# What `tail` shows of an entry; `show` has the rest.
COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "bars": ("symbol", "open", "high", "low", "close", "tick_volume", "origin", "synthetic"),
    "account": ("cause", "live", "balance", "equity", "free_margin", "positions", "execution_number"),
    "features": ("live", "slices_seen", "account_id", "alpha", "guard"),
    "signals": (
        "symbol", "direction", "verdict", "reason", "alpha_action", "risk_fraction", "guard_probability",
    ),
    "orders": ("type", "client_order_id", "direction", "volume_units", "stop_distance", "reason"),
    "executions": (
        "number", "kind", "client_order_id", "direction", "price", "volume_units", "pnl", "reason",
    ),
    "events": ("service", "kind", "severity", "text"),
    "commands": ("command", "who", "why"),
    "dead": ("stream", "entry_id", "group", "error"),
}  # fmt: skip

_ANSWERS: Final = {  # why what is dead is not written again, and what to do instead
    "orders": "an order is never asked for twice; see its executions, and the alarms of its reader",
    "executions": "the gateway's journal writes executions, in its own numbers, and nobody else does",
    "commands": "an old command could lift a newer one; give it anew with `tradeguard pause`, `resume`, "
    "`flatten` or `halt`",
    "dead": "it is not an entry of another stream",
}
_MARKET: Final = (
    "its id is the market's time, which has passed: the reader has gone on, and behind newer entries it "
    "would be out of order"
)


def stream_named(name: str) -> Stream:
    """Return the stream of a name."""
    return next(stream for stream in STREAMS if stream.name == name)


def time_of(stream: Stream, entry_id: str) -> str:
    """Return the time in an entry's id: the market's, or when the server wrote it."""
    at = streams.from_milliseconds(streams.id_parts(entry_id)[0])
    return f"{at:%Y-%m-%d %H:%M:%S}" if stream.market_ids else f"{at:%Y-%m-%d %H:%M:%S}.{at:%f}"[:23]


# --- what there is ------------------------------------------------------------------------------


def overview(recorded: Recorded) -> list[dict[str, Any]]:
    """Return a row for every stream of the book."""
    rows = []
    for stream in STREAMS:
        info = recorded.info(stream.name) or {"length": 0}
        first, last = info.get("first-entry"), info.get("last-entry")
        rows.append(
            {
                "stream": stream.name,
                "entries": info["length"],
                "taken out": int(info.get("entries-added", info["length"])) - int(info["length"]),
                "first": first[0] if first else None,
                "last": last[0] if last else None,
                "last time (UTC)": time_of(stream, last[0]) if last else None,
                "time": "market" if stream.market_ids else "written",
                "written by": _people(stream.writers),
                "read by": _people(stream.readers),
            }
        )
    return rows


def _people(names: Sequence[str]) -> str:
    return ", ".join("all" if name == "*" else name for name in names) or "-"


def lag(recorded: Recorded) -> list[dict[str, Any]]:
    """Return how far every reader is: read by its group, committed by its mark."""
    marks: dict[str, Mapping[str, str]] = {}
    rows = []
    for stream in STREAMS:
        for group in recorded.groups(stream.name):
            name = str(group["name"])
            if name not in marks:
                marks[name] = recorded.marks(name)
            rows.append(
                {
                    "stream": stream.name,
                    "group": name,
                    "lag": group.get("lag"),
                    "pending": group["pending"],
                    "last delivered": group["last-delivered-id"],
                    "mark": marks[name].get(stream.name),
                    "oldest pending": recorded.oldest_pending(stream.name, name),
                }
            )
    return rows


# --- entries ------------------------------------------------------------------------------------


def tail(recorded: Recorded, name: str, count: int) -> list[Entry]:
    """Return the last entries of a stream."""
    return recorded.newest(name, count)


def follow(recorded: Recorded, name: str, after: Sequence[Entry]) -> Iterator[Entry]:
    """Yield entries as they come, for ever."""
    last_id = after[-1].entry_id if after else "0-0"
    while True:
        for entry in recorded.wait_after(name, last_id):
            last_id = entry.entry_id
            yield entry


def rows_of(name: str, entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return what is shown of entries, a row each."""
    stream = stream_named(name)
    return [
        {
            "id": entry.entry_id,
            f"{'market' if stream.market_ids else 'written'} (UTC)": time_of(stream, entry.entry_id),
            **{column: _short(entry.fields.get(column)) for column in COLUMNS[name]},
        }
        for entry in entries
    ]


def _short(text: str | None) -> str | None:
    """Return a field as a cell: nested values by their size, the models' numbers to six digits."""
    if text is None or not text.startswith(("{", "[")):
        return f"{float(text):.6g}" if text and _LONG_NUMBER.fullmatch(text) else text
    value = json.loads(text)
    return f"{len(value)} in it" if value else "none"


def show(recorded: Recorded, name: str, entry_id: str) -> Entry:
    """Return one entry.

    Raises:
        InputError: it is not there.
    """
    found = list(recorded.entries(name, entry_id, entry_id))
    if not found:
        raise InputError(f"no entry {entry_id} in {name} of book {recorded.book}: see `streams tail {name}`")
    return found[0]


def values_of(entry: Entry) -> dict[str, Any]:
    """Return an entry for a program: nested values as values, numbers as they are written."""
    values: dict[str, Any] = {"id": entry.entry_id}
    for name, text in entry.fields.items():
        values[name] = json.loads(text) if text.startswith(("{", "[")) else text
    return values


def page_of(name: str, entry: Entry) -> str:
    """Return an entry for a reader: every field on its own line, nested ones opened out."""
    stream = stream_named(name)
    kind = "market time" if stream.market_ids else "when it was written"
    width = max(len(field) for field in entry.fields) + 2
    lines = [f"{name} {entry.entry_id}: {time_of(stream, entry.entry_id)} UTC, {kind}"]
    for field, text in entry.fields.items():
        opened = text
        if text.startswith(("{", "[")):
            opened = json.dumps(json.loads(text), indent=2).replace("\n", "\n" + " " * width)
        lines.append(f"{field:<{width}}{opened}")
    return "\n".join(lines)


# --- dead letters -------------------------------------------------------------------------------


def requeue(recorded: Recorded, dead_id: str) -> dict[str, Any]:
    """Write a dead entry to its stream again, as a new entry, and take it off the dead ones.

    Raises:
        InputError: there is no such entry, or it is one of those that must not come back.
    """
    if recorded.is_copy:
        raise InputError("a folder is looked at as a copy: name a running book with --redis and --book")
    dead = show(recorded, "dead", dead_id).fields
    name, was = dead["stream"], f"{dead['stream']} {dead['entry_id']}"
    if name not in NAMES:
        raise InputError(f"{was} is not requeued: there is no stream of that name")
    if stream_named(name).market_ids:
        raise InputError(f"{was} is not requeued: {_MARKET}")
    if name in _ANSWERS:
        raise InputError(f"{was} is not requeued: {_ANSWERS[name]}")
    new_id = recorded.move_dead(dead_id, name, json.loads(dead["fields"]))
    return {"requeued": dead_id, "stream": name, "was": dead["entry_id"], "now": new_id}


# --- tables -------------------------------------------------------------------------------------


def lines(name: str, first: Sequence[Entry], then: Iterable[Entry], as_json: bool) -> Iterator[str]:
    """Yield a line for each entry as it comes, in the columns of the first ones; or a JSON object."""
    if as_json:
        yield from (json.dumps(values_of(entry)) for entry in chain(first, then))
        return
    shown = rows_of(name, first)
    if shown:
        yield table(shown)
    for entry in then:
        row = rows_of(name, [entry])
        yield table(row, under=shown)
        shown = shown or row


def table(rows: Sequence[Mapping[str, Any]], *, under: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return rows of one shape as aligned columns, numbers to the right, long cells cut.

    Rows that go `under` others have their widths and no heads.
    """
    if not rows:
        return ""
    heads = [list(rows[0])]
    cells = [[_cell(value) for value in row.values()] for row in rows]
    above = [*heads, *([_cell(value) for value in row.values()] for row in under)]
    widths = [max(len(line[k]) for line in [*above, *cells]) for k in range(len(heads[0]))]
    is_number = [
        all(isinstance(value, int | None) for value in column)
        for column in zip(*(row.values() for row in rows), strict=True)
    ]
    lines = (
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        )
        for line in (cells if under else heads + cells)
    )
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: object) -> str:
    text = " ".join(str(value).split()) if value is not None else "-"
    return text if len(text) <= CELL_LENGTH_MAX else text[: CELL_LENGTH_MAX - 1] + "…"
