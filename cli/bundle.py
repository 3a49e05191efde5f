"""`tradeguard bundle verify|show|wrap`: what stands in a bundle, and whether it may run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from services.features.schema import alpha_schema, guard_schema, risk_schema
from services.inference.actors import ACTIVATIONS, Activation, Normaliser
from services.inference.adapters import load_bundle, read_folder
from services.inference.bundle import (
    ALPHA_INPUTS,
    MANIFEST,
    RISK_INPUTS,
    check_schemas,
    parse_manifest,
    read_arrays,
)
from shared.errors import InputError

_SAMPLES = 64


def verify(folder: Path) -> dict[str, Any]:
    """Return {ok, problems}: everything inference checks, and the SB3 zips against the plain actors."""
    problems: list[str] = []
    try:
        files = read_folder(folder)
        manifest = parse_manifest(files[MANIFEST])
        check_schemas(manifest, schema_tags(manifest.symbols))
        load_bundle(folder)
        from training.wrap import check_against_sb3  # torch takes seconds to import

        problems += check_against_sb3(files)
    except InputError as error:
        problems.append(str(error))
    return {"ok": not problems, "problems": problems}


def show(folder: Path) -> dict[str, Any]:
    """Return the manifest as plain values.

    Raises:
        InputError: there is none, or it is not readable.
    """
    shown: dict[str, Any] = parse_manifest(read_folder(folder)[MANIFEST]).model_dump(mode="json")
    return shown


def schema_tags(symbols: tuple[str, ...]) -> dict[str, str]:
    """Return the tags of the columns that this version computes for these symbols."""
    schemas = {"alpha": alpha_schema(symbols), "risk": risk_schema(symbols), "guard": guard_schema(symbols)}
    return {layer: schema.tag for layer, schema in schemas.items()}


def wrap(
    alpha_zip: Path,
    risk_zip: Path,
    guard_txt: Path,
    manifest_file: Path,
    out: Path,
    *,
    normaliser_file: Path | None = None,
    activation: str = "tanh",
) -> dict[str, Any]:
    """Make a bundle of models trained elsewhere and return what `verify` says of it.

    Args:
        alpha_zip: SB3 PPO, MlpPolicy, 140 columns in, one number a symbol out.
        risk_zip: SB3 PPO, MlpPolicy, 165 columns in, three numbers out.
        guard_txt: LightGBM text, binary, 105 columns in.
        manifest_file: the manifest as JSON; `files` may be empty, the checksums are filled in here.
        out: the bundle's folder.
        normaliser_file: npz with alpha.mean, alpha.variance, risk.mean, risk.variance, and for each
            optionally .epsilon (1e-8) and .clip (10); None where the models take raw observations.
        activation: of the hidden layers, `tanh` (SB3's default) or `relu`.

    Raises:
        InputError: a file is not what it should be; nothing is written then.
    """
    from training.wrap import Parts, make_files, write_folder

    manifest = parse_manifest(_read(manifest_file))
    check_schemas(manifest, schema_tags(manifest.symbols))
    known: dict[str, Activation] = {name: name for name in ACTIVATIONS}
    if activation not in known:
        raise InputError(f"activation {activation!r}: choose one of {', '.join(known)}")
    parts = Parts(
        _read(alpha_zip),
        _read(risk_zip),
        _read(guard_txt).decode("utf-8", errors="replace"),
        _normaliser(normaliser_file, "alpha", ALPHA_INPUTS),
        _normaliser(normaliser_file, "risk", RISK_INPUTS),
        known[activation],
    )
    rng = np.random.default_rng(0)
    widths = {"alpha": ALPHA_INPUTS, "risk": RISK_INPUTS, "guard": 105}
    samples = {name: rng.normal(size=(_SAMPLES, width)).astype(np.float32) for name, width in widths.items()}
    card = f"# Bundle {manifest.name}\n\nWrapped from models that were trained elsewhere.\n"
    write_folder(make_files(parts, manifest, samples, card), out)
    return verify(out)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    return path.read_bytes()


def _normaliser(path: Path | None, name: str, width: int) -> Normaliser:
    """Return the normaliser of a file; without one, that which changes nothing."""
    if path is None:
        return Normaliser(np.zeros(width), np.ones(width), 1e-300, 1e30)
    arrays = read_arrays(_read(path), path.name)
    for part in ("mean", "variance"):
        found = arrays.get(f"{name}.{part}")
        if found is None or found.shape != (width,):
            raise InputError(f"{path}: {name}.{part} must have shape ({width},)")
    return Normaliser(
        arrays[f"{name}.mean"].astype(np.float64),
        arrays[f"{name}.variance"].astype(np.float64),
        float(arrays.get(f"{name}.epsilon", np.array(1e-8))),
        float(arrays.get(f"{name}.clip", np.array(10.0))),
    )
