"""`tradeguard replay --into BOOK`: recorded candles traded again, live, in a book of their own.

The candles become the market of a simulated venue, and a gateway, features, inference and executor of that
book trade it on the server where other books run. Nothing of it can reach a real venue: its gateway is told
to use the simulated one, and no credentials are handed on.
"""

from __future__ import annotations

import csv
import os
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from dotenv import dotenv_values

from cli import demo
from cli.demo import DemoOptions
from cli.recorded import Recorded, new_book
from shared import streams
from shared.errors import InputError
from shared.settings import DEFAULT_SYMBOLS, ServiceSettings, load
from shared.streams import from_milliseconds, id_parts
from sim.recording import Range

SERVICES: Final = ("gateway", "features", "inference", "executor")
WARM_UP: Final = 300  # slices that the gateway asks for before it begins
OTHERS: Final = ("CT_", "VENUE_", "GATEWAY_", "SIM_VENUE_FILE")  # settings of another venue
COLUMNS: Final = ("time", "open", "high", "low", "close", "tick_volume")


@dataclass(frozen=True)
class Into:
    """Where recorded candles are played to, and how."""

    book: str
    bundle: Path
    speed: float = 0.0  # times real time; 0: in steps, as fast as the slices are done
    notify: bool = False
    as_json: bool = False


def run(recorded: Recorded, url: str | None, asked: Range, into: Into) -> int:
    """Play the candles of a recorded book; exit status 0 only if the venue's books and the streams agree.

    Args:
        recorded: where the candles are.
        url: the server of the other book; None: the setting REDIS_URL.
        asked: slices to trade; as many as the warm-up needs are taken from before them.
        into: the other book.

    Raises:
        InputError: there are not enough candles, or the other book is not free.
    """
    streams.key(into.book, "")  # refuses a name that is not one
    redis_url = load(ServiceSettings).redis_url if url is None else url
    if not recorded.is_copy and into.book == recorded.book:
        raise InputError(f"--into {into.book}: that is the recorded book; name another one")
    with TemporaryDirectory(prefix="tradeguard-") as folder:
        first, last_ms = write_candles(recorded, asked, Path(folder))
        new_book(redis_url, into.book, f"candles of {recorded.book} from {first.isoformat()}")
        return demo.run(
            DemoOptions(
                speed=into.speed,
                data=Path(folder),
                bundle=into.bundle,
                folder=Path("var") / "replay" / into.book,
                as_json=into.as_json,
                book=into.book,
                services=(*SERVICES, "notifier") if into.notify else SERVICES,
                redis_url=redis_url,
                base=without_venue({**dotenv_values(".env"), **os.environ}),
                start=first,
                until_ms=last_ms,
            )
        )


def without_venue(settings: Mapping[str, str | None]) -> dict[str, str]:
    """Return settings without those that name a venue or lead to one."""
    return {name: value for name, value in settings.items() if value and not name.startswith(OTHERS)}


@dataclass
class Candles:
    """The candles of a book, and its slices by their close in ms, in order."""

    rows: dict[str, list[list[str]]] = field(
        default_factory=lambda: {symbol: [] for symbol in DEFAULT_SYMBOLS}
    )
    closes: list[int] = field(default_factory=list)
    first_live_ms: int | None = None


def read_candles(recorded: Recorded, last_ms: int) -> Candles:
    """Read candles up to a close; those that the gateway had filled in are left out: it does that again.

    Raises:
        InputError: they are of a symbol that the simulated venue does not have.
    """
    found = Candles()
    for entry in recorded.entries(streams.BARS.name):
        close_ms, fields = id_parts(entry.entry_id)[0], entry.fields
        if close_ms > last_ms:
            break
        if fields["symbol"] not in found.rows:
            raise InputError(f"book {recorded.book} has {fields['symbol']}: the simulated venue does not")
        if not found.closes or found.closes[-1] != close_ms:
            found.closes.append(close_ms)
        if fields["origin"] == "live" and found.first_live_ms is None:
            found.first_live_ms = close_ms
        if fields["synthetic"] != "true":
            values = [fields[name] for name in ("open_time", *COLUMNS[1:])]
            found.rows[fields["symbol"]].append(values)
    return found


def write_candles(recorded: Recorded, asked: Range, folder: Path) -> tuple[datetime, int]:
    """Write the recorded candles as a file a symbol; return the first close to trade, and the last one in ms.

    The last candle is not traded: what was ordered at the close before it is filled in it.

    Raises:
        InputError: there are none, of other symbols, or too few before the first slice asked for.
    """
    found = read_candles(recorded, asked.last_ms)
    first_ms = asked.first_ms or found.first_live_ms or 0
    before = bisect_left(found.closes, first_ms)
    if before < WARM_UP or before > len(found.closes) - 2:
        raise InputError(
            f"book {recorded.book}: {before} of its {len(found.closes)} slices lie before the first one to "
            f"trade; {WARM_UP} are needed to warm up, one to trade, and one for its orders"
        )
    for symbol, candles in found.rows.items():
        with (folder / f"{symbol}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *candles])
    return from_milliseconds(found.closes[before]), found.closes[-2]
