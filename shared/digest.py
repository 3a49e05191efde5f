"""Two fingerprints of a run: what the models said, and what was decided. Pure.

Backtest, replay and live print both; equal fingerprints mean equal decisions, to the last digit written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

SIGNAL_FIELDS = (
    "symbol",
    "direction",
    "verdict",
    "reason",
    "alpha_action",
    "sl_mult",
    "tp_mult",
    "risk_knob",
    "risk_fraction",
    "stop_distance",
    "target_distance",
    "guard_probability",
)
DECISION_FIELDS = (  # no ids, no clocks
    "type",
    "symbol",
    "direction",
    "reason",
    "volume_units",
    "stop_distance",
    "target_distance",
    "risk_fraction",
    "equity",
    "reserved_margin",
    "bound_by",
)


def signal_sha256(entries: Iterable[tuple[str, Mapping[str, str]]]) -> str:
    """Return the fingerprint of signals: (entry id, fields as written), in id order."""
    return _sha256(
        (entry_id, *(fields.get(name, "") for name in SIGNAL_FIELDS)) for entry_id, fields in entries
    )


def decision_sha256(entries: Iterable[Mapping[str, str]]) -> str:
    """Return the fingerprint of what was decided: fields as written, in the stream's order.

    How often the executor was started, and said by what it decides, is no decision.
    """
    decisions = (fields for fields in entries if fields["type"] != "PolicyAdopted")
    return _sha256(tuple(fields.get(name, "") for name in DECISION_FIELDS) for fields in decisions)


def _sha256(rows: Iterable[tuple[str, ...]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update("\x1f".join(row).encode() + b"\x1e")
    return digest.hexdigest()
