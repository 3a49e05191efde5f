from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.bundle import show, verify, wrap
from cli.train import run
from services.inference.adapters import load_bundle, read_folder
from services.inference.bundle import ACTORS_FILE, MANIFEST, array_bytes, parse_manifest, read_arrays, seal
from shared.errors import InputError
from training.dataset import Dataset, split_of
from training.fit import PLUMBING, quick_plan
from training.pipeline import _choose, _draft, _fit_all
from training.trades import Market
from training.wrap import policy_tensors, write_folder


def test_the_same_training_gives_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    """Whoever doubts a bundle makes it again and compares."""
    run(None, tmp_path / "again", True, "plumbing")
    for name in ("actors.npz", "guard.txt", "probes.npz", "card.md"):
        assert (tmp_path / "again" / name).read_bytes() == (trained / name).read_bytes(), name


def test_a_trained_bundle_is_verified_against_sb3(trained: Path) -> None:
    """The plain actors say what SB3's own predict says, within 1e-6."""
    assert verify(trained) == {"ok": True, "problems": []}
    assert show(trained)["purpose"] == "plumbing"
    assert load_bundle(trained).manifest.name == "plumbing"


def test_actors_that_are_not_the_zips_are_noticed(trained: Path, tmp_path: Path) -> None:
    """A bundle whose checksums are right may still hold another model's weights."""
    files = read_folder(trained)
    arrays = read_arrays(files[ACTORS_FILE], ACTORS_FILE)
    arrays["alpha.weight_0"] = np.nextafter(arrays["alpha.weight_0"], np.float32(9))
    changed = {**files, ACTORS_FILE: array_bytes(arrays)}
    manifest = parse_manifest(changed.pop(MANIFEST))
    write_folder(seal(manifest, changed), tmp_path)
    found = verify(tmp_path)
    assert not found["ok"]
    assert any("alpha layer 0" in problem for problem in found["problems"])


def test_verify_says_what_is_wrong_and_does_not_raise(tmp_path: Path) -> None:
    """A command prints problems; a stack trace is no answer."""
    found = verify(tmp_path)
    assert not found["ok"]
    assert "manifest.json is missing" in found["problems"][0]


def test_a_policy_that_needs_unpickling_is_refused() -> None:
    """A zip from somewhere may run code when it is unpickled; ours are read as tensors only."""
    stored, archive = BytesIO(), BytesIO()
    torch.save({"alpha": Path("/")}, stored)
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("policy.pth", stored.getvalue())
    with pytest.raises(InputError, match=r"evil\.zip"):
        policy_tensors(archive.getvalue(), "evil.zip")


def test_models_from_elsewhere_are_wrapped(trained: Path, tmp_path: Path) -> None:
    """Your own models come in through one command, with their normaliser, or not at all."""
    files = read_folder(trained)
    manifest = json.loads(files[MANIFEST])
    manifest |= {"name": "mine", "purpose": "trading", "files": {}}
    description = tmp_path / "mine.json"
    description.write_text(json.dumps(manifest))
    normaliser = tmp_path / "normaliser.npz"
    normaliser.write_bytes(files[ACTORS_FILE])
    zips = (trained / "alpha.zip", trained / "risk.zip", trained / "guard.txt")
    out = tmp_path / "mine"
    assert wrap(*zips, description, out, normaliser_file=normaliser)["ok"]
    assert load_bundle(out).manifest.name == "mine"
    with pytest.raises(InputError, match="activation"):
        wrap(*zips, description, tmp_path / "relu", normaliser_file=normaliser, activation="relu")
    with pytest.raises(InputError, match=r"no\.zip"):
        wrap(tmp_path / "no.zip", *zips[1:], description, tmp_path / "none")
    assert not (tmp_path / "relu").exists()


def test_an_unknown_bundle_name_is_refused(tmp_path: Path) -> None:
    """The sentence lists the names there are."""
    with pytest.raises(InputError, match="plumbing"):
        run(None, tmp_path, True, "best")


def test_the_test_part_changes_nothing_that_is_chosen(dataset: Dataset) -> None:
    """Thresholds picked on the test would make every result look better than it is."""
    plan = replace(quick_plan(PLUMBING), slices=2_400)
    split = split_of(len(dataset.open_time_ms))
    points, rows = dataset.points.copy(), dataset.rows
    alpha = rows.alpha.copy()
    rng = np.random.default_rng(1)
    points[split.test.start :] += (
        70 * rng.integers(1, 9, size=points[split.test.start :].shape[:2])[..., None]
    )
    alpha[split.test.start :] *= -1
    other = replace(dataset, points=points, rows=replace(rows, alpha=alpha))
    found = []
    for each in (dataset, other):
        market = Market(each)
        draft = _draft(each, split, plan)
        models = _fit_all(market, split, plan, draft)
        chosen = _choose(market, split.validation, plan, models, draft)
        arrays = read_arrays(array_bytes({"w": models.alpha.layers[0].weight}), "")
        found.append(
            (chosen.decoding, chosen.guard_threshold, arrays["w"].tobytes(), models.parts.guard_text)
        )
    assert found[0] == found[1]
