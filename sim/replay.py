"""A recorded book, played again through the handlers that run live.

Bars go through features and inference as they stand. The executor reads the signals among commands and
executions in the order that its own decisions tell of (`schedule.py`). What it decides is compared, entry by
entry, with what was recorded.

With another bundle each slice is decided on the recorded past: the executor stands as it stood then, with the
positions that were open then, and only this slice's signals are the other models'.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.executor.handlers import ExecutorHandlers
from services.executor.policy import Policy
from services.features.handlers import FeaturesHandlers
from services.features.schema import alpha_schema, guard_schema
from services.inference.bundle import Bundle
from services.inference.handlers import InferenceHandlers
from shared import streams
from shared.bus import Delivery
from shared.digest import decision_sha256, signal_sha256
from shared.errors import InputError, MeshError, UnavailableError
from shared.messages import BarClosed, CommandGiven, ExecutionReported, FeaturesComputed, SignalEmitted
from shared.runtime import Service, on
from shared.streams import id_parts
from sim.compare import ABSENT, Columns, Difference, Value, differences, slice_of
from sim.memory import Dead, MemoryBook, MemoryBus, Station
from sim.recording import Entries, Range, Recording, mark
from sim.schedule import Read, Step, schedule


@dataclass(frozen=True, slots=True)
class InForce:
    """A policy, and what had been read of each stream when it was adopted."""

    after: Mapping[str, str]
    policy: Policy

    def holds_for(self, step: Step) -> bool:
        """Whether a step was taken by it, or by one that was adopted later."""
        return step.entry > id_parts(self.after.get(step.stream.name, "0-0"))


@dataclass(frozen=True)
class Engine:
    """What a replay runs with; as it was live, or the result differs."""

    bundle: Bundle
    policies: Sequence[InForce]  # oldest first, at least one
    slices_min: int

    def policy_of(self, step: Step) -> Policy:
        """Return by what a step was taken."""
        held = [each.policy for each in self.policies if each.holds_for(step)]
        return held[-1] if held else self.policies[0].policy


@dataclass
class Replayed:
    """One run's entries of each layer, and what died."""

    features: list[Delivery] = field(default_factory=list)
    signals: list[Delivery] = field(default_factory=list)
    decisions: list[Delivery] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)

    def within(self, asked: Range, causes: Mapping[str, Step]) -> Replayed:
        """Return what belongs to a range of slices."""
        return Replayed(
            asked.of(self.features, causes),
            asked.of(self.signals, causes),
            asked.of(self.decisions, causes),
            self.dead,
        )

    @property
    def layers(self) -> dict[str, Entries]:
        """The entries by the name of their layer."""
        return {"features": self.features, "signals": self.signals, "decisions": self.decisions}

    @property
    def signal_sha256(self) -> str:
        """The fingerprint of what the models said."""
        return signal_sha256((entry.entry_id, entry.fields) for entry in self.signals)

    @property
    def decision_sha256(self) -> str:
        """The fingerprint of what was decided."""
        return decision_sha256(entry.fields for entry in self.decisions)


@dataclass(frozen=True)
class Outcome:
    """A replay beside what was recorded; both cut to the slices asked for."""

    recorded: Replayed
    replayed: Replayed
    differences: list[Difference]
    other: Replayed | None = None  # signals and decisions of another bundle
    slices: int = 0  # live ones
    slices_not_live: int = 0  # caught up on, at a start or after a lost connection


async def replay(recording: Recording, engine: Engine, asked: Range, *, is_other: bool = False) -> Outcome:
    """Play a recording from where it begins and compare the slices asked for.

    Args:
        recording: the book.
        engine: what it ran with live.
        asked: slices to compare; those before are played too, because the state comes from them.
        is_other: the bundle is not the recorded one: each slice is decided with it beside what was recorded.

    Raises:
        InputError: nothing was recorded that could be compared.
        UnavailableError: an entry that is needed is not there any more.
    """
    book = MemoryBook(recording.contracts)
    book.put(recording.entries[streams.ACCOUNT])
    recorded = recorded_run(recording)
    played = await _features(recording, engine, book)
    made = await _signals(recording, engine.bundle, book, played)
    said, others = (recorded.signals, made) if is_other else (made, [])
    decided = await _decisions(recording, engine, book, said, others)
    replayed = Replayed(played.features, list(said), decided.decisions, [*played.dead, *decided.dead])
    causes = recording.causes()
    was, now = recorded.within(asked, causes), replayed.within(asked, causes)
    symbols = recording.symbols
    columns = Columns(alpha_schema(symbols), guard_schema(symbols))
    slices = {slice_of(entry): entry.fields["live"] == "true" for entry in was.signals}
    if not slices:
        raise InputError(
            f"book {recording.book}: no signals were recorded of the slices asked for; see `streams ls`"
        )
    found = [*differences(was.layers, now.layers, columns, causes), *_dead_differences(recording, now.dead)]
    return Outcome(
        recorded=was,
        replayed=now,
        differences=found,
        other=Replayed([], others, decided.others).within(asked, causes) if is_other else None,
        slices=sum(slices.values()),
        slices_not_live=len(slices) - sum(slices.values()),
    )


def recorded_run(recording: Recording) -> Replayed:
    """Return what was recorded of each layer, as far as its inputs are committed."""
    features, signals = recording.entries[streams.FEATURES], recording.entries[streams.SIGNALS]
    causes, read = recording.causes(), recording.causes_read()
    saved_ms = mark(recording.saved.marks, "executor", streams.SIGNALS)[0]
    decisions = []
    for entry in recording.decisions:
        cause = entry.fields.get("causation_id")
        # a cause that is not there at all: taken out with what lies before the state, or missing
        if cause in read or (cause not in causes and slice_of(entry, causes) > saved_ms):
            decisions.append(entry)
    return Replayed(
        [each for each in features if recording.is_written_by("features", streams.BARS, each)],
        [each for each in signals if recording.is_written_by("inference", streams.FEATURES, each)],
        decisions,
    )


def _dead_differences(recording: Recording, dead: Sequence[Dead]) -> list[Difference]:
    """Return what died in one run alone."""
    replayed = {(each.service, each.entry.stream.name, each.entry.entry_id): each.error for each in dead}
    recorded = {
        (fields["group"], fields["stream"], fields["entry_id"]): fields["error"]
        for fields in (entry.fields for entry in recording.entries[streams.DEAD])
        if fields["group"] in ("features", "inference", "executor")
        and id_parts(fields["entry_id"])
        > id_parts(recording.saved.marks.get(fields["group"], {}).get(fields["stream"], "0-0"))
    }
    return [
        Difference(
            id_parts(key[2])[0],
            "dead",
            f"{key[1]} {key[2]}",
            Value("", f"{key[0]}'s error", recorded.get(key, ABSENT), replayed.get(key, ABSENT)),
            1,
        )
        for key in sorted(recorded.keys() ^ replayed.keys())
    ]


# --- features and inference ---------------------------------------------------------------------


async def _features(recording: Recording, engine: Engine, book: MemoryBook) -> Replayed:
    bus = MemoryBus(book)
    handlers = FeaturesHandlers(recording.symbols, bus, slices_min=engine.slices_min)
    service = Service(routes=(on(BarClosed, handlers.on_bar),), state=handlers)
    station = _begun(recording, Station("features", service, bus, recording.given_up("features")))
    written = await _run(station, recording.read_by("features", streams.BARS))
    return Replayed(features=written, dead=station.dead)


async def _signals(
    recording: Recording, bundle: Bundle, book: MemoryBook, played: Replayed
) -> list[Delivery]:
    bus = MemoryBus(book)
    handlers = InferenceHandlers(bundle)
    service = Service(routes=(on(FeaturesComputed, handlers.on_features),), state=handlers)
    station = _begun(recording, Station("inference", service, bus, recording.given_up("inference")))
    last_ms = recording.mark_ms("inference", streams.FEATURES)
    waiting = recording.not_read_when_saved("inference", streams.FEATURES, "features", streams.BARS)
    written = await _run(station, [e for e in (*waiting, *played.features) if slice_of(e) <= last_ms])
    played.dead += station.dead
    return [entry for entry in written if entry.stream is streams.SIGNALS]


def _begun(recording: Recording, station: Station) -> Station:
    saved = recording.saved
    station.begin(saved.states.get(station.name), saved.marks.get(station.name, {}))
    return station


async def _run(station: Station, entries: Entries) -> list[Delivery]:
    written: list[Delivery] = []
    for entry in entries:
        written += await _taken(station, entry)
    return [entry for entry in written if entry.stream is not streams.EVENTS]


async def _taken(station: Station, entry: Delivery) -> list[Delivery]:
    try:
        return await station.take(entry)
    except MeshError as error:
        raise UnavailableError(
            f"{station.name} cannot go on at {entry.stream.name} {entry.entry_id}: {error}"
        ) from error


# --- the executor -------------------------------------------------------------------------------


@dataclass
class _Decided:
    decisions: list[Delivery] = field(default_factory=list)
    others: list[Delivery] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)


async def _decisions(
    recording: Recording, engine: Engine, book: MemoryBook, signals: Entries, others: Entries
) -> _Decided:
    """Let the executor decide the signals; beside it another one the others, always from its state."""
    last_ms = recording.mark_ms("executor", streams.SIGNALS)
    waiting = recording.not_read_when_saved("executor", streams.SIGNALS, "inference", streams.FEATURES)
    slices, other_slices = _by_slice([*waiting, *signals], last_ms), _by_slice(others, last_ms)
    commands = {id_parts(e.entry_id): e for e in recording.read_by("executor", streams.COMMANDS)}
    executions = {id_parts(e.entry_id): e for e in recording.read_by("executor", streams.EXECUTIONS)}
    steps = _steps(recording, book, slices, engine)
    policy = engine.policy_of(steps[0]) if steps else engine.policies[0].policy
    spare = MemoryBook(book.contracts)
    spare.put(book.entries(streams.ACCOUNT))
    main = _begun(recording, executor_of(recording, policy, book))
    beside = executor_of(recording, policy, spare)
    decided = _Decided(dead=main.dead)
    for step in steps:
        if engine.policy_of(step) != policy:  # it was started again with other settings
            policy = engine.policy_of(step)
            main = _succeeded(main, executor_of(recording, policy, book))
            beside = executor_of(recording, policy, spare)
        if step.stream is streams.SIGNALS:
            close_ms = step.entry[0]
            if close_ms in other_slices:
                beside.become(main)
                for entry in other_slices[close_ms]:
                    decided.others += await _taken(beside, entry)
            for entry in slices[close_ms]:
                decided.decisions += await _taken(main, entry)
        else:
            entry = (commands if step.stream is streams.COMMANDS else executions)[step.entry]
            decided.decisions += await _taken(main, entry)
    decided.decisions = [e for e in decided.decisions if e.stream is streams.ORDERS]
    decided.others = [e for e in decided.others if e.stream is streams.ORDERS]
    return decided


def _succeeded(before: Station, station: Station) -> Station:
    """Return the executor that goes on where another one was stopped."""
    station.become(before)
    station.dead = before.dead
    return station


def executor_of(recording: Recording, policy: Policy, book: MemoryBook) -> Station:
    """Return an executor of a recording; it remembers nothing yet."""
    bus = MemoryBus(book)
    handlers = ExecutorHandlers(bus, policy)
    routes = (
        on(CommandGiven, handlers.on_command),
        on(ExecutionReported, handlers.on_execution),
        on(SignalEmitted, handlers.on_signal),
    )
    service = Service(routes=routes, state=handlers)
    return Station("executor", service, bus, recording.given_up("executor"))


def _by_slice(signals: Entries, last_ms: int) -> dict[int, list[Delivery]]:
    found: dict[int, list[Delivery]] = defaultdict(list)
    for entry in signals:
        if slice_of(entry) <= last_ms:
            found[slice_of(entry)].append(entry)
    return dict(found)


def _steps(
    recording: Recording, book: MemoryBook, slices: Mapping[int, Entries], engine: Engine
) -> list[Step]:
    commands = recording.read_by("executor", streams.COMMANDS)
    executions = recording.read_by("executor", streams.EXECUTIONS)
    accounts = {close_ms: entries[0].fields["account_id"] for close_ms, entries in slices.items()}
    return schedule(
        Read(
            commands=commands,
            executions=executions,
            slices=sorted(slices),
            execution_numbers={ms: book.account(at).execution_number for ms, at in accounts.items()},
            causes=recording.causes_read(),
            decisions=[*recording.decisions, *recording.announced()],
            starts=[each.after for each in engine.policies],
        )
    )
