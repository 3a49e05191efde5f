from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from services.inference.handlers import InferenceHandlers
from shared.errors import InvariantError
from shared.messages import EventReported, SignalEmitted, Verdict
from shared.streams import decode, encode
from tests.inference.small import a_bundle, a_row, a_slice


async def test_every_symbol_of_a_slice_gets_one_signal_in_order() -> None:
    """FLAT and BLOCKED ones too: the stream tells what was not done as well."""
    features = a_slice()
    signals = await InferenceHandlers(a_bundle()).on_features(features)
    assert all(isinstance(signal, SignalEmitted) for signal in signals)
    assert [s.symbol for s in signals] == [row.symbol for row in features.rows]  # type: ignore[attr-defined]
    assert [s.index for s in signals] == list(range(5))  # type: ignore[attr-defined]
    assert {s.slice_size for s in signals} == {5}  # type: ignore[attr-defined]
    assert len({s.meta.message_id for s in signals}) == 5
    assert {s.meta.causation_id for s in signals} == {features.meta.message_id}


async def test_the_same_slice_gives_the_same_signals() -> None:
    """A replay is compared bit for bit."""
    first = await InferenceHandlers(a_bundle()).on_features(a_slice())
    assert await InferenceHandlers(a_bundle()).on_features(a_slice()) == first


async def test_signals_come_back_from_the_stream_as_they_went() -> None:
    """Numbers are written as decimal text and must not lose a digit."""
    for signal in await InferenceHandlers(a_bundle()).on_features(a_slice()):
        assert decode(encode(signal)) == signal


async def test_an_inference_error_is_an_alarm() -> None:
    """A model that cannot answer must not look like a quiet market."""
    broken = a_bundle(risk=(0.0, 0.0, float("nan")))
    messages = await InferenceHandlers(broken).on_features(a_slice())
    events = [message for message in messages if isinstance(message, EventReported)]
    assert len(events) == 1
    assert "MODEL_ERROR" in events[0].text
    assert events[0].details["symbols"] == "EURUSD,GBPUSD,XAUUSD"
    assert not any(s.verdict == Verdict.ALLOW for s in messages if isinstance(s, SignalEmitted))


async def test_a_market_without_range_is_no_alarm() -> None:
    """A holiday is not a fault; it would ring all day."""
    rows = tuple(a_row(row.symbol, atr=0.0) for row in a_slice().rows)
    messages = await InferenceHandlers(a_bundle()).on_features(a_slice(rows=rows))
    assert len(messages) == 5


async def test_a_restored_state_goes_on_as_if_nothing_happened() -> None:
    """Persistence is a column of the guard, so the memory is part of every commit."""
    whole = InferenceHandlers(a_bundle())
    for _ in range(4):
        await whole.on_features(a_slice())
    again = InferenceHandlers(a_bundle())
    again.restore(whole.snapshot())
    assert again.snapshot() == whole.snapshot()
    assert await again.on_features(a_slice()) == await whole.on_features(a_slice())


async def test_an_empty_state_is_a_fresh_start() -> None:
    """`restore` forgets what was decided and not committed."""
    handlers = InferenceHandlers(a_bundle())
    await handlers.on_features(a_slice())
    handlers.restore(None)
    assert handlers.snapshot() == InferenceHandlers(a_bundle()).snapshot()


@pytest.mark.parametrize("data", [b"{", b'{"version": 2, "directions": {}}', b"[]"])
def test_an_unreadable_state_stops_the_service(data: bytes) -> None:
    """A guessed memory would make other decisions than the ones recorded."""
    with pytest.raises(InvariantError):
        InferenceHandlers(a_bundle()).restore(data)


@pytest.mark.process
def test_a_bundle_that_does_not_match_ends_the_process_with_status_2(tmp_path: Path) -> None:
    """A clear sentence and a status that a supervisor does not retry."""
    program = [sys.executable, "-m", "services.inference.main"]
    environment = {"INFERENCE_BUNDLE_DIR": str(tmp_path), "REDIS_URL": "redis://127.0.0.1:1/0"}
    found = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2, found.stderr
    assert "manifest.json is missing" in found.stderr
    assert "Traceback" not in found.stderr


def test_inference_needs_neither_torch_nor_sb3() -> None:
    """Small image, quick restart, and no pickle near live money."""
    check = (
        "import sys, services.inference.main; "
        "print([n for n in ('torch', 'stable_baselines3', 'gymnasium') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "[]", found.stderr
