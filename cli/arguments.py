"""The arguments of the `tradeguard` program: one table of commands, and what a value may be."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NoReturn

BAD_INPUT = 2  # exit status
BARS_MAX = 1_000_000
SPEED_MAX = 100_000.0
TIMEOUT_DEFAULT_S = 10.0
TIMEOUT_MAX_S = 3600.0
WHY_LENGTH_MAX = 500
TAIL_MAX = 10_000
BENCHES = (
    "latency",
    "round_trip",
    "orders",
    "feed",
    "bus",
    "features",
    "inference",
    "kill_switch",
    "soak",
    "faults",
)
STREAMS = (  # named here too, so that arguments are read without what the streams need
    "bars", "account", "features", "signals", "orders", "executions", "events", "commands", "dead",
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        """Leave with the exit status of bad input."""
        self.exit(BAD_INPUT, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def parser() -> argparse.ArgumentParser:
    """Return the table of commands."""
    top = Parser(prog="tradeguard", description="Trade M5 closes with your own models, over Redis Streams.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    result = Parser(add_help=False)
    result.add_argument("--json", action="store_true", help="print the result as one JSON object")

    def command(name: str, help_: str, *more: Parser) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help_, description=help_, parents=[*more, result])

    _add_demo(command("demo", "Run the whole mesh here, against the simulated venue."))
    _add_venue(command("venue", "Run the simulated venue; its first line says where it is."))
    _add_features(command("features", "Compute the columns of a history, for a flat account."))
    _add_train(command("train", "Train a bundle of models."))
    _add_bundle(commands.add_parser("bundle", help="Check, show or make a bundle of models."), result)
    for name, help_ in (
        ("pause", "Open no new positions; what is open stays."),
        ("resume", "Trade again, after a pause, a flattening or a halt."),
        ("flatten", "Close all our positions, then pause."),
        ("halt", "Send nothing that opens or enlarges a position; works without Redis."),
    ):
        _add_control(command(name, help_))
    asked = command("status", "Show services, lag, control state and positions of a book.")
    asked.add_argument("--book", help="name of the book; the setting BOOK if left out")
    _add_streams(commands.add_parser("streams", help="Look into the streams of a book."), result)
    again = "Decide a recorded book again with what runs live, and compare every decision."
    _add_replay(command("replay", again, _where()))
    kept = "Save what the services of a book remember, to begin a replay with."
    save = command("save-state", kept, _where())
    save.add_argument("file", type=Path, metavar="FILE", help="where to write it")
    _add_chaos(command("chaos", "Let everything go wrong, thousands of times, and audit each time."))
    _add_bench(command("bench", "Measure on this machine; needs a checkout of the repository."))
    return top


def _add_chaos(chaos: argparse.ArgumentParser) -> None:
    chaos.add_argument("--schedules", type=_whole(1, 10_000_000), default=1000, metavar="N", help="how many")
    chaos.add_argument("--seed", type=_whole(0, 2**32 - 1), default=1, metavar="S", help="of the first one")
    chaos.add_argument("--workers", type=_whole(1, 256), default=2, metavar="W", help="processes at once")
    found = "count the schedules that it takes to find each of some deliberate bugs"
    chaos.add_argument("--mutations", action="store_true", help=found)


def _add_demo(demo: argparse.ArgumentParser) -> None:
    demo.add_argument("--bars", type=_whole(1, BARS_MAX), metavar="N", help="stop after so many slices")
    demo.add_argument("--speed", type=_number(SPEED_MAX), metavar="X", help="times real time; 0: in steps")
    demo.add_argument("--data", type=Path, metavar="DIR", help="bars from files instead of random ones")
    demo.add_argument("--seed", type=_whole(0, 2**32 - 1), metavar="S", help="of the random market")
    demo.add_argument("--resume", action="store_true", help="go on with the book of the last demo")
    demo.add_argument(
        "--bundle", type=Path, metavar="DIR", help="models to run; bundles/plumbing if left out"
    )


def _add_venue(venue: argparse.ArgumentParser) -> None:
    market = venue.add_mutually_exclusive_group()
    market.add_argument("--data", type=Path, metavar="DIR", help="bars from files")
    market.add_argument(
        "--synthetic", action="store_true", help="a random market, even with VENUE_DATA_DIR set"
    )
    venue.add_argument("--from", dest="start", type=_time, metavar="T", help="when its time begins")
    venue.add_argument("--speed", type=_number(SPEED_MAX), metavar="X", help="times real time; 0: in steps")
    venue.add_argument("--seed", type=_whole(0, 2**32 - 1), metavar="S", help="of the random market")
    venue.add_argument("--state", type=Path, metavar="DIR", help="of its books, keys and certificates")
    venue.add_argument("--faults", type=Path, metavar="FILE", help="TOML: what it does wrong on purpose")


def _add_features(features: argparse.ArgumentParser) -> None:
    features.add_argument("--data", type=Path, required=True, metavar="PATH", help="a CSV, or a folder")
    features.add_argument("--out", type=Path, required=True, metavar="FILE.npz", help="where to write them")


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument("--data", type=Path, metavar="DIR", help="bars from files instead of random ones")
    train.add_argument("--out", type=Path, metavar="DIR", help="its folder; bundles/<name> if left out")
    train.add_argument("--quick", action="store_true", help="seconds instead of minutes, and it shows")
    train.add_argument("--plumbing", action="store_true", help="trade often, to try the mesh with")


def _add_bundle(bundle: argparse.ArgumentParser, result: Parser) -> None:
    actions = bundle.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)

    def action(name: str, help_: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=help_, description=help_, parents=[result])

    for name, help_ in (
        ("verify", "Prove that a bundle is whole and gives what its training gave."),
        ("show", "Show what a bundle is and what it achieved."),
    ):
        action(name, help_).add_argument("folder", type=Path, metavar="DIR", help="the bundle's folder")
    wrap = action("wrap", "Make a bundle of models that were trained elsewhere.")
    for name, file, help_ in (
        ("--alpha", "ZIP", "SB3's file: PPO, 140 columns in, one number a symbol out"),
        ("--risk", "ZIP", "SB3's file: PPO, 165 columns in, three numbers out"),
        ("--guard", "TXT", "LightGBM's text: binary, 105 columns in"),
        ("--manifest", "JSON", "what the models are; checksums are filled in"),
        ("--out", "DIR", "the bundle's folder"),
    ):
        wrap.add_argument(name, type=Path, required=True, metavar=file, help=help_)
    wrap.add_argument(
        "--normaliser", type=Path, metavar="NPZ", help="of the inputs; none: they are taken raw"
    )
    wrap.add_argument("--activation", choices=("tanh", "relu"), default="tanh", help="of the hidden layers")


def _add_streams(found: argparse.ArgumentParser, result: Parser) -> None:
    actions = found.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=Parser)
    where = _where()

    def action(name: str, help_: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=help_, description=help_, parents=[where, result])

    action("ls", "Show what streams there are, from when to when, who writes and who reads them.")
    tail = action("tail", "Show the last entries of a stream, a line each.")
    tail.add_argument("-n", dest="count", type=_whole(1, TAIL_MAX), default=10, metavar="N", help="how many")
    tail.add_argument("--follow", action="store_true", help="and what comes, until Ctrl-C")
    show = action("show", "Show every field of an entry.")
    for each in (tail, show):
        each.add_argument("stream", choices=STREAMS, metavar="STREAM", help=", ".join(STREAMS))
    show.add_argument("id", type=_entry_id, metavar="ID", help="of the entry, as `tail` shows it")
    action("lag", "Show how far every reader is.")
    action("dead", "Show entries that could not be handled, and why.")
    requeue = action("requeue", "Write a dead entry to its stream again, where that is safe.")
    requeue.add_argument("id", type=_entry_id, metavar="DEAD_ID", help="of the entry, as `dead` shows it")


def _add_replay(replay: argparse.ArgumentParser) -> None:
    for name, dest, help_ in (("--from", "first", "first"), ("--to", "last", "last")):
        replay.add_argument(
            name,
            dest=dest,
            type=_entry_id,
            metavar="ID",
            help=f"{help_} slice to compare: an id of `signals`",
        )
    replay.add_argument("--bundle", type=Path, metavar="DIR", help="other models: list what would change")
    replay.add_argument("--state", type=Path, metavar="FILE", help="begin with what `save-state` has written")
    replay.add_argument(
        "--settings",
        choices=("recorded", "here"),
        default="recorded",
        help="by which the executor decides: those it had, or EXECUTOR_... as they are here",
    )
    replay.add_argument(
        "--into", metavar="BOOK", help="trade the candles again, simulated, in a book of its own"
    )
    replay.add_argument(
        "--speed",
        type=_number(SPEED_MAX),
        metavar="X",
        help="of --into: times real time; 0, or left out: in steps",
    )
    replay.add_argument(
        "--notify", action="store_true", help="of --into: with the notifier, Discord included"
    )
    replay.add_argument("--against", choices=("recorded",), default="recorded", help="what to compare with")


def _add_bench(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("name", choices=BENCHES, metavar="NAME", help=", ".join(BENCHES))
    bench.add_argument("--closes", type=_whole(20, 10_000), metavar="N", help="of latency; 200 if left out")
    bench.add_argument("--against", choices=("official",), help="of latency: the official client's transport")


def _where() -> Parser:
    """Return the arguments that say which streams are meant."""
    where = Parser(add_help=False)
    where.add_argument("--book", help="name of the book; the setting BOOK, or the folder's, if left out")
    place = where.add_mutually_exclusive_group()
    place.add_argument("--redis", metavar="URL", help="the server; the setting REDIS_URL if left out")
    place.add_argument("--folder", type=Path, metavar="DIR", help="of a demo, such as var/demo; read only")
    return where


def _add_control(control: argparse.ArgumentParser) -> None:
    control.add_argument("--why", type=_why, default="no reason given", metavar="TEXT", help="kept with it")
    control.add_argument("--book", help="name of the book; the setting BOOK if left out")
    control.add_argument(
        "--timeout",
        type=_number(TIMEOUT_MAX_S),
        default=TIMEOUT_DEFAULT_S,
        metavar="S",
        help="seconds to wait",
    )


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {least} to {most}")
        return value

    return parse


def _number(most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= most:  # NaN is not
            raise argparse.ArgumentTypeError(f"{text!r}: give a number from 0 to {most:g}")
        return value

    return parse


def _time(text: str) -> datetime:
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        value = None
    if value is None or value.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r}: give a time with its zone, such as 2025-01-06T00:00Z")
    return value


def _entry_id(text: str) -> str:
    if not re.fullmatch(r"\d{1,19}(-\d{1,19})?", text):
        raise argparse.ArgumentTypeError(f"{text!r}: give an entry id, such as 1766620800000-0")
    return text


def _why(text: str) -> str:
    if len(text) > WHY_LENGTH_MAX or not text.strip():
        raise argparse.ArgumentTypeError(f"give 1 to {WHY_LENGTH_MAX} characters")
    return text
