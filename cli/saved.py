"""`tradeguard save-state`: what the services of a book remember, as a file that a replay can begin with."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Final, Literal

import orjson
from pydantic import AwareDatetime, Base64Bytes, BaseModel, ConfigDict, JsonValue, ValidationError

from cli.recorded import Recorded
from shared import streams
from shared.clock import utc_now
from shared.errors import InputError
from shared.streams import id_parts
from sim.recording import Saved

SERVICES: Final = ("features", "inference", "executor")


class ServiceState(BaseModel):
    """What one service had saved with its last commit, and how far it had read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    marks: dict[str, str]  # stream -> last entry committed
    state: Base64Bytes


class StateFile(BaseModel):
    """The state of a book at one moment; the streams hold what comes after."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["tradeguard-state/1"] = "tradeguard-state/1"
    book: str
    saved_at: AwareDatetime
    services: dict[str, ServiceState]
    executor_settings: dict[str, JsonValue] | None  # by which it decided; None: it had not said

    def saved(self) -> Saved:
        """Return what a replay begins with."""
        return Saved(
            states={name: each.state for name, each in self.services.items() if each.state},
            marks={name: each.marks for name, each in self.services.items()},
        )


def save(recorded: Recorded, path: Path) -> dict[str, Any]:
    """Write the state of a book to a file; nothing need stand still for it.

    Raises:
        InputError: the book has none yet.
    """
    found = recorded.states(SERVICES)
    missing = [name for name, (marks, _) in found.items() if not marks]
    if missing:
        raise InputError(f"book {recorded.book}: {', '.join(missing)} saved nothing yet")
    file = StateFile(
        book=recorded.book,
        saved_at=utc_now(),
        services={
            name: ServiceState(marks=marks, state=base64.b64encode(state))
            for name, (marks, state) in found.items()
        },
        executor_settings=_settings_until(recorded, found["executor"][0].get(streams.SIGNALS.name, "0-0")),
    )
    path.write_text(file.model_dump_json(indent=1) + "\n")
    close_ms = id_parts(found["features"][0][streams.BARS.name])[0]
    return {
        "book": file.book,
        "file": str(path),
        "bytes": path.stat().st_size,
        "last_slice": streams.from_milliseconds(close_ms).isoformat(),
        "marks": {name: marks for name, (marks, _) in found.items()},
    }


def read(path: Path) -> StateFile:
    """Read a saved state.

    Raises:
        InputError: it is none.
    """
    try:
        return StateFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        raise InputError(f"--state {path}: not what save-state writes: {problem['msg']}") from None


def _settings_until(recorded: Recorded, signal_id: str) -> dict[str, JsonValue] | None:
    """Return the settings of the executor that decided a signal."""
    found = None
    for entry in recorded.entries(streams.ORDERS.name):
        if entry.fields["type"] == "PolicyAdopted":
            last_id = orjson.loads(entry.fields["inputs"]).get(streams.SIGNALS.name, "0-0")
            if id_parts(last_id) < id_parts(signal_id) or found is None:
                found = orjson.loads(entry.fields["settings"])
    return found
