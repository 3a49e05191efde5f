"""A recorded book is decided again, bit for bit, and what is other is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import pytest

from services.executor.policy import Policy
from shared import streams
from shared.bus import Delivery
from shared.errors import InputError, UnavailableError
from shared.streams import Stream, id_parts
from sim.compare import changes
from sim.recording import Range, Recording
from sim.replay import recorded_run, replay
from tests.features.conftest import STEP_MS, a_market
from tests.inference.small import a_bundle
from tests.sim.builders import ALPHA, BOOK, Recorder, altered, an_engine, types_of
from venue.book import CONTRACTS

MARKET = a_market(360, flat=0.005)
FIRST_SIGNAL = 299  # the row of the first slice that signals are made of
WHOLE = Range()
SEEDS = range(6)


_RECORDED: dict[int, Recording] = {}  # nobody changes one


async def a_recording(seed: int = 1) -> Recording:
    print(f"seed {seed}")
    if seed not in _RECORDED:
        _RECORDED[seed] = await Recorder(MARKET, seed).run()
    return _RECORDED[seed]


def close_of(row: int) -> int:
    return int(MARKET.times[row]) + STEP_MS


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_was_recorded_comes_out_again(seed: int) -> None:
    """However the executor's three streams ran against each other: orders, refusals, closings, commands."""
    recording = await a_recording(seed)
    outcome = await replay(recording, an_engine(), WHOLE)
    assert [each.as_text() for each in outcome.differences] == []
    run = recorded_run(recording)
    assert outcome.replayed.signal_sha256 == run.signal_sha256
    assert outcome.replayed.decision_sha256 == run.decision_sha256
    assert outcome.slices == len(MARKET.times) - FIRST_SIGNAL
    assert {"OrderRequested", "EntryRefused"} <= types_of(run.decisions)


async def test_the_recordings_have_what_is_hard_in_them() -> None:
    """A test of the order of reading proves nothing of books where it makes no difference."""
    runs = [await a_recording(seed) for seed in SEEDS]
    found = [entry for recording in runs for entry in recording.entries[streams.ORDERS]]
    assert types_of(found) == {"OrderRequested", "EntryRefused", "CloseRequested"}
    reasons = {entry.fields.get("reason") for entry in found}
    assert {"PAUSED", "HALTED", "FLATTENING", "ASSET_LOCKED", "FLATTEN"} <= reasons
    assert all(recording.entries[streams.COMMANDS] for recording in runs)


async def test_one_bar_altered_by_a_tick_is_named() -> None:
    """Symbol, slice, layer, column and by how much; what came before it stays the same."""
    recording = await a_recording()
    row = FIRST_SIGNAL + 20
    bar = recording.entries[streams.BARS][5 * row]
    high = str(Decimal(bar.fields["high"]) + CONTRACTS["EURUSD"].tick)
    outcome = await replay(altered(recording, 5 * row, high=high), an_engine(), WHOLE)
    first = outcome.differences[0]
    assert (first.close_ms, first.layer, first.value.symbol) == (close_of(row), "features", "EURUSD")
    text = first.as_text()
    at = streams.from_milliseconds(close_of(row))
    assert text.startswith(f"slice closed {at:%Y-%m-%d %H:%M} UTC, EURUSD, features: column EURUSD.")
    assert "recorded " in text
    assert "differs by " in text


async def test_other_limits_are_seen_in_the_decisions_alone() -> None:
    """The layer says whose fault it is."""
    recording = await a_recording()
    outcome = await replay(recording, an_engine(open_positions_max=1), WHOLE)
    assert {each.layer for each in outcome.differences} == {"decisions"}


async def test_each_slice_is_decided_by_the_settings_of_its_time() -> None:
    """An executor that is started again with other limits leaves a book that is still decided again."""
    recorder = Recorder(MARKET, 1, restarts={320: Policy(book=BOOK, open_positions_max=1)})
    recording = await recorder.run()
    engine = an_engine()
    outcome = await replay(recording, replace(engine, policies=recorder.in_force), WHOLE)
    assert [each.as_text() for each in outcome.differences] == []
    first = (await replay(recording, engine, WHOLE)).differences[0]
    assert first.close_ms > id_parts(recorder.in_force[-1].after["signals"])[0]


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_saved_state_is_as_good_as_the_beginning(seed: int) -> None:
    """Wherever each service stood when it was saved; what lies before is not looked at any more."""
    print(f"seed {seed}")
    recorder = Recorder(MARKET, seed, save_at=330)
    recording = await recorder.run()
    cut_off = {stream: list(entries) for stream, entries in recording.entries.items()}
    executor_ms = id_parts(recording.saved.marks["executor"]["signals"])[0]
    for stream, from_ms in ((streams.BARS, close_of(329)), (streams.ACCOUNT, executor_ms)):
        cut_off[stream] = [e for e in cut_off[stream] if id_parts(e.entry_id)[0] >= from_ms]
    found = replace(recording, entries=cut_off)
    outcome = await replay(found, an_engine(), WHOLE)
    assert [each.as_text() for each in outcome.differences] == []
    assert outcome.slices == len(MARKET.times) - 330
    run = recorded_run(found)
    assert outcome.replayed.decision_sha256 == run.decision_sha256
    assert run.decisions
    altered_book = altered(found, 5 * 5 + 1, tick_volume="9999")
    assert (await replay(altered_book, an_engine(), WHOLE)).differences


async def test_another_model_is_seen_in_the_signals_first() -> None:
    """Features are what they were; the first signal field that differs is named."""
    recording = await a_recording()
    outcome = await replay(recording, an_engine(a_bundle((0.8, *ALPHA[1:]))), WHOLE)
    first = outcome.differences[0]
    assert (first.close_ms, first.layer) == (close_of(FIRST_SIGNAL), "signals")
    assert first.value.as_text() == "alpha_action: recorded 0.9, replayed 0.8, differs by -0.1"


async def test_a_range_is_compared_with_the_state_of_all_that_came_before() -> None:
    """Its fingerprint is the recorded one of the same slices; differences outside of it are not its own."""
    recording = await a_recording()
    asked = Range(close_of(310), close_of(330))
    outcome = await replay(recording, an_engine(), asked)
    assert outcome.slices == 21
    assert not outcome.differences
    assert outcome.replayed.decision_sha256 == outcome.recorded.decision_sha256
    assert outcome.replayed.decision_sha256 != recorded_run(recording).decision_sha256
    later = altered(recording, 5 * 340, tick_volume="9999")
    assert not (await replay(later, an_engine(), asked)).differences
    assert (await replay(later, an_engine(), WHOLE)).differences


async def test_the_same_bundle_changes_nothing() -> None:
    """Asked what other models would decide, those that were recorded decide the same."""
    recording = await a_recording()
    outcome = await replay(recording, an_engine(), WHOLE, is_other=True)
    assert outcome.other
    was, now = outcome.recorded, outcome.other
    assert changes(was.signals, was.decisions, now.signals, now.decisions) == []


async def test_another_bundle_decides_each_slice_on_the_recorded_past() -> None:
    """One symbol turned round, one left out, all others as they were; what was recorded still holds."""
    recording = await a_recording()
    outcome = await replay(recording, an_engine(a_bundle((-0.9, -0.9, 0.0, -0.6, 0.1))), WHOLE, is_other=True)
    assert outcome.other
    assert not outcome.differences
    was, now = outcome.recorded, outcome.other
    found = changes(was.signals, was.decisions, now.signals, now.decisions)
    assert {each.symbol for each in found} == {"EURUSD", "USDJPY"}
    assert {each.other for each in found if each.symbol == "USDJPY"} == {"flat"}
    turned = [each for each in found if each.recorded.startswith("order") and each.symbol == "EURUSD"]
    assert turned
    for each in turned:
        assert each.recorded.startswith("order LONG")
        assert each.other.startswith("order SHORT")
        assert each.kind == "another order"


def cut(recording: Recording, **marks: Mapping[str, str]) -> Recording:
    return replace(recording, marks={**recording.marks, **marks})


async def test_what_is_not_committed_yet_is_not_compared() -> None:
    """A running book is read while its services are in the middle of a slice."""
    recording = await a_recording()
    mark_ms = close_of(340)
    ids = {"signals": f"{mark_ms}-4", "executions": "0-0", "commands": "0-0"}
    read = {
        entry.fields["message_id"] for entry in recording.entries[streams.SIGNALS][: 5 * (341 - FIRST_SIGNAL)]
    }
    orders = [e for e in recording.entries[streams.ORDERS] if e.fields["causation_id"] in read]
    bars = {"bars": f"{close_of(345)}-4"}
    behind = cut(recording, executor=ids, inference={"features": f"{mark_ms}-0"}, features=bars)
    assert len(recorded_run(behind).decisions) == len(orders)
    assert len(recorded_run(behind).signals) == 5 * (341 - FIRST_SIGNAL)
    assert len(recorded_run(behind).features) == 346 - FIRST_SIGNAL


def with_entries(recording: Recording, **entries: list[Delivery]) -> Recording:
    changed: dict[Stream, list[Delivery]] = {
        stream: entries[stream.name] for stream in streams.STREAMS if stream.name in entries
    }
    return replace(recording, entries={**recording.entries, **changed})


async def test_a_decision_that_is_missing_or_too_many_is_a_difference() -> None:
    """Not only what both runs have is compared."""
    recording = await a_recording()
    orders = list(recording.entries[streams.ORDERS])
    fewer = await replay(with_entries(recording, orders=orders[:-1]), an_engine(), WHOLE)
    assert [each.value.recorded for each in fewer.differences] == ["nothing"]
    shorter = with_entries(recording, signals=list(recording.entries[streams.SIGNALS])[:-1])
    lost = await replay(shorter, an_engine(), WHOLE)
    assert [(each.layer, each.value.recorded) for each in lost.differences] == [("signals", "nothing")]


async def test_a_dead_entry_dies_again_and_a_new_death_is_a_difference() -> None:
    """Its slice is left out as it was live, and the next ones go on."""
    recording = await a_recording()
    row = FIRST_SIGNAL + 5
    broken = altered(recording, 5 * row + 4, high="no price")
    outcome = await replay(broken, an_engine(), WHOLE)
    dead = [each for each in outcome.differences if each.layer == "dead"]
    assert [each.entry for each in dead] == [f"bars {close_of(row)}-4"]
    assert dead[0].value.recorded == "nothing"


async def test_an_account_entry_that_is_gone_is_said() -> None:
    """A book that was trimmed cannot be replayed, and the sentence says where."""
    recording = await a_recording()
    accounts = [e for e in recording.entries[streams.ACCOUNT] if id_parts(e.entry_id)[0] != close_of(320)]
    with pytest.raises(UnavailableError, match=f"features cannot go on at bars {close_of(320)}-4"):
        await replay(with_entries(recording, account=accounts), an_engine(), WHOLE)


async def test_nothing_to_compare_is_no_success() -> None:
    """Zero differences in zero slices would say that all is well."""
    recording = await a_recording()
    with pytest.raises(InputError, match="no signals were recorded"):
        await replay(recording, an_engine(), Range(last_ms=close_of(5)))
    empty = with_entries(recording, bars=[])
    with pytest.raises(InputError, match="no bars"):
        await replay(empty, an_engine(), WHOLE)
