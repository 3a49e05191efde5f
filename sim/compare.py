"""Two runs of one book, entry by entry: where they differ, in words. Pure.

Message ids, clocks and what had been read are not compared: they belong to a run, not to what it decided.
Nor is the bundle's fingerprint: it is looked at before anything is played.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Final

import orjson

from services.features.schema import Schema
from shared import streams
from shared.bus import Delivery
from shared.errors import InvariantError
from shared.messages import Meta
from shared.streams import id_parts
from sim.schedule import Step

LAYERS = ("features", "signals", "decisions")
NOT_COMPARED = frozenset({*Meta.model_fields, "inputs", "bundle_sha256"})
ABSENT = "nothing"
NOBODY: Final[Mapping[str, Step]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Value:
    """One value that is not the same in both runs."""

    symbol: str  # "" where it belongs to none
    name: str  # of the column or field
    recorded: str
    replayed: str

    def as_text(self) -> str:
        """Return it in words, with by how much where it is a number."""
        try:
            by = Decimal(self.replayed) - Decimal(self.recorded)
            distance = f", differs by {by:f}" if by.is_finite() else ""
        except InvalidOperation:
            distance = ""
        return f"{self.name}: recorded {self.recorded}, replayed {self.replayed}{distance}"


@dataclass(frozen=True, slots=True)
class Difference:
    """An entry that is not the same in both runs; its first value that differs, and how many do."""

    close_ms: int  # of the slice
    layer: str
    entry: str  # which one: its id, or its order's
    value: Value
    values: int

    def as_text(self) -> str:
        """Return it in words."""
        at = streams.from_milliseconds(self.close_ms)
        symbol = f"{self.value.symbol}, " if self.value.symbol else ""
        more = f"; and {self.values - 1} more values of this entry" if self.values > 1 else ""
        return f"slice closed {at:%Y-%m-%d %H:%M} UTC, {symbol}{self.layer}: {self.value.as_text()}{more}"

    def as_json(self) -> dict[str, object]:
        """Return it for a program."""
        return {
            "close_time": streams.from_milliseconds(self.close_ms).isoformat(),
            "layer": self.layer,
            "entry": self.entry,
            "symbol": self.value.symbol or None,
            "name": self.value.name,
            "recorded": self.value.recorded,
            "replayed": self.value.replayed,
            "values": self.values,
            "text": self.as_text(),
        }


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the columns of features."""

    alpha: Schema
    guard: Schema


def differences(
    recorded: Mapping[str, Sequence[Delivery]],
    replayed: Mapping[str, Sequence[Delivery]],
    columns: Columns,
    causes: Mapping[str, Step] = NOBODY,
) -> list[Difference]:
    """Return what differs between two runs, by layer, in the order of slices, then of layers."""
    found: list[Difference] = []
    for layer in LAYERS:
        key = _decision_key if layer == "decisions" else _entry_key
        before, after = _keyed(recorded[layer], key), _keyed(replayed[layer], key)
        for name in sorted(before.keys() | after.keys()):
            old, new = before.get(name), after.get(name)
            values = list(_values(old, new, columns))
            if values:
                close_ms = slice_of(_either(old, new), causes)
                found.append(Difference(close_ms, layer, name, values[0], len(values)))
        if layer == "decisions" and not found and list(before) != list(after):
            found.append(_other_order(recorded[layer], replayed[layer]))
    return sorted(found, key=lambda each: (each.close_ms, LAYERS.index(each.layer)))


def slice_of(entry: Delivery, causes: Mapping[str, Step] = NOBODY) -> int:
    """Return the close, in ms, of the slice that an entry belongs to, or that was the last one before it.

    Args:
        entry: of any stream that the market's time can be told of.
        causes: which step of the executor a message is, by its id; needed for the closing of positions.
    """
    if entry.stream.market_ids:
        return id_parts(entry.entry_id)[0]
    if "account_id" in entry.fields:  # decided on a slice
        return streams.milliseconds(datetime.fromisoformat(entry.fields["event_time"]))
    cause = causes.get(entry.fields.get("causation_id", ""))
    if cause is not None and cause.stream is streams.SIGNALS:
        return cause.entry[0]
    return id_parts(orjson.loads(entry.fields["inputs"]).get(streams.SIGNALS.name, "0-0"))[0]


def _entry_key(entry: Delivery) -> str:
    ms, sequence = id_parts(entry.entry_id)
    return f"{ms:015d}-{sequence:03d}"


def _decision_key(entry: Delivery) -> str:
    kind = "close " if entry.fields["type"] == "CloseRequested" else ""
    return f"{kind}{entry.fields['client_order_id']}"


def _keyed(entries: Sequence[Delivery], key: Callable[[Delivery], str]) -> dict[str, Delivery]:
    """Return entries by their key; the second of one key (a closing asked for again) is `key #2`."""
    seen: Counter[str] = Counter()
    found = {}
    for entry in entries:
        name = key(entry)
        seen[name] += 1
        found[name if seen[name] == 1 else f"{name} #{seen[name]}"] = entry
    return found


def _values(old: Delivery | None, new: Delivery | None, columns: Columns) -> Iterator[Value]:
    """Yield the values that differ."""
    symbol = _either(old, new).fields.get("symbol", "")
    if old is None or new is None:
        yield Value(symbol, "the entry", _brief(old), _brief(new))
        return
    for name in dict.fromkeys((*old.fields, *new.fields)):
        was, now = old.fields.get(name, ABSENT), new.fields.get(name, ABSENT)
        if name in NOT_COMPARED or was == now:
            continue
        match name:
            case "alpha" | "guard":
                schema: Schema = getattr(columns, name)
                yield from _column_values(f"column {{}} of {name.capitalize()}", schema.names, was, now)
            case "rows":
                yield from _row_values(was, now)
            case _:
                yield Value(symbol, name, was, now)


def _either(old: Delivery | None, new: Delivery | None) -> Delivery:
    entry = old or new
    if entry is None:
        raise InvariantError("an entry that neither run has was compared")
    return entry


def _column_values(form: str, names: Sequence[str], was: str, now: str) -> Iterator[Value]:
    old, new = orjson.loads(was), orjson.loads(now)
    if len(old) != len(names) or len(new) != len(names):
        yield Value("", form.format("count"), str(len(old)), str(len(new)))
        return
    for name, before, after in zip(names, old, new, strict=True):
        if before != after:
            symbol, dot, _ = name.partition(".")
            yield Value(symbol if dot else "", form.format(name), repr(before), repr(after))


def _row_values(was: str, now: str) -> Iterator[Value]:
    old, new = orjson.loads(was), orjson.loads(now)
    for before, after in zip(old, new, strict=False):
        for name in before:
            if before[name] != after.get(name):
                yield Value(before["symbol"], f"row's {name}", str(before[name]), str(after.get(name)))


def _brief(entry: Delivery | None) -> str:
    if entry is None:
        return ABSENT
    names = ("type", "direction", "verdict", "volume_units", "reason")
    return " ".join(text for name in names if (text := entry.fields.get(name)))


def _other_order(recorded: Sequence[Delivery], replayed: Sequence[Delivery]) -> Difference:
    old, new = next(
        (a, b) for a, b in zip(recorded, replayed, strict=True) if _decision_key(a) != _decision_key(b)
    )
    value = Value("", "the order of decisions", _decision_key(old), _decision_key(new))
    return Difference(slice_of(old), "decisions", _decision_key(old), value, 1)


# --- another bundle -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """A symbol at a slice of which something else was decided."""

    close_ms: int
    symbol: str
    recorded: str
    other: str

    @property
    def kind(self) -> str:
        """What became of what, without the numbers."""
        before, after = self.recorded.split(" ")[0], self.other.split(" ")[0]
        return f"{before} -> {after}" if before != after else f"another {before}"


def changes(
    signals: Sequence[Delivery],
    decisions: Sequence[Delivery],
    other_signals: Sequence[Delivery],
    other_decisions: Sequence[Delivery],
) -> list[Change]:
    """Return the symbols and slices of which something else was decided, oldest first."""
    before = _outcomes(signals, decisions)
    after = _outcomes(other_signals, other_decisions)
    return [
        Change(close_ms, symbol, before.get(key, ABSENT), after.get(key, ABSENT))
        for key in sorted(before.keys() | after.keys())
        for close_ms, symbol in [(key[0], key[2])]
        if before.get(key) != after.get(key)
    ]


def _outcomes(signals: Sequence[Delivery], decisions: Sequence[Delivery]) -> dict[tuple[int, int, str], str]:
    """Return in words what was decided, by close, place in the slice, and symbol."""
    entries = [entry.fields for entry in decisions if entry.fields["type"] != "CloseRequested"]
    by_cause = {fields["causation_id"]: fields for fields in entries}
    found = {}
    for signal in signals:
        close_ms, place = id_parts(signal.entry_id)
        decided = by_cause.get(signal.fields["message_id"])
        found[close_ms, place, signal.fields["symbol"]] = _outcome(signal.fields, decided)
    return found


def _outcome(signal: Mapping[str, str], decided: Mapping[str, str] | None) -> str:
    direction, reason = signal["direction"], signal["reason"]
    if decided is None:
        return "flat" if signal["verdict"] == "FLAT" else f"blocked {direction}: {reason}"
    if decided["type"] == "EntryRefused":
        return f"refused {direction}: {decided['reason']}"
    levels = f"stop {decided['stop_distance']}, target {decided['target_distance']}"
    return f"order {direction} {decided['volume_units']}, {levels}"
