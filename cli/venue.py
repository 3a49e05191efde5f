"""`tradeguard venue`: the simulated venue as a process of its own, with its settings as arguments."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError

from shared.errors import InputError
from venue.main import serve
from venue.settings import VenueSettings

READY_FILE = "ready.json"  # in the state folder: where the gateway looks by default

FLAGS = {
    "data_dir": "--data",
    "start": "--from",
    "speed": "--speed",
    "seed": "--seed",
    "state_dir": "--state",
    "faults": "--faults",
}


def settings_of(given: Mapping[str, Any]) -> VenueSettings:
    """Return the venue's settings: those given by name, the others from the environment and `.env`.

    Raises:
        InputError: one is wrong; the sentence names the argument or the variable.
    """
    try:
        return VenueSettings(**given)
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        field = str(problem["loc"][0]) if problem["loc"] else ""
        name = FLAGS.get(field, f"VENUE_{field.upper()}") if field in given else f"VENUE_{field.upper()}"
        raise InputError(f"{name}: {problem['msg'].removeprefix('Value error, ')}") from None


def run(given: Mapping[str, Any]) -> None:
    """Serve until SIGTERM, SIGINT or the control door says stop. The first line says where.

    Raises:
        InputError: the settings do not fit the market or the books.
        UnavailableError: another venue holds the folder, or a port is taken.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    asyncio.run(_serve(settings_of(given)))


async def _serve(settings: VenueSettings) -> None:
    async with serve(settings) as venue:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, venue.stop.set)
        line = orjson.dumps(venue.ready) + b"\n"
        write_private(settings.state_dir / READY_FILE, line)
        sys.stdout.write(line.decode())
        sys.stdout.flush()
        await venue.stop.wait()


def write_private(path: Path, content: bytes) -> None:
    """Replace a file at once by one that only its owner reads: it has the secrets to get in."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_bytes(content)
    new.replace(path)
