"""Tiny data, and checkpoints of hypernetworks for it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import ghn
from tests.eval.rank.tiny import TINY, tiny
from train.data import DataConfig, Splits, load


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    labels = np.arange(120, dtype=np.uint8) % 10
    arrays = {
        "x_train": rng.integers(0, 256, (120, 6, 6), np.uint8),
        "y_train": labels,
        "x_test": rng.integers(0, 256, (40, 6, 6), np.uint8),
        "y_test": labels[:40],
    }
    np.savez(path, **arrays)
    return DataConfig(source=str(path), image_size=6, score_images=40)


@pytest.fixture(scope="module")
def splits(data: DataConfig) -> Splits:
    return load(data)


@pytest.fixture(scope="module")
def checkpoints(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    ghn.save_file(tiny(splits), folder / "ghn.safetensors")
    ghn.save_file(tiny(splits, dataclasses.replace(TINY, delta=False)), folder / "supernet.safetensors")
    ghn.save_file(tiny(splits, seed=1), folder / "other.safetensors")
    return folder
