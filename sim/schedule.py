"""In which order the executor read its three streams, as far as it matters: from what it wrote itself.

Every decision, and every answer to a command, names the last entry of each stream that was read when it was
made. Between two of them the order has left no trace, because it makes no difference: there the times of the
server decide. Pure.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import orjson

from shared import streams
from shared.bus import Delivery
from shared.errors import InvariantError
from shared.streams import Stream, id_parts

Id = tuple[int, int]

# at the same time the one that the executor reads first
READ = (streams.COMMANDS, streams.EXECUTIONS, streams.SIGNALS)


@dataclass(frozen=True, slots=True, order=True)
class Step:
    """One thing that the executor reads: a command, an execution, or all signals of a slice."""

    place: int  # of the stream in READ
    entry: Id  # a slice: (close in ms, 0)

    @property
    def stream(self) -> Stream:
        """Where it is read from."""
        return READ[self.place]


@dataclass(frozen=True, slots=True)
class Read:
    """What the executor had to read."""

    commands: Sequence[Delivery]
    executions: Sequence[Delivery]
    slices: Sequence[int]  # closes in ms
    execution_numbers: Mapping[int, int]  # of a slice's account: executions up to it were read before
    causes: Mapping[str, Step]  # what caused a decision, by message id
    decisions: Sequence[Delivery]  # and what was announced: all that names its cause and its inputs
    starts: Sequence[Mapping[str, str]] = ()  # what had been read, by stream, whenever the executor started


def causes_of(
    commands: Iterable[Delivery], executions: Iterable[Delivery], signals: Iterable[Delivery]
) -> dict[str, Step]:
    """Return which step a message belongs to, by its id."""
    found = {e.fields["message_id"]: Step(0, id_parts(e.entry_id)) for e in commands}
    found |= {e.fields["message_id"]: Step(1, id_parts(e.entry_id)) for e in executions}
    return found | {e.fields["message_id"]: Step(2, (id_parts(e.entry_id)[0], 0)) for e in signals}


def schedule(read: Read) -> list[Step]:
    """Return all steps in an order that agrees with every decision.

    Raises:
        InvariantError: there is none.
    """
    steps = [
        [Step(0, id_parts(entry.entry_id)) for entry in read.commands],
        [Step(1, id_parts(entry.entry_id)) for entry in read.executions],
        [Step(2, (close_ms, 0)) for close_ms in sorted(read.slices)],
    ]
    after = _orders(steps, read)
    return _sorted(steps, after, _times(steps, read))


def _orders(steps: Sequence[Sequence[Step]], read: Read) -> dict[Step, set[Step]]:
    """Return for each step those that came before it."""
    after: dict[Step, set[Step]] = {step: set() for chain in steps for step in chain}
    for chain in steps:
        for earlier, step in pairwise(chain):
            after[step].add(earlier)
    numbers = [int(entry.fields["number"]) for entry in read.executions]
    for step in steps[2]:
        count = bisect_right(numbers, read.execution_numbers.get(step.entry[0], 0))
        if count:
            after[step].add(steps[1][count - 1])
    for entry in read.decisions:
        cause = read.causes.get(entry.fields.get("causation_id", ""))
        if cause is None or cause not in after:
            continue
        last_ids = orjson.loads(entry.fields["inputs"])
        for place, (before, behind) in enumerate(_split(steps, last_ids)):
            if place != cause.place:
                after[cause] |= before
                for step in behind:
                    after[step].add(cause)
    for last_ids in read.starts:
        parts = _split(steps, last_ids)
        for place, (_, behind) in enumerate(parts):
            for step in behind:
                after[step] |= {each for k, (before, _) in enumerate(parts) if k != place for each in before}
    return after


def _split(
    steps: Sequence[Sequence[Step]], last_ids: Mapping[str, str]
) -> list[tuple[frozenset[Step], frozenset[Step]]]:
    """Return of each chain the last step up to an id, and the first one behind it, where there is one."""
    found = []
    for place, chain in enumerate(steps):
        count = bisect_right(chain, Step(place, id_parts(last_ids.get(READ[place].name, "0-0"))))
        found.append(
            (frozenset(chain[count - 1 : count] if count else ()), frozenset(chain[count : count + 1]))
        )
    return found


def _times(steps: Sequence[Sequence[Step]], read: Read) -> dict[Step, Id]:
    """Return when a step was taken by the server's clock; a slice without decisions: as soon as it could."""
    times = {step: step.entry for chain in steps[:2] for step in chain}
    decided: dict[Step, Id] = {}
    for entry in reversed(read.decisions):  # the first one of each
        cause = read.causes.get(entry.fields.get("causation_id", ""))
        if cause is not None:
            decided[cause] = id_parts(entry.entry_id)
    numbers = [int(entry.fields["number"]) for entry in read.executions]
    latest: Id = (0, 0)
    for step in steps[2]:
        count = bisect_right(numbers, read.execution_numbers.get(step.entry[0], 0))
        latest = max(latest, decided.get(step) or (steps[1][count - 1].entry if count else latest))
        times[step] = latest
    return times


def _sorted(
    steps: Sequence[Sequence[Step]], after: Mapping[Step, set[Step]], times: Mapping[Step, Id]
) -> list[Step]:
    waits = {step: len(before) for step, before in after.items()}
    then: dict[Step, list[Step]] = {step: [] for step in after}
    for step, befores in after.items():
        for before in befores:
            then[before].append(step)
    ready = [(times[step], step) for step, count in waits.items() if not count]
    heapq.heapify(ready)
    ordered = []
    while ready:
        _, step = heapq.heappop(ready)
        ordered.append(step)
        for following in then[step]:
            waits[following] -= 1
            if not waits[following]:
                heapq.heappush(ready, (times[following], following))
    if len(ordered) != len(after):
        stuck = min((times[step], step) for step, count in waits.items() if count)[1]
        raise InvariantError(
            f"{stuck.stream.name} {stuck.entry[0]}-{stuck.entry[1]}: what the decisions say was read before "
            "them cannot all be true"
        )
    return ordered
