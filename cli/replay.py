"""`tradeguard replay`: a recorded book decided again by the code that runs live, and what came out other."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cli.recorded import Recorded
from cli.streams import table
from services.executor.policy import Policy
from services.executor.settings import ExecutorSettings
from services.features.settings import FeaturesSettings
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
from sim.replay import Engine, Outcome, Range, Recording, replay

SERVICES: Final = ("features", "inference", "executor")
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
        return ["the signals are the same: are the executor's settings those it ran with?"]
    if "features" not in by_layer:
        return ["the features are the same: is it the bundle that was recorded?"]
    return []


def read(recorded: Recorded) -> Recording:
    """Read a book from its beginning.

    Raises:
        InputError: its beginning is not there any more.
    """
    for stream in (streams.BARS, streams.ACCOUNT, streams.SIGNALS, streams.EXECUTIONS):
        info = recorded.info(stream.name)
        taken_out = int(info["entries-added"]) - int(info["length"]) if info is not None else 0
        if taken_out > 0:
            raise InputError(
                f"book {recorded.book}: {taken_out} entries were taken out of {stream.name}; a replay begins "
                "with the book, because the state comes from there"
            )
    # a service's marks first: what it has read by then is there when the streams are read
    marks = {service: recorded.marks(service) for service in SERVICES}
    return Recording(
        book=recorded.book,
        entries={
            stream: [Delivery(stream, e.entry_id, e.fields) for e in recorded.entries(stream.name)]
            for stream in streams.STREAMS
            if stream is not streams.EVENTS
        },
        contracts=recorded.contracts(),
        marks=marks,
    )


def asked(first: str | None, last: str | None) -> Range:
    """Return the slices that two ids name; whole slices, whatever the second part of an id."""
    found = Range(
        first_ms=id_parts(first)[0] if first else Range().first_ms,
        last_ms=id_parts(last)[0] if last else Range().last_ms,
    )
    if found.first_ms > found.last_ms:
        raise InputError(f"--from {first} lies behind --to {last}")
    return found


def run(recording: Recording, asked: Range, *, bundle: Path | None, of_demo: bool) -> Result:
    """Replay a recording with the settings that the services would read now; of a demo, with the demo's.

    Raises:
        InputError: a setting or a bundle is wrong, or the bundle is not the one that was recorded.
        UnavailableError: the recording lacks what is needed.
    """
    configure_log("replay", level="ERROR", format="console", folder=None, secrets=())
    started_s = monotonic_s()
    settings = _settings(recording.book, of_demo=of_demo)
    models = load_bundle(settings.bundle_dir if bundle is None else bundle)
    _check(models, recording, is_other=bundle is not None)
    engine = Engine(models, settings.policy, settings.slices_min)
    outcome = asyncio.run(replay(recording, engine, asked, is_other=bundle is not None))
    found = None
    if outcome.other is not None:
        was, now = outcome.recorded, outcome.other
        found = changes(was.signals, was.decisions, now.signals, now.decisions)
    return Result(recording.book, outcome, found, models.manifest.name, monotonic_s() - started_s)


@dataclass(frozen=True)
class _Settings:
    bundle_dir: Path
    policy: Policy
    slices_min: int


def _settings(book: str, *, of_demo: bool) -> _Settings:
    """Read what the services read; a demo sets some of it itself, and so it is for what it has left.

    Raises:
        InputError: a setting is wrong; names it.
    """
    executor, inference = load(ExecutorSettings), load(InferenceSettings)
    bundle_dir = inference.bundle_dir
    changed: dict[str, Any] = {"book": book}
    if of_demo:
        from cli.demo import DemoOptions, environment  # a copy of the table could tell another story

        prefix = ExecutorSettings.model_config["env_prefix"]
        by_demo = environment(DemoOptions()).items()
        changed |= {k.removeprefix(prefix).lower(): v for k, v in by_demo if k.startswith(prefix)}
        if "bundle_dir" not in inference.model_fields_set:
            bundle_dir = DemoOptions().bundle
    policy = ExecutorSettings.model_validate({**executor.model_dump(), **changed}).policy()
    return _Settings(bundle_dir, policy, load(FeaturesSettings).slices_min)


def _check(models: Bundle, recording: Recording, *, is_other: bool) -> None:
    """Refuse models that cannot run on this book, and those that are surely not the recorded ones."""
    manifest = models.manifest
    if manifest.symbols != recording.symbols:
        raise InputError(
            f"bundle {manifest.name} is of {', '.join(manifest.symbols)}, book {recording.book} of "
            f"{', '.join(recording.symbols)}: use one that was trained on them"
        )
    names = {entry.fields["bundle"] for entry in recording.entries[streams.SIGNALS]}
    if not is_other and names and manifest.name not in names:
        raise InputError(
            f"book {recording.book} was recorded with bundle {', '.join(sorted(names))}, and "
            f"INFERENCE_BUNDLE_DIR is bundle {manifest.name}: set it to the recorded one, or ask with "
            "--bundle what others would decide"
        )
