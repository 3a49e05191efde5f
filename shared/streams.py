"""The streams of a book, as one table: what an entry is, who writes and who reads it.

A stream's key is `tg:{<book>}:<name>`: the book is a hash tag, so that all keys of a book live on one
shard of a Redis Cluster and the scripts stay atomic.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, lru_cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import orjson
from pydantic import ValidationError

from shared import messages as m
from shared.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)  # there is one of each: they are told apart by what they are
class Stream:
    """One stream of a book."""

    name: str
    carries: tuple[type[m.Message], ...]
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    market_ids: bool  # the entry id is the market's time: `<close ms>-<k>`


BARS = Stream("bars", (m.BarClosed,), ("gateway",), ("features",), market_ids=True)
ACCOUNT = Stream("account", (m.AccountReported,), ("gateway",), (), market_ids=True)
FEATURES = Stream("features", (m.FeaturesComputed,), ("features",), ("inference",), market_ids=True)
SIGNALS = Stream("signals", (m.SignalEmitted,), ("inference",), ("executor", "notifier"), market_ids=True)
ORDERS = Stream(
    "orders",
    (m.OrderRequested, m.EntryRefused, m.CloseRequested, m.PolicyAdopted),
    ("executor",),
    ("gateway", "notifier"),
    market_ids=False,
)
EXECUTIONS = Stream(
    "executions", (m.ExecutionReported,), ("gateway",), ("executor", "notifier"), market_ids=False
)
EVENTS = Stream("events", (m.EventReported,), ("*",), ("notifier",), market_ids=False)
COMMANDS = Stream("commands", (m.CommandGiven,), ("cli",), ("executor", "gateway"), market_ids=False)
DEAD = Stream("dead", (m.DeadLettered,), ("*",), (), market_ids=False)

STREAMS = (BARS, ACCOUNT, FEATURES, SIGNALS, ORDERS, EXECUTIONS, EVENTS, COMMANDS, DEAD)
_STREAM_OF = {kind: stream for stream in STREAMS for kind in stream.carries}
_KINDS = {kind.__name__: kind for kind in _STREAM_OF}
_META_FIELDS = frozenset(m.Meta.model_fields)
_MAY_MISS = frozenset({"notifier"})  # a post that cannot be made must not fill the server
_BOOK = re.compile(r"[a-z0-9-]{1,12}")


def key(book: str, name: str) -> str:
    """Return the Redis key of a book's stream, hash or value.

    Raises:
        InputError: the book's name is not 1 to 12 of a-z, 0-9 and '-'.
    """
    if not _BOOK.fullmatch(book):
        raise InputError(f"book {book!r}: use 1 to 12 of a-z, 0-9 and '-'")
    return f"tg:{{{book}}}:{name}"


def stream_of(message: m.Message) -> Stream:
    """Return the stream that carries this kind of message."""
    return _STREAM_OF[type(message)]


def keepers(stream: Stream) -> tuple[tuple[Stream, str], ...]:
    """Return whose reading keeps a stream's entries from being trimmed, as (stream read, group).

    An account entry has no readers of its own: bars, columns and signals name it, and it stays while one of
    these is unread.
    """
    named_by = (BARS, FEATURES, SIGNALS) if stream is ACCOUNT else (stream,)
    return tuple((read, group) for read in named_by for group in read.readers if group not in _MAY_MISS)


@lru_cache(maxsize=256)  # the few times of a slice are asked for again and again
def milliseconds(at: datetime) -> int:
    """Return whole milliseconds since the epoch."""
    return round(at.timestamp() * 1000)


def from_milliseconds(at_ms: int) -> datetime:
    """Return the aware UTC time of milliseconds since the epoch."""
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC)


def market_id(at: datetime, sequence: int = 0) -> str:
    """Return an entry id that says when in the market: `<ms>-<sequence>`."""
    return f"{milliseconds(at)}-{sequence}"


@lru_cache(maxsize=4096)
def id_parts(entry_id: str) -> tuple[int, int]:
    """Return (milliseconds, sequence) of an entry id; ids compare as these pairs, not as text."""
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence or 0)


def encode(message: m.Message) -> dict[str, str]:
    """Return the plain fields of an entry: one an attribute, numbers as decimal text, nested as JSON."""
    values = message.model_dump(mode="json")
    meta = values.pop("meta")
    fields = {"type": type(message).__name__}
    for name, value in (*values.items(), *meta.items()):
        if isinstance(value, str):
            fields[name] = value
        elif value is not None:
            fields[name] = orjson.dumps(value).decode()
    return fields


def decode(fields: Mapping[str, str]) -> m.Message:
    """Return the message of an entry's fields.

    Raises:
        InputError: the type or version is unknown, or a field is missing or wrong.
    """
    kind = _KINDS.get(fields.get("type", ""))
    if kind is None:
        raise InputError(f"entry of type {fields.get('type')!r}: not one of {', '.join(sorted(_KINDS))}")
    nested = _nested_fields(kind)
    values: dict[str, Any] = {}
    meta: dict[str, str] = {}
    try:
        for name, text in fields.items():
            if name in _META_FIELDS:
                meta[name] = text
            elif name != "type":
                values[name] = orjson.loads(text) if name in nested else text
        return kind.model_validate({**values, "meta": meta})
    except (ValidationError, orjson.JSONDecodeError) as error:
        raise InputError(f"{kind.__name__}: {error}") from error


@cache
def _nested_fields(kind: type[m.Message]) -> frozenset[str]:
    return frozenset(name for name, field in kind.model_fields.items() if _is_nested(field.annotation))


def _is_nested(annotation: object) -> bool:
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return any(_is_nested(part) for part in get_args(annotation))
    if origin in (tuple, list, dict):
        return True
    if origin is Literal:  # a literal number is not converted from text
        return not all(isinstance(value, str) for value in get_args(annotation))
    return isinstance(annotation, type) and issubclass(annotation, m.Part)


def decimal_text(value: Decimal) -> str:
    """Return a Decimal without an exponent and without trailing zeros: 1000, not 1E+3."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
