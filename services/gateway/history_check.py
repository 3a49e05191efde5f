"""Closed bars against the venue's own history: what was decided on must be what the venue says there was."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from services.gateway.bars import Slice
from services.gateway.context import Context
from services.gateway.refusals import VenueError
from services.gateway.session import Session
from services.gateway.slices import Bar
from shared.errors import UnavailableError
from shared.log import get_logger
from shared.messages import Severity
from shared.streams import from_milliseconds

log = get_logger("gateway.history_check")

# The volume counts quote changes, and a change of the ask alone shows with the next bid: one after the last
# bid of a bar is seen by the venue alone. How far the two counts may be apart is assumed; prices must agree.
VOLUME_TOLERANCE_TICKS = 2
VOLUME_TOLERANCE_FRACTION = 0.02
FIRST_LOOK_S = 2.0  # the newest bar may be missing in the history for a second
LOOK_AGAIN_S = 1.0
LOOKS = 5
PAUSE_S = 60.0  # of the machine: a market that is played fast is checked now and then


class HistoryCheck:
    """Looks up the bars of slices that were given out; one slice at a time."""

    def __init__(self, context: Context) -> None:
        self._line = context.line
        self._timing = context.timing
        self._background = context.background
        self._alarms = context.alarms
        self._not_before_s = 0.0
        self.checked = 0  # bars
        self.different = 0

    def expect(self, one: Slice) -> None:
        """Have a slice checked beside all else."""
        if self._timing.monotonic_s() >= self._not_before_s:
            self._not_before_s = self._timing.monotonic_s() + PAUSE_S
            self._background.spawn(partial(self._check, one))

    async def _check(self, one: Slice) -> None:
        await self._timing.sleep_venue(FIRST_LOOK_S)
        session = self._line.session
        if session is None:
            return
        try:
            kept = await self._history(session, one)
        except (UnavailableError, VenueError) as error:
            log.info("history_check.not_done", close_ms=one.close_ms, error=str(error))
            return
        found = [difference(bar, kept.get(bar.symbol)) for bar in one.bars]
        said = [text for text in found if text]
        self.checked += len(found)
        self.different += len(said)
        log.info("history_check.done", close_ms=one.close_ms, checked=self.checked, different=self.different)
        if said:
            at = from_milliseconds(one.open_time_ms)
            self._alarms.tell_soon(
                f"bars of {at:%Y-%m-%d %H:%M} differ from the venue's history: {'; '.join(said)}"
                f" ({self.different} of {self.checked} bars so far)",
                Severity.ERROR,
            )

    async def _history(self, session: Session, one: Slice) -> Mapping[str, Bar[int]]:
        """Return the slice's bars as the venue keeps them; asked again while it lacks one that we saw."""
        kept: dict[str, Bar[int]] = {}
        for look in range(LOOKS):
            if look:
                await self._timing.sleep(LOOK_AGAIN_S)
            for bar in one.bars:
                if bar.symbol not in kept and not (look and bar.synthetic):
                    past = await session.history(bar.symbol, 2, one.open_time_ms)
                    kept |= {p.symbol: p for p in past if p.open_time_ms == one.open_time_ms}
            if all(bar.symbol in kept or bar.synthetic for bar in one.bars):
                break
        return kept


def difference(seen: Bar[int], kept: Bar[int] | None) -> str | None:
    """Return in words how a bar that was given out differs from the venue's, or None."""
    if kept is None:
        return None if seen.synthetic else f"{seen.symbol}: the venue has none"
    if seen.synthetic:
        return f"{seen.symbol}: none was seen, the venue has one"
    wrong = [
        f"{name} {getattr(seen, name)} is {getattr(kept, name)}"
        for name in ("open", "high", "low", "close")
        if getattr(seen, name) != getattr(kept, name)
    ]
    tolerance = max(VOLUME_TOLERANCE_TICKS, VOLUME_TOLERANCE_FRACTION * kept.volume)
    if abs(seen.volume - kept.volume) > tolerance:
        wrong.append(f"volume {seen.volume} is {kept.volume}")
    return f"{seen.symbol}: {', '.join(wrong)}" if wrong else None
