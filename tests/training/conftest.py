from __future__ import annotations

from pathlib import Path

import pytest

from training.dataset import Dataset, synthetic_dataset
from training.trades import Market


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return synthetic_dataset(5, slices=2_400)


@pytest.fixture(scope="session")
def market(dataset: Dataset) -> Market:
    return Market(dataset)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the quick training; it knows nothing, but it is whole."""
    from cli.train import run

    folder = tmp_path_factory.mktemp("trained") / "bundle"
    run(None, folder, True, "plumbing")
    return folder
