"""A data set and a target so small that a stream takes a second."""

import dataclasses

import numpy as np
import pytest

from ghn.config import GHNConfig
from train.config import SpaceConfig
from train.continual import ContinualConfig, ScheduleConfig, StreamConfig
from train.data import DataConfig


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Four classes of 4 x 4 images, each bright in a quarter of its own."""
    rng = np.random.default_rng(0)
    labels = (np.arange(400) % 4).astype(np.uint8)
    images = rng.integers(0, 120, (400, 4, 4))
    for label in range(4):
        rows, columns = 2 * (label // 2), 2 * (label % 2)
        images[labels == label, rows : rows + 2, columns : columns + 2] += 100
    path = tmp_path_factory.mktemp("data") / "quarters.npz"
    images = images.astype(np.uint8)
    np.savez(path, x_train=images[:320], y_train=labels[:320], x_test=images[320:], y_test=labels[320:])
    return DataConfig(source=str(path), image_size=None, score_images=40)


@pytest.fixture(scope="session")
def config(data: DataConfig) -> ContinualConfig:
    return ContinualConfig(
        stream=StreamConfig(name="permuted", data=data, tasks=3),
        space=SpaceConfig(name="mlp", widths=(6, 12), depths=(1, 2)),
        target="12",
        ghn=GHNConfig(width=8, hidden=24, tile=8, propagation="none", decoder="chunks", residual=False, task_width=8),
        learning_rate=1e-2,
        schedule=ScheduleConfig(steps=40, batch=16, log_every=10, checkpoint_every=20, memory=12),
    )


@pytest.fixture(scope="session")
def split(config: ContinualConfig) -> ContinualConfig:
    stream = dataclasses.replace(config.stream, name="split", tasks=2)
    return dataclasses.replace(config, stream=stream)
