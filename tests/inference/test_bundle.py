from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from services.features import schema
from services.inference import bundle as b
from services.inference.adapters import LightGuard, load_bundle
from shared.errors import InputError
from tests.inference.small import a_guard_text, a_manifest, small_files, write


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return small_files()


def resealed(files: dict[str, bytes], **manifest_changes: Any) -> dict[str, bytes]:
    """Return the files with right checksums again, so that only what is inside is wrong."""
    manifest = b.parse_manifest(files[b.MANIFEST]).model_copy(update=manifest_changes)
    return b.seal(manifest, {name: content for name, content in files.items() if name != b.MANIFEST})


def test_a_whole_bundle_loads(tmp_path: Path, files: dict[str, bytes]) -> None:
    """What was sealed is what loads."""
    bundle = load_bundle(write(tmp_path, files))
    assert bundle.manifest.name == "small-1"
    assert bundle.alpha is not None
    assert bundle.alpha.outputs == 5


def test_the_schema_hashes_are_those_that_the_features_compute() -> None:
    """Inference may not import features, so its copy of the hashes is held here."""
    symbols = b.DEFAULT_SYMBOLS
    assert {
        "alpha": schema.alpha_schema(symbols).tag,
        "risk": schema.risk_schema(symbols).tag,
        "guard": schema.guard_schema(symbols).tag,
    } == b.SCHEMA_TAGS


@pytest.mark.parametrize("name", [*b.REQUIRED_FILES, b.MANIFEST])
def test_a_missing_file_is_named(tmp_path: Path, files: dict[str, bytes], name: str) -> None:
    """A half copied bundle must not trade with what happens to be there."""
    folder = write(tmp_path, files)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        load_bundle(folder)


@pytest.mark.parametrize("name", b.REQUIRED_FILES)
def test_a_changed_byte_is_noticed(tmp_path: Path, files: dict[str, bytes], name: str) -> None:
    """A checksum stands over every file, those that inference does not read too."""
    content = bytearray(files[name])
    content[len(content) // 2] ^= 1
    with pytest.raises(InputError, match=f"{name}: sha256"):
        load_bundle(write(tmp_path, {**files, name: bytes(content)}))


def test_an_unlisted_file_of_ours_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    """A file without a checksum would be a file without a check."""
    manifest = json.loads(files[b.MANIFEST])
    del manifest["files"]["guard.txt"]
    folder = write(tmp_path, {**files, b.MANIFEST: json.dumps(manifest).encode()})
    with pytest.raises(InputError, match=r"does not list guard\.txt"):
        load_bundle(folder)


def test_another_schema_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    """Columns in another order give numbers that look right and are not."""
    tags = {**b.SCHEMA_TAGS, "guard": "guard-105/1:" + "0" * 64}
    with pytest.raises(InputError, match=r"schemas\.guard"):
        load_bundle(write(tmp_path, resealed(files, schemas=tags)))


def test_probes_that_do_not_come_out_are_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    """Equal checksums do not prove that this machine's libraries compute what training did."""
    for layer in ("alpha", "risk", "guard"):
        probes = b.read_arrays(files[b.PROBES_FILE], b.PROBES_FILE)
        probes[f"{layer}.outputs"] = probes[f"{layer}.outputs"] + 2e-6
        broken = resealed({**files, b.PROBES_FILE: b.array_bytes(probes)})
        with pytest.raises(InputError, match=f"{layer} differs"):
            load_bundle(write(tmp_path / layer, broken))


def test_too_few_probes_are_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    """An empty list of probes would prove nothing and pass."""
    probes = {k: v[:0] for k, v in b.read_arrays(files[b.PROBES_FILE], b.PROBES_FILE).items()}
    with pytest.raises(InputError, match="alpha: shapes"):
        load_bundle(write(tmp_path, resealed({**files, b.PROBES_FILE: b.array_bytes(probes)})))


def test_pickled_arrays_are_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    """Unpickling runs code; a model file must not."""
    path = tmp_path / "objects.npz"
    np.savez(path, **{"alpha.mean": np.array([{}], dtype=object)})  # type: ignore[arg-type]
    broken = resealed({**files, b.ACTORS_FILE: path.read_bytes()})
    with pytest.raises(InputError, match="plain arrays"):
        load_bundle(write(tmp_path / "bundle", broken))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("guard_threshold", 1.5),
        ("guard_threshold", float("nan")),
        ("decoding", {"alpha_threshold": 0.0}),
        ("decoding", {"max_risk_fraction": 0.021}),
        ("decoding", {"sl_mult_min": 3.0}),
        ("policies", {"open_position": "average down"}),
        ("name", "Not A Name"),
        ("surprise", 1),
    ],
)
def test_a_manifest_out_of_range_is_refused_by_field(field: str, value: object) -> None:
    """The hard limit of 2 % a trade and the other ranges hold before anything runs."""
    values = {**a_manifest().model_dump(mode="json"), field: value}
    with pytest.raises(InputError, match=field):
        b.parse_manifest(json.dumps(values).encode())


def test_a_file_name_with_a_path_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    """A manifest must not make us read outside its folder."""
    manifest = json.loads(files[b.MANIFEST])
    manifest["files"]["../secret"] = "0" * 64
    with pytest.raises(InputError, match="is a path"):
        load_bundle(write(tmp_path, {**files, b.MANIFEST: json.dumps(manifest).encode()}))


def test_the_guard_gives_what_the_library_gives() -> None:
    """The prepared single-row call is a shortcut, not another prediction."""
    text = a_guard_text()
    guard, booster = LightGuard(text), lightgbm.Booster(model_str=text)
    rows = np.random.default_rng(6).normal(size=(200, 105))
    found = np.array([guard.probability(row) for row in rows])
    np.testing.assert_array_equal(found, booster.predict(rows, num_threads=1))
    assert [guard.probability(row) for row in rows[::-1]] == found[::-1].tolist()


@pytest.mark.parametrize("text", ["", "tree\nnot a model"])
def test_a_guard_that_is_no_model_is_refused(text: str) -> None:
    """The sentence names the file instead of a library's stack."""
    with pytest.raises(InputError, match=r"guard\.txt"):
        LightGuard(text)


def test_a_guard_row_of_another_length_is_refused() -> None:
    """The C call would read past the end of it."""
    with pytest.raises(InputError, match="guard"):
        LightGuard(a_guard_text()).probability(np.zeros(104))
