"""`tradeguard train`: from nothing, or a folder of bars, to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shared.errors import InputError


def run(data: Path | None, out: Path, quick: bool, name: str) -> dict[str, Any]:
    """Train a bundle and return {bundle, metrics, report}.

    Args:
        data: folder of bars; None for the random market, which needs no files.
        out: the bundle's folder.
        quick: seconds instead of minutes; shows that everything fits together and nothing more.
        name: `default` or `plumbing`.

    Raises:
        InputError: the name is neither, or the data are not what is needed.
    """
    from training.fit import PLANS, quick_plan  # torch takes seconds to import: here, where it is needed
    from training.pipeline import train_bundle

    if name not in PLANS:
        raise InputError(f"bundle {name!r}: choose one of {', '.join(PLANS)}")
    plan = PLANS[name]
    return train_bundle(data, out, quick_plan(plan) if quick else plan)
