"""Turns the columns of a slice into one signal a symbol, FLAT and BLOCKED ones too."""

from __future__ import annotations

from types import MappingProxyType

import orjson

from services.inference.bundle import Bundle
from services.inference.chain import ALARMS, Memory, Opinion, judge_slice
from shared.errors import InvariantError
from shared.messages import EventReported, FeaturesComputed, Message, Severity, SignalEmitted, SymbolRow

STATE_VERSION = 1


class InferenceHandlers:
    """Three models in a row; the only memory is Alpha's own last directions."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._bundle_sha256 = bundle.manifest.sha256
        self._memory = Memory()

    async def on_features(self, features: FeaturesComputed) -> list[Message]:
        """Return all signals of the slice, in symbol order, and an alarm for what went wrong."""
        opinions, self._memory = judge_slice(features, self._bundle, self._memory)
        pairs = list(zip(features.rows, opinions, strict=True))
        signals = [self._signal(features, k, row, opinion) for k, (row, opinion) in enumerate(pairs)]
        troubles: dict[str, list[str]] = {}
        for row, opinion in pairs:
            if opinion.reason in ALARMS:
                troubles.setdefault(f"{opinion.reason}: {opinion.detail}", []).append(row.symbol)
        return [*signals, *(_alarm(features, text, symbols) for text, symbols in troubles.items())]

    def snapshot(self) -> bytes:
        """Return Alpha's last directions as JSON."""
        return orjson.dumps({"version": STATE_VERSION, "directions": dict(self._memory.directions)})

    def restore(self, data: bytes | None) -> None:
        """Become the state of the last commit.

        Raises:
            InvariantError: the state is not one that this version wrote.
        """
        if not data:
            self._memory = Memory()
            return
        try:
            state = orjson.loads(data)
            if state["version"] != STATE_VERSION:
                raise InvariantError(f"inference state of version {state['version']}: start a fresh book")
            directions = {str(s): tuple(int(d) for d in past) for s, past in state["directions"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvariantError(f"inference state is not readable ({error}): start a fresh book") from error
        self._memory = Memory(MappingProxyType(directions))

    def _signal(
        self, features: FeaturesComputed, index: int, row: SymbolRow, opinion: Opinion
    ) -> SignalEmitted:
        manifest = self._bundle.manifest
        return SignalEmitted(
            meta=features.meta.effect(SignalEmitted, row.symbol),
            symbol=row.symbol,
            index=index,
            slice_size=len(features.rows),
            close_time=features.close_time,
            live=features.live,
            account_id=features.account_id,
            bundle=manifest.name,
            bundle_sha256=self._bundle_sha256,
            direction=opinion.direction,
            verdict=opinion.verdict,
            reason=opinion.reason,
            alpha_action=opinion.alpha_action,
            alpha_threshold=manifest.decoding.alpha_threshold,
            sl_mult=opinion.sl_mult,
            tp_mult=opinion.tp_mult,
            risk_knob=opinion.risk_knob,
            risk_fraction=opinion.risk_fraction,
            stop_distance=opinion.stop_distance,
            target_distance=opinion.target_distance,
            guard_probability=opinion.guard_probability,
            guard_threshold=manifest.guard_threshold,
            close=row.close,
            atr=row.atr,
            bid=row.bid,
            ask=row.ask,
            synthetic=row.synthetic,
            real_bars=row.real_bars,
            open_position=manifest.policies.open_position,
        )


def _alarm(features: FeaturesComputed, text: str, symbols: list[str]) -> EventReported:
    return EventReported(
        meta=features.meta.effect(EventReported, f"inference:{text}:{','.join(symbols)}"),
        service="inference",
        kind="alarm",
        severity=Severity.ERROR,
        text=f"no entry in {', '.join(symbols)}: {text}",
        details={"symbols": ",".join(symbols), "close_time": features.close_time.isoformat()},
    )
