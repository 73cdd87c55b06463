"""The batches of a run: functions of seed and step alone, without held-out classes."""

import dataclasses
from typing import Any

import jax
import numpy as np
import optax
import pytest

from architectures.spaces import Cell, MLPSpace, NASBench201
from ghn.api import Hypernetwork
from ghn.config import GHNConfig
from train.batches import BatchStream, draw_training
from train.config import SpaceConfig, TrainConfig
from train.data import AugmentConfig, DataConfig, Splits, load
from train.step import Batch

CONFIG = TrainConfig(
    space=SpaceConfig(channels=2),
    augment=AugmentConfig(crop=1, flip=True),
    ghn=GHNConfig(width=8, message_width=4, hidden=8, tile=8, delta=False),
    batch=8,
    meta_batch=2,
    held_out=0.5,
    seed=3,
)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    images = np.random.default_rng(0).integers(0, 256, (300, 12, 12), dtype=np.uint8)
    labels = (np.arange(300) % 3).astype(np.uint8)
    np.savez(path, x_train=images[:240], y_train=labels[:240], x_test=images[240:], y_test=labels[240:])
    return load(DataConfig(source=str(path), image_size=6, score_images=60))


@pytest.fixture(scope="module")
def hypernetwork() -> Hypernetwork:
    """Without parameters: a stream needs none."""
    space = NASBench201(channels=2, cells=1, input_shape=(6, 6, 1), classes=3)
    return Hypernetwork(space, CONFIG.ghn, parameters=None)  # type: ignore[arg-type]


def make_stream(hypernetwork: Hypernetwork, splits: Splits, **changes: Any) -> BatchStream:
    return BatchStream(dataclasses.replace(CONFIG, **changes), hypernetwork, splits.train)


def cells_of(hypernetwork: Hypernetwork, batch: Batch) -> list[Cell]:
    """Cells with the same encodings as those of a batch."""
    choices = hypernetwork.space.choices
    return [Cell(tuple(choices[op] for op in row)) for row in np.asarray(batch.encodings["op"])]


def equal(first: Batch, second: Batch) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, first, second)))


def test_a_batch_depends_on_seed_and_step_alone(hypernetwork: Hypernetwork, splits: Splits) -> None:
    stream = make_stream(hypernetwork, splits)
    unbroken = list(stream.iterate(0, 25))
    assert len(unbroken) == 25
    resumed = make_stream(hypernetwork, splits)
    for step, batch in zip(range(10, 25), resumed.iterate(10, 25), strict=True):
        assert equal(batch, unbroken[step])
    assert equal(resumed[4], unbroken[4])
    assert not any(equal(unbroken[0], batch) for batch in unbroken[1:])


def test_a_batch_has_the_shapes_asked_for(hypernetwork: Hypernetwork, splits: Splits) -> None:
    batch = make_stream(hypernetwork, splits)[0]
    assert batch.images.shape == (8, 6, 6, 1) and batch.images.dtype == np.float32
    assert batch.labels.shape == (8,) and batch.labels.dtype == np.int32
    assert batch.encodings["op"].shape == (2, 6)
    expected = int(np.prod(hypernetwork.space.schedule))
    assert batch.graphs.op_N.shape == (2, expected)
    assert batch.graphs.distances_NN.shape == (2, expected, expected)


@pytest.mark.parametrize("part", ["images", "labels", "encodings"])
def test_seeds_change_every_part(hypernetwork: Hypernetwork, splits: Splits, part: str) -> None:
    first, second = (make_stream(hypernetwork, splits, seed=seed) for seed in (3, 4))
    different = [
        not all(jax.tree.leaves(jax.tree.map(np.array_equal, getattr(first[step], part), getattr(second[step], part))))
        for step in range(5)
    ]
    assert sum(different) >= 4


def test_images_are_rows_of_the_train_split(hypernetwork: Hypernetwork, splits: Splits) -> None:
    stream = make_stream(hypernetwork, splits, augment=AugmentConfig(crop=0, flip=False))
    known = {image.tobytes(): label for image, label in zip(splits.train.images, splits.train.labels, strict=True)}
    assert len(known) == 180
    seen = set()
    for batch in stream.iterate(0, 22):  # one epoch
        for image, label in zip(np.asarray(batch.images), batch.labels, strict=True):
            assert known[image.tobytes()] == label
            seen.add(image.tobytes())
    assert len(seen) == 22 * 8


def test_augmentation_changes_images_and_nothing_else(hypernetwork: Hypernetwork, splits: Splits) -> None:
    plain = make_stream(hypernetwork, splits, augment=AugmentConfig(crop=0, flip=False))[1]
    augmented = make_stream(hypernetwork, splits)[1]
    assert equal(augmented._replace(images=plain.images), plain)
    assert not np.array_equal(augmented.images, plain.images)


def test_held_out_classes_are_never_drawn(hypernetwork: Hypernetwork, splits: Splits) -> None:
    space = hypernetwork.space
    drawn = [draw_training(space, np.random.default_rng((3, step)), CONFIG) for step in range(200)]
    assert not any(space.held_out(cell, 0.5) for cell in drawn)
    free = dataclasses.replace(CONFIG, held_out=0.0)
    assert any(space.held_out(draw_training(space, np.random.default_rng((3, s)), free), 0.5) for s in range(20))


def test_a_space_that_is_held_out_as_a_whole_is_told() -> None:
    space = MLPSpace(widths=(15,), depths=(1,))
    config = TrainConfig(held_out=0.1)
    assert space.held_out(space.sample(0), config.held_out, config.held_out_seed)
    with pytest.raises(ValueError, match=r"held_out=0\.1: keeps all of .* lower it or take another held_out_seed"):
        draw_training(space, np.random.default_rng(0), config)


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_streams_draw_no_held_out_class(hypernetwork: Hypernetwork, splits: Splits, sampling: str) -> None:
    """Seen from outside: the graphs of 200 steps are those of a stream whose rejected draws were held out."""
    space = hypernetwork.space
    stream = make_stream(hypernetwork, splits, sampling=sampling, augment=AugmentConfig(crop=0, flip=False))
    known: dict[bytes, Cell] = {}
    originals = []
    encoded = stream._encoded
    stream._encoded = lambda cell: originals.append(cell) or encoded(cell)  # type: ignore[method-assign,func-returns-value]
    for batch in stream.iterate(0, 200):
        for cell, row in zip(originals[-2:], batch.encodings["op"], strict=True):
            known[row.tobytes()] = cell
            np.testing.assert_array_equal(space.encode(cell)["op"], row)
    assert len(originals) == 400
    assert not any(space.held_out(cell, CONFIG.held_out, CONFIG.held_out_seed) for cell in originals)
    assert any(space.held_out(cell, CONFIG.held_out, 1) for cell in originals)  # another share is another share


def parameter_counts(hypernetwork: Hypernetwork, splits: Splits, sampling: str, **changes: Any) -> np.ndarray:
    """[steps, architectures] of a stream."""
    plain = AugmentConfig(crop=0, flip=False)
    stream = make_stream(hypernetwork, splits, sampling=sampling, augment=plain, **changes)
    steps = [cells_of(hypernetwork, batch) for batch in stream.iterate(0, 60)]
    return np.array([[hypernetwork.space.cost(cell).parameters for cell in cells] for cells in steps])


def test_sampling_prefers_the_sizes_that_it_names(hypernetwork: Hypernetwork, splits: Splits) -> None:
    uniform, large, small, balanced = (
        parameter_counts(hypernetwork, splits, sampling) for sampling in ("uniform", "large", "small", "balanced")
    )
    assert large.mean() > 1.1 * uniform.mean() > 1.1 * 1.1 * small.mean()
    lowest, highest = np.quantile(uniform, [0.1, 0.9])
    shares = [((counts <= lowest) | (counts >= highest)).mean() for counts in (balanced, uniform)]
    assert shares[0] > shares[1]  # the tails of the sizes are drawn more often


def test_sandwich_sampling_has_a_small_and_a_large_one(hypernetwork: Hypernetwork, splits: Splits) -> None:
    counts = parameter_counts(hypernetwork, splits, "sandwich", meta_batch=3)
    assert (counts[:, 0] <= counts[:, 2]).mean() > 0.75 and (counts[:, 1] >= counts[:, 2]).mean() > 0.75
    assert (counts[:, 0] <= counts[:, 1]).all()


def test_smoothed_labels_are_distributions(hypernetwork: Hypernetwork, splits: Splits) -> None:
    plain, smooth = (make_stream(hypernetwork, splits, label_smoothing=share)[1] for share in (0.0, 0.2))
    expected = optax.smooth_labels(jax.nn.one_hot(plain.labels, splits.train.classes), 0.2)
    np.testing.assert_allclose(smooth.labels, expected, rtol=1e-6)
