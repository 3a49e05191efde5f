"""The doors of inference: the bundle's folder and LightGBM."""

from __future__ import annotations

import ctypes
from pathlib import Path
from threading import Lock

import lightgbm
import numpy as np

from services.inference.actors import Array
from services.inference.bundle import GUARD_FILE, MANIFEST, Bundle, assemble, parse_manifest
from shared.errors import InputError

_NATIVE = lightgbm.basic._LIB
_FLOAT64 = 1  # C_API_DTYPE_FLOAT64
_PREDICT_NORMAL = 0  # C_API_PREDICT_NORMAL: the probability
_ALL_TREES = -1


class LightGuard:
    """A LightGBM guard, one row at a time through the C API's prepared call.

    `Booster.predict` prepares itself anew on every call, which costs three times the prediction and has
    a long tail. One thread, so that a row always gives the same bits.
    """

    def __init__(self, model_text: str) -> None:
        """Make the guard of a model's text.

        Raises:
            InputError: the text is not a binary LightGBM model.
        """
        try:
            self._booster = lightgbm.Booster(model_str=model_text)
        except lightgbm.basic.LightGBMError as error:
            raise InputError(
                f"{GUARD_FILE}: not a LightGBM model ({error}): train the guard again"
            ) from error
        if "objective=binary" not in model_text or self._booster.num_model_per_iteration() != 1:
            raise InputError(f"{GUARD_FILE}: not a binary model: train it with objective 'binary'")
        self._inputs = int(self._booster.num_feature())
        self._row = np.zeros(self._inputs, dtype=np.float64)
        self._row_pointer = self._row.ctypes.data_as(ctypes.c_void_p)
        self._out = ctypes.c_double()
        self._length = ctypes.c_int64()
        self._lock = Lock()  # the row and the answer are one buffer each
        self._call = ctypes.c_void_p()
        status = _NATIVE.LGBM_BoosterPredictForMatSingleRowFastInit(
            self._booster._handle,
            ctypes.c_int(_PREDICT_NORMAL),
            ctypes.c_int(0),
            ctypes.c_int(_ALL_TREES),
            ctypes.c_int(_FLOAT64),
            ctypes.c_int32(self._inputs),
            ctypes.c_char_p(b"num_threads=1"),
            ctypes.byref(self._call),
        )
        if status != 0:
            raise InputError(f"{GUARD_FILE}: LightGBM refuses to predict: train the guard again")

    def __del__(self) -> None:
        """Give the prepared call back."""
        if getattr(self, "_call", None):
            _NATIVE.LGBM_FastConfigFree(self._call)

    @property
    def inputs(self) -> int:
        """How many columns it was trained on."""
        return self._inputs

    def probability(self, columns: Array) -> float:
        """Return the probability that this trade ends in profit after costs.

        Raises:
            InputError: the row has another length, or the library reports an error.
        """
        if columns.shape != self._row.shape:
            raise InputError(f"guard: a row of {columns.shape}, wanted {self._row.shape}")
        with self._lock:
            self._row[:] = columns
            status = _NATIVE.LGBM_BoosterPredictForMatSingleRowFast(
                self._call, self._row_pointer, ctypes.byref(self._length), ctypes.byref(self._out)
            )
            if status != 0 or self._length.value != 1:
                raise InputError(f"guard: LightGBM failed with status {status}")
            return float(self._out.value)


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return the files that a bundle's manifest lists, and the manifest.

    Raises:
        InputError: there is no such folder, or its manifest is missing or names a path.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{MANIFEST} is missing: name a folder that `tradeguard train` made")
    files = {MANIFEST: path.read_bytes()}
    for name in parse_manifest(files[MANIFEST]).files:
        if Path(name).name != name:
            raise InputError(f"{MANIFEST}: files: {name!r} is a path, not a name: wrap the bundle again")
        if (folder / name).is_file():
            files[name] = (folder / name).read_bytes()
    return files


def load_bundle(folder: Path) -> Bundle:
    """Return the bundle in a folder, everything checked.

    Raises:
        InputError: anything is missing or does not match; the sentence names it and the way out.
    """
    try:
        return assemble(read_folder(folder), LightGuard)
    except InputError as error:
        raise InputError(f"bundle {folder}: {error}") from error
