"""`tradeguard replay`: a recorded book decided again by the code that runs live, and what came out other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import ValidationError

from cli.recorded import Recorded
from cli.saved import SERVICES, StateFile
from cli.streams import table
from services.executor.policy import Policy
from services.executor.settings import ExecutorSettings
from services.inference.adapters import load_bundle
from services.inference.bundle import Bundle
from services.inference.settings import InferenceSettings
from shared import streams
from shared.bus import Delivery
from shared.clock import monotonic_s
from shared.errors import InputError
from shared.log import configure_log
from shared.settings import load
from shared.streams import id_parts
from sim.compare import Change, changes
from sim.recording import Range, Recording, Saved
from sim.replay import Engine, InForce, Outcome, replay

SHOWN_MAX: Final = 50  # rows of the table of changes; JSON has all


@dataclass(frozen=True)
class Result:
    """What a replay gave."""

    book: str
    outcome: Outcome
    changes: list[Change] | None  # None: no other bundle was asked for
    bundle: str
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether what was recorded came out again."""
        return not self.outcome.differences

    def as_json(self) -> dict[str, Any]:
        """Return the values by their names."""
        outcome = self.outcome
        recorded, replayed = outcome.recorded, outcome.replayed
        found: dict[str, Any] = {
            "book": self.book,
            "bundle": self.bundle,
            "slices": outcome.slices,
            "slices_not_live": outcome.slices_not_live,
            "signals": len(replayed.signals),
            "decisions": len(replayed.decisions),
            "signal_sha256": replayed.signal_sha256,
            "decision_sha256": replayed.decision_sha256,
            "recorded_signal_sha256": recorded.signal_sha256,
            "recorded_decision_sha256": recorded.decision_sha256,
            "differences": len(outcome.differences),
            "differences_by_layer": dict(Counter(each.layer for each in outcome.differences)),
            "first_difference": outcome.differences[0].as_json() if outcome.differences else None,
            "seconds": round(self.seconds, 2),
        }
        if self.changes is not None and outcome.other is not None:
            found |= {
                "signal_sha256": outcome.other.signal_sha256,
                "decision_sha256": outcome.other.decision_sha256,
                "changed": len(self.changes),
                "changed_by_kind": dict(Counter(change.kind for change in self.changes).most_common()),
                "changes": [
                    {
                        "close_time": streams.from_milliseconds(change.close_ms).isoformat(),
                        "symbol": change.symbol,
                        "recorded": change.recorded,
                        "other": change.other,
                    }
                    for change in self.changes
                ],
            }
        return found

    def as_text(self) -> str:
        """Return lines for a reader."""
        found = self.as_json()
        hidden = ("differences_by_layer", "first_difference", "changes", "changed_by_kind")
        lines = [f"{name:>24}  {value}" for name, value in found.items() if name not in hidden]
        if self.changes is not None:
            lines += ["", *self._changed(found["changed_by_kind"])]
        if self.outcome.differences:
            lines += ["", *self._differing(found["differences_by_layer"])]
        return "\n".join(lines)

    def _differing(self, by_layer: dict[str, int]) -> list[str]:
        first = self.outcome.differences[0]
        counted = ", ".join(f"{count} of {layer}" for layer, count in by_layer.items())
        return [f"differences: {counted}", f"the first: {first.as_text()}", *_hint(by_layer)]

    def _changed(self, by_kind: dict[str, int]) -> list[str]:
        rows = [
            {
                "slice (UTC)": f"{streams.from_milliseconds(change.close_ms):%Y-%m-%d %H:%M}",
                "symbol": change.symbol,
                "recorded": change.recorded,
                "other models": change.other,
            }
            for change in (self.changes or [])[:SHOWN_MAX]
        ]
        counted = ", ".join(f"{count} {kind}" for kind, count in by_kind.items())
        lines = [f"changed: {counted}", table(rows)] if rows else ["nothing is decided otherwise"]
        hidden = len(self.changes or []) - len(rows)
        return [*lines, f"and {hidden} more: see --json"] if hidden else lines


def _hint(by_layer: dict[str, int]) -> list[str]:
    """Return where to look, when all differences lie in the later layers."""
    if not by_layer.keys() & {"features", "signals"}:
        return ["the signals are the same: the executor's settings or its code are others"]
    if "features" not in by_layer:
        return ["the features are the same: the models' code or library is another"]
    return []


def read(recorded: Recorded, state: StateFile | None = None) -> Recording:
    """Read a book from its beginning, or from a saved state on.

    Raises:
        InputError: what is needed of it is not there any more, or the state is another book's.
    """
    saved = _whole(recorded) if state is None else _saved(recorded, state)
    # a service's marks first: what it has read by then is there when the streams are read
    marks = {service: recorded.marks(service) for service in SERVICES}
    return Recording(
        book=recorded.book,
        entries={
            stream: [Delivery(stream, e.entry_id, e.fields) for e in recorded.entries(stream.name)]
            for stream in streams.STREAMS
        },
        contracts=recorded.contracts(),
        marks=marks,
        saved=saved,
    )


def _whole(recorded: Recorded) -> Saved:
    for stream in (streams.BARS, streams.ACCOUNT, streams.SIGNALS, streams.EXECUTIONS):
        info = recorded.info(stream.name)
        taken_out = int(info["entries-added"]) - int(info["length"]) if info is not None else 0
        if taken_out > 0:
            raise InputError(
                f"book {recorded.book}: {taken_out} entries were taken out of {stream.name}; a replay begins "
                "with the book, because the state comes from there; or give a saved one with --state"
            )
    return Saved()


def _saved(recorded: Recorded, state: StateFile) -> Saved:
    """Return the saved state, once it is sure that the book goes on where it ends."""
    if state.book != recorded.book:
        raise InputError(f"--state: it is of book {state.book}, not of {recorded.book}")
    for service, saved in state.services.items():
        now = recorded.marks(service)
        for name, mark in saved.marks.items():
            info = recorded.info(name)
            first = info["first-entry"] if info is not None else None
            if id_parts(now.get(name, "0-0")) < id_parts(mark):
                raise InputError(f"--state: {service} had read {name} up to {mark}, and now up to less")
            if first is None or id_parts(first[0]) > id_parts(mark):
                raise InputError(f"--state: the entries of {name} behind {mark} are not all there any more")
    return state.saved()


def asked(first: str | None, last: str | None) -> Range:
    """Return the slices that two ids name; whole slices, whatever the second part of an id."""
    found = Range(
        first_ms=id_parts(first)[0] if first else Range().first_ms,
        last_ms=id_parts(last)[0] if last else Range().last_ms,
    )
    if found.first_ms > found.last_ms:
        raise InputError(f"--from {first} lies behind --to {last}")
    return found


def run(
    recording: Recording, asked: Range, *, bundle: Path | None, recorded_in: Path, policies: Sequence[InForce]
) -> Result:
    """Replay a recording.

    Args:
        recording: the book.
        asked: slices to compare.
        bundle: other models than the recorded ones; None: those.
        recorded_in: the folder of the recorded models.
        policies: by what the executor decides.

    Raises:
        InputError: a setting or a bundle is wrong, or the bundle is not the one that was recorded.
        UnavailableError: the recording lacks what is needed.
    """
    configure_log("replay", level="ERROR", format="console", folder=None, secrets=())
    started_s = monotonic_s()
    models = load_bundle(recorded_in if bundle is None else bundle)
    _check(models, recording, is_other=bundle is not None)
    engine = Engine(models, policies, _slices_min(recording))
    outcome = asyncio.run(replay(recording, engine, asked, is_other=bundle is not None))
    found = None
    if outcome.other is not None:
        was, now = outcome.recorded, outcome.other
        found = changes(was.signals, was.decisions, now.signals, now.decisions)
    return Result(recording.book, outcome, found, models.manifest.name, monotonic_s() - started_s)


def recorded_bundle(*, of_demo: bool) -> Path:
    """Return where the recorded models should be: what is set, or the demo's own."""
    settings = load(InferenceSettings)
    if of_demo and "bundle_dir" not in settings.model_fields_set:
        from cli.demo import DemoOptions  # brings the whole demo along

        return DemoOptions().bundle
    return settings.bundle_dir


def recorded_policies(recording: Recording, before: Mapping[str, Any] | None = None) -> list[InForce]:
    """Return by what the executor decided, as it said at each of its starts.

    Args:
        recording: the book.
        before: the settings that held when the state was saved.

    Raises:
        InputError: it never said so, or a setting is none that this version knows.
    """
    found = [] if before is None else [InForce({}, _policy(recording.book, before))]
    for entry in recording.entries[streams.ORDERS]:
        if entry.fields["type"] == "PolicyAdopted":
            settings = orjson.loads(entry.fields["settings"])
            found.append(InForce(orjson.loads(entry.fields["inputs"]), _policy(recording.book, settings)))
    if not found:
        raise InputError(
            f"book {recording.book}: its executor did not say its settings; give --settings here"
        )
    return found


def policies_here(book: str) -> list[InForce]:
    """Return the policy of this machine's settings, whatever the recorded one was."""
    settings = load(ExecutorSettings)
    return [InForce({}, _policy(book, settings.deciding()))]


def _policy(book: str, settings: Mapping[str, Any]) -> Policy:
    defaults = {name: field.get_default() for name, field in ExecutorSettings.model_fields.items()}
    try:
        return ExecutorSettings.model_validate({**defaults, **settings, "book": book}).policy()
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        raise InputError(f"book {book}: its executor's {problem['loc']}: {problem['msg']}") from None


def _slices_min(recording: Recording) -> int:
    """Return after how many slices the first columns came."""
    features = recording.entries[streams.FEATURES]
    return int(features[0].fields["slices_seen"]) if features else 1


def _check(models: Bundle, recording: Recording, *, is_other: bool) -> None:
    """Refuse models that cannot run on this book, and those that are surely not the recorded ones."""
    manifest = models.manifest
    if manifest.symbols != recording.symbols:
        raise InputError(
            f"bundle {manifest.name} is of {', '.join(manifest.symbols)}, book {recording.book} of "
            f"{', '.join(recording.symbols)}: use one that was trained on them"
        )
    signals = recording.entries[streams.SIGNALS]
    used = {(entry.fields["bundle"], entry.fields["bundle_sha256"]) for entry in signals}
    if not is_other and used and (manifest.name, manifest.sha256) not in used:
        told = ", ".join(f"{name} ({sha256[:12]})" for name, sha256 in sorted(used))
        raise InputError(
            f"book {recording.book} was recorded with bundle {told}, and INFERENCE_BUNDLE_DIR is "
            f"{manifest.name} ({manifest.sha256[:12]}): set it to the recorded one, or ask with --bundle "
            "what others would decide"
        )
