"""Small runs that the tests of the loop share."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from loop_runs import quick_loss

import ghn
import train.step
from ghn.config import GHNConfig
from train import loop
from train.config import SpaceConfig, TrainConfig
from train.data import AugmentConfig, DataConfig

CACHE_SETTINGS = {
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Every program of this module is compiled once, by whichever process comes first."""
    folder = tmp_path_factory.mktemp("cache")
    before = {name: getattr(jax.config, name) for name in CACHE_SETTINGS}
    for name, value in {**CACHE_SETTINGS, "jax_compilation_cache_dir": str(folder)}.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield folder
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    images = np.random.default_rng(0).integers(0, 256, (300, 12, 12), dtype=np.uint8)
    labels = (np.arange(300) % 3).astype(np.uint8)
    np.savez(path, x_train=images[:240], y_train=labels[:240], x_test=images[240:], y_test=labels[240:])
    return TrainConfig(
        space=SpaceConfig(name="mlp", widths=(4, 8), depths=(1, 2)),  # compiles in a second or two
        data=DataConfig(source=str(path), image_size=6, score_images=60),
        augment=AugmentConfig(crop=0, flip=False),
        ghn=GHNConfig(width=8, message_width=4, hidden=8, tile=8),
        steps=6,
        batch=8,
        log_every=1,
        checkpoint_every=2,
    )


@pytest.fixture(scope="module")
def unbroken(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ghn.Hypernetwork]:
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    return run, loop.train(config, run)


@pytest.fixture(scope="module")
def light(config: TrainConfig) -> TrainConfig:
    """For the tests of the loop alone: few leaves, lines of metrics and checkpoints in different rhythms."""
    return dataclasses.replace(config, ghn=dataclasses.replace(config.ghn, delta=False), log_every=3)


@pytest.fixture
def quick() -> Iterator[None]:
    """The real step, optimiser and loop on a loss that compiles at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.step, "loss_fn", quick_loss)
        yield


@pytest.fixture(scope="module")
def whole(light: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quick run that nothing interrupted."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.step, "loss_fn", quick_loss)
        loop.train(light, run)
    return run
