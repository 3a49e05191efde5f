"""The model bundle: its manifest, and everything that is checked before one of its numbers is used.

A bundle is a folder of `manifest.json`, `alpha.zip` and `risk.zip` (SB3), `guard.txt` (LightGBM),
`actors.npz` (the actors as plain arrays) and `probes.npz` (inputs with the outputs of SB3's own predict).
Here it is a mapping of file names to bytes; the folder is opened in `adapters.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.inference.actors import Actor, Array, actor_from_arrays
from shared.errors import InputError
from shared.messages import OpenPosition

MANIFEST: Final = "manifest.json"
GUARD_FILE: Final = "guard.txt"
ACTORS_FILE: Final = "actors.npz"
PROBES_FILE: Final = "probes.npz"
CARD_FILE: Final = "card.md"
REQUIRED_FILES: Final = ("alpha.zip", "risk.zip", GUARD_FILE, ACTORS_FILE, PROBES_FILE)

ALPHA_INPUTS: Final = 140
RISK_INPUTS: Final = 165
GUARD_INPUTS: Final = 105
RISK_OUTPUTS: Final = 3
PROBE_TOLERANCE: Final = 1e-6
PROBES_MIN: Final = 8

SCHEMA_IDS: Final = {"alpha": "alpha-140/1", "risk": "risk-165/1", "guard": "guard-105/1"}
DEFAULT_SYMBOLS: Final = ("EURUSD", "GBPUSD", "USDJPY", "USDCHF", "XAUUSD")
# The hashes of the columns that run here, for the default symbols; a test holds them to those of the
# features. Other symbols have other hashes: each message is compared with the manifest anyway.
SCHEMA_TAGS: Final = {
    "alpha": "alpha-140/1:b2fbca72466258c2ab988082f2af0a8b301a9009cb00e2bf7cb91f8180dd755e",
    "risk": "risk-165/1:75208690cdf4d273c759db6a0638c4142d75a64d81d4613fcd506f4565f95e31",
    "guard": "guard-105/1:9deb25d0c40fc9308f4e7d34a20a1335a76f63c748dcf9a2eccc4a29a1da1f24",
}


class Frozen(BaseModel):
    """A part of the manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Decoding(Frozen):
    """How the actors' numbers become a direction, distances and a risk fraction."""

    alpha_threshold: float = Field(default=0.33, gt=0, lt=1)
    sl_mult_min: float = Field(default=0.2, gt=0, le=10)
    sl_mult_max: float = Field(default=2.0, gt=0, le=10)
    tp_mult_min: float = Field(default=0.5, gt=0, le=20)
    tp_mult_max: float = Field(default=4.0, gt=0, le=20)
    stop_floor_atr: float = Field(default=1.0, ge=0.5, le=10)
    stop_floor_spreads: float = Field(default=3.0, ge=1, le=20)
    risk_block_below: float = Field(default=0.2, ge=0, lt=1)
    max_risk_fraction: float = Field(default=0.005, gt=0, le=0.02)  # 0.02 is the hard limit
    risk_cap_min: float = Field(default=0.2, ge=0, le=1)
    risk_cap_slope: float = Field(default=2.0, ge=0, le=10)

    @model_validator(mode="after")
    def _ordered(self) -> Decoding:
        if self.sl_mult_min >= self.sl_mult_max or self.tp_mult_min >= self.tp_mult_max:
            raise ValueError("sl_mult_min and tp_mult_min must lie below their maxima")
        return self


class Policies(Frozen):
    """What the models were trained to expect of the executor."""

    open_position: OpenPosition = OpenPosition.HOLD  # the executor trades with no other


class Training(Frozen):
    """Where the models come from."""

    data: str
    data_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    first_bar: str  # open times, ISO 8601 UTC
    last_bar: str
    seed: int
    alpha_steps: int = Field(ge=0)
    risk_steps: int = Field(ge=0)


class Manifest(Frozen):
    """What a bundle is, and what must hold for it to run."""

    format: Literal["tradeguard-bundle/1"] = "tradeguard-bundle/1"
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,39}$")
    purpose: Literal["trading", "plumbing"]  # plumbing: made to trade often, not for money
    schemas: dict[str, str]  # layer -> id and hash: `alpha-140/1:<sha256>`
    symbols: tuple[str, ...]
    decoding: Decoding
    guard_threshold: float = Field(ge=0, le=1)
    policies: Policies
    training: Training
    costs: dict[str, str]  # what the trades of training and evaluation paid
    code_version: str
    metrics: dict[str, float]
    files: dict[str, str]  # name -> sha256

    @property
    def sha256(self) -> str:
        """The bundle's fingerprint: of this manifest, which holds the checksum of every file."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class Guard(Protocol):
    """The last layer: a row of columns in, the probability of a profit after costs out."""

    @property
    def inputs(self) -> int:
        """How many columns it was trained on."""

    def probability(self, columns: Array) -> float:
        """Return the probability that this trade ends in profit after costs."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Three models and how to read them. A layer that is None blocks every entry."""

    manifest: Manifest
    alpha: Actor | None
    risk: Actor | None
    guard: Guard | None


def parse_manifest(text: bytes) -> Manifest:
    """Return the manifest.

    Raises:
        InputError: a field is missing, unknown or out of range; the sentence names it.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{MANIFEST}: {field}: {first['msg']}: mend it or wrap the bundle again") from error


def check_files(manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Check that every file of the manifest is there, unchanged, and that none of ours is left out.

    Raises:
        InputError: a file is missing, unlisted or has another checksum.
    """
    for name in REQUIRED_FILES:
        if name not in manifest.files:
            raise InputError(f"{MANIFEST}: files does not list {name}: wrap the bundle again")
    for name, sha256 in manifest.files.items():
        if name not in files:
            raise InputError(f"{name} is missing: restore the whole folder of bundle {manifest.name}")
        found = hashlib.sha256(files[name]).hexdigest()
        if found != sha256:
            raise InputError(
                f"{name}: sha256 is {found[:12]}..., {MANIFEST} says {sha256[:12]}...: "
                f"restore the file of bundle {manifest.name} or wrap the bundle again"
            )


def check_schemas(manifest: Manifest, expected: Mapping[str, str] | None = None) -> None:
    """Check that the columns the models were trained on are those that run here.

    Args:
        manifest: what the bundle says.
        expected: layer -> tag; by default those of the default symbols, where the bundle has these.

    Raises:
        InputError: a schema is missing or differs.
    """
    if len(set(manifest.symbols)) != len(DEFAULT_SYMBOLS):
        raise InputError(f"{MANIFEST}: symbols: {len(DEFAULT_SYMBOLS)} different ones are needed")
    if expected is None:
        expected = SCHEMA_TAGS if manifest.symbols == DEFAULT_SYMBOLS else {}
    for layer, schema_id in SCHEMA_IDS.items():
        tag = manifest.schemas.get(layer, "none")
        if not tag.startswith(f"{schema_id}:") or tag != expected.get(layer, tag):
            raise InputError(
                f"{MANIFEST}: schemas.{layer} is {tag}, this code computes "
                f"{expected.get(layer, schema_id)}: train again with this version"
            )


def assemble(files: Mapping[str, bytes], make_guard: Callable[[str], Guard]) -> Bundle:
    """Return the bundle of a folder's files, everything checked.

    Args:
        files: name -> content.
        make_guard: makes the guard of its file's text, once that is known to be the right one.

    Raises:
        InputError: anything does not match; the sentence names the file, the field and the way out.
    """
    if MANIFEST not in files:
        raise InputError(f"{MANIFEST} is missing: name a folder that `tradeguard train` made")
    manifest = parse_manifest(files[MANIFEST])
    check_files(manifest, files)
    check_schemas(manifest)
    arrays = read_arrays(files[ACTORS_FILE], ACTORS_FILE)
    symbols = len(manifest.symbols)
    alpha = actor_from_arrays("alpha", arrays, inputs=ALPHA_INPUTS, outputs=symbols, where=ACTORS_FILE)
    risk = actor_from_arrays("risk", arrays, inputs=RISK_INPUTS, outputs=RISK_OUTPUTS, where=ACTORS_FILE)
    guard = make_guard(files[GUARD_FILE].decode("utf-8", errors="replace"))
    if guard.inputs != GUARD_INPUTS:
        raise InputError(
            f"{GUARD_FILE}: {guard.inputs} columns, wanted {GUARD_INPUTS}: train it on guard-105/1"
        )
    check_probes(read_arrays(files[PROBES_FILE], PROBES_FILE), alpha, risk, guard)
    return Bundle(manifest, alpha, risk, guard)


def read_arrays(content: bytes, where: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz file, nothing unpickled.

    Raises:
        InputError: it is not such a file, or holds objects.
    """
    try:
        with np.load(BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy and zipfile raise what they like on a broken file
        raise InputError(f"{where}: not an npz file of plain arrays ({error}): wrap again") from error


def check_probes(probes: Mapping[str, NDArray[Any]], alpha: Actor, risk: Actor, guard: Guard) -> None:
    """Check that the models give here what they gave where they were trained.

    Raises:
        InputError: probes are missing or too few, or an output differs by more than 1e-6.
    """
    shapes = {"alpha": (alpha.inputs, alpha.outputs), "risk": (risk.inputs, risk.outputs)}
    for layer, (inputs, outputs) in {**shapes, "guard": (guard.inputs, 1)}.items():
        given, wanted = (probes.get(f"{layer}.{end}") for end in ("inputs", "outputs"))
        if given is None or wanted is None:
            raise InputError(f"{PROBES_FILE}: {layer}.inputs or {layer}.outputs is missing: wrap again")
        rows = len(given) if given.ndim else 0
        if rows < PROBES_MIN or given.shape != (rows, inputs) or wanted.shape != (rows, outputs):
            raise InputError(
                f"{PROBES_FILE}: {layer}: shapes {given.shape} and {wanted.shape}, wanted "
                f"({PROBES_MIN} or more, {inputs}) and ({outputs} wide): wrap again"
            )
        given = given.astype(np.float64)
        match layer:
            case "alpha":
                found = alpha.act_batch(given)
            case "risk":
                found = risk.act_batch(given)
            case _:
                found = np.array([[guard.probability(row)] for row in given])
        worst = float(np.abs(found - wanted).max())
        if not worst <= PROBE_TOLERANCE:  # a NaN fails too
            raise InputError(
                f"{PROBES_FILE}: {layer} differs by {worst:.3g} from the recorded outputs, "
                f"at most {PROBE_TOLERANCE:g} is allowed: the model or the library changed, wrap again"
            )


def array_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return an npz file of plain arrays; the same arrays give the same bytes."""
    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: arrays[name] for name in sorted(arrays)})
    return buffer.getvalue()


def seal(manifest: Manifest, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a bundle with a manifest that holds the checksum of each."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())}
    sealed = manifest.model_copy(update={"files": sums})
    return {**files, MANIFEST: (sealed.model_dump_json(indent=2) + "\n").encode()}
