"""Splits are disjoint, balanced, normalised and reproducible; checks name the fault; batches resume exactly."""

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from train.data import (
    CIFAR10_CLASSES,
    FASHION_MNIST_CLASSES,
    DataConfig,
    DataError,
    Dataset,
    Splits,
    batch_indices,
    batches,
    check_images,
    check_labels,
    check_provenance,
    load,
    read_npz,
)
from train.data.draws import permutation

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"

# What this package drew when it was written: a change here changes every recorded run.
GOLDEN_BATCH = [9, 6, 4, 8, 7]
GOLDEN_SCORE_LABELS = "5d6c0b6de1329be5"

Array = npt.NDArray[np.uint8]


def marked_images(count: int, *shape: int, first: int = 0) -> Array:
    """Images that differ from each other: the first two bytes hold the number of the image."""
    images = np.random.default_rng(first).integers(0, 256, (count, int(np.prod(shape))), dtype=np.uint8)
    number = np.arange(first, first + count)
    images[:, 0], images[:, 1] = number // 256, number % 256
    return images.reshape(count, *shape)


def pixels(dataset: Dataset) -> Array:
    """The pixels 0..255 of a split that was not pooled."""
    values = np.rint((dataset.images * np.array(dataset.std) + np.array(dataset.mean)) * 255)
    return np.asarray(values, np.uint8)


def keys(dataset: Dataset) -> Counter[bytes]:
    return Counter(image.tobytes() for image in pixels(dataset))


def write_npz(path: Path, count: int = 60, classes: int = 3, shape: tuple[int, ...] = (6, 6)) -> Path:
    labels = (np.arange(count + 12) * 7 % classes).astype(np.uint8)
    images = marked_images(count + 12, *shape)
    np.savez(path, x_train=images[:count], y_train=labels[:count], x_test=images[count:], y_test=labels[count:])
    return path


def write_idx_folder(folder: Path) -> Path:
    folder.mkdir()
    for part, count, first in (("train", 40, 0), ("t10k", 10, 40)):
        images, labels = marked_images(count, 4, 4, first=first), (np.arange(count) % 4).astype(np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            header = (0x800 + array.ndim).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in array.shape)
            (folder / name).write_bytes(header + array.tobytes())
    return folder


def write_cifar_folder(folder: Path, with_test: bool) -> Path:
    folder.mkdir()
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + (["test_batch.bin"] if with_test else [])
    for number, name in enumerate(names):
        images = marked_images(20, 32 * 32 * 3, first=20 * number)  # in planes: red, green, blue
        labels = (np.arange(20) % 10).astype(np.uint8)
        (folder / name).write_bytes(np.concatenate([labels[:, None], images], axis=1).tobytes())
    return folder


@pytest.fixture(scope="module")
def embedded() -> Splits:
    return load(DataConfig())


def small(count: int = 10, classes: int = 3) -> Dataset:
    images = np.arange(count * 4, dtype=np.float32).reshape(count, 2, 2, 1)
    labels = np.arange(count, dtype=np.int32) % classes
    return Dataset("small", images, labels, classes, (0.0,), (1.0,), tuple("abc"[:classes]))


def test_embedded_splits(embedded: Splits) -> None:
    sizes = {"train": 4000, "score": 1000, "test": 1000}
    for part, size in sizes.items():
        dataset: Dataset = getattr(embedded, part)
        assert dataset.images.shape == (size, 14, 14, 1)
        assert [dataset.images.dtype.name, dataset.labels.dtype.name] == ["float32", "int32"]
        assert dataset.name == f"fashion-mnist-5k/{part}"
        assert dataset.class_names == FASHION_MNIST_CLASSES
        assert (dataset.mean, dataset.std) == (embedded.train.mean, embedded.train.std)
        np.testing.assert_array_equal(np.bincount(dataset.labels), np.full(10, size // 10))
        check_images(dataset.images, (14, 14, 1))
        check_labels(dataset.labels, dataset.classes)
        with pytest.raises(ValueError, match="read-only"):
            dataset.images[0] = 0
    np.testing.assert_allclose(embedded.train.images.mean(dtype=np.float64), 0, atol=1e-5)
    np.testing.assert_allclose(embedded.train.images.std(dtype=np.float64), 1, atol=1e-5)


def test_splits_partition_the_training_file_and_follow_the_seed(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz")
    config = DataConfig(str(path), image_size=None, score_images=9)
    splits = load(config)
    train, score, test = keys(splits.train), keys(splits.score), keys(splits.test)
    assert not train & score
    assert not (train + score) & test
    images, labels = read_npz(path)
    assert train + score == Counter(image.tobytes() for image in images)
    np.testing.assert_array_equal(np.bincount(splits.score.labels), [3, 3, 3])
    by_image = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    for dataset in (splits.train, splits.score):
        assert [by_image[image.tobytes()] for image in pixels(dataset)] == dataset.labels.tolist()
    np.testing.assert_array_equal(pixels(splits.test), read_npz(path, "test")[0])
    again, other = load(config), load(replace(config, seed=1))
    assert again.provenance == splits.provenance
    np.testing.assert_array_equal(again.score.images, splits.score.images)
    assert keys(other.score) != score
    uneven = load(replace(config, score_images=11))
    np.testing.assert_array_equal(np.bincount(uneven.score.labels), [4, 4, 3])


def test_the_draw_is_fixed_across_versions(embedded: Splits) -> None:
    assert batch_indices(10, 5, 0, 0).tolist() == GOLDEN_BATCH
    assert str(embedded.provenance["score_labels_sha256"])[:16] == GOLDEN_SCORE_LABELS


def test_pooling_is_the_exact_average_and_the_statistics_are_those_of_train(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", shape=(6, 6, 2))
    splits = load(DataConfig(str(path), image_size=2, score_images=9))
    raw = read_npz(path, "test")[0].reshape(12, 2, 3, 2, 3, 2).mean(axis=(2, 4)) / 255
    expected = (raw - np.array(splits.test.mean)) / np.array(splits.test.std)
    np.testing.assert_allclose(splits.test.images, expected, rtol=1e-5, atol=1e-6)
    full = load(DataConfig(str(path), image_size=None, score_images=9))
    train = pixels(full.train).reshape(-1, 2, 3, 2, 3, 2).mean(axis=(2, 4)) / 255
    np.testing.assert_allclose(splits.train.mean, train.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(splits.train.std, train.std(axis=(0, 1, 2)), rtol=1e-12)


def test_a_constant_channel_stays_finite(tmp_path: Path) -> None:
    x, y = np.full((6, 2, 2), 7, np.uint8), np.arange(6) % 2
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    splits = load(DataConfig(str(tmp_path / "a.npz"), image_size=None, score_images=2))
    assert splits.train.std == (1.0,)
    np.testing.assert_allclose(splits.train.images, 0, atol=1e-7)


def test_idx_folder(tmp_path: Path) -> None:
    folder = write_idx_folder(tmp_path / "digits")
    splits = load(DataConfig(str(folder), image_size=2, score_images=8, test_images=6))
    shapes = [dataset.images.shape for dataset in (splits.train, splits.score, splits.test)]
    assert shapes == [(32, 2, 2, 1), (8, 2, 2, 1), (6, 2, 2, 1)]
    assert splits.test.labels.tolist() == [0, 1, 2, 3, 0, 1]
    assert splits.train.class_names == ("0", "1", "2", "3")
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte: found no such file"):
        load(DataConfig(str(folder), image_size=2, score_images=8))
    write_cifar_folder(tmp_path / "both", with_test=False)
    (tmp_path / "both" / "train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match="both idx files and CIFAR-10"):
        load(DataConfig(str(tmp_path / "both")))


def test_cifar_folder_without_a_test_batch(tmp_path: Path) -> None:
    folder = write_cifar_folder(tmp_path / "cifar", with_test=False)
    splits = load(DataConfig(str(folder), image_size=None, score_images=5))
    number = {part: marker(getattr(splits, part)) for part in ("train", "score", "test")}
    assert number == {"train": list(range(75)), "score": list(range(75, 80)), "test": list(range(80, 100))}
    assert splits.train.class_names == CIFAR10_CLASSES
    assert splits.provenance["layout"] == "cifar-10 without test_batch"
    with pytest.raises(DataError, match=r"score_images: found 21; expected 1\.\.20"):
        load(DataConfig(str(folder), image_size=None, score_images=21))
    (folder / "data_batch_2.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_2\.bin: found no such file"):
        load(DataConfig(str(folder), image_size=None, score_images=5))


def test_cifar_folder_with_a_test_batch(tmp_path: Path) -> None:
    folder = write_cifar_folder(tmp_path / "cifar", with_test=True)
    splits = load(DataConfig(str(folder), image_size=16, score_images=20))
    assert splits.train.images.shape == (80, 16, 16, 3)
    np.testing.assert_array_equal(np.bincount(splits.score.labels), np.full(10, 2))
    full = load(DataConfig(str(folder), image_size=None, score_images=20))
    assert marker(full.test) == list(range(100, 120))
    assert sorted(marker(full.train) + marker(full.score)) == list(range(100))


def marker(dataset: Dataset) -> list[int]:
    """The numbers that marked_images wrote: the first two bytes of the red plane."""
    head = pixels(dataset)[:, 0, :2, 0].astype(int)
    return (head[:, 0] * 256 + head[:, 1]).tolist()  # type: ignore[no-any-return]


def test_sources_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    for name, found in (
        ("none", "no such file or folder"),
        ("empty", "neither idx files nor"),
        ("a.txt", "not named .npz"),
    ):
        with pytest.raises(DataError) as caught:
            load(DataConfig(str(tmp_path / name)))
        for part in (str(tmp_path / name), found, "expected", "fashion-mnist-5k"):
            assert part in str(caught.value)
    path = write_npz(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"image_size: found 4, .* sizes that work: 1, 2, 3, 6 \(or None for 6\)"):
        load(DataConfig(str(path), image_size=4, score_images=9))
    with pytest.raises(DataError, match="takes 20 of the 20 training images of class 0"):
        load(DataConfig(str(path), image_size=None, score_images=60))
    wide = write_npz(tmp_path / "wide.npz", shape=(4, 6))
    with pytest.raises(DataError, match=r"the images of .* are 4x6; expected square"):
        load(DataConfig(str(wide), image_size=2, score_images=9))
    x, y = marked_images(6, 2, 2), np.arange(6) % 2
    np.savez(tmp_path / "b.npz", x_train=x, y_train=y, x_test=x, y_test=y + 1)
    with pytest.raises(DataError, match=r"b\.npz test labels: found 2 at index 1; expected whole numbers 0\.\.1"):
        load(DataConfig(str(tmp_path / "b.npz"), image_size=None, score_images=2))
    np.savez(tmp_path / "c.npz", x_train=x, y_train=y, x_test=x[:, :1], y_test=y)
    with pytest.raises(DataError, match=r"found test images of shape \(1, 2, 1\); expected \(2, 2, 1\)"):
        load(DataConfig(str(tmp_path / "c.npz"), image_size=None, score_images=2))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, 2_000_000_000], "found none of class 3, but labels up to 2000000000"),
        ([0, 2, 4], "found none of class 1, but labels up to 4"),
        ([1, 2, 3], "found none of class 0, but labels up to 3"),
    ],
)
def test_every_class_up_to_the_largest_label_has_images(tmp_path: Path, labels: list[int], message: str) -> None:
    y = np.repeat(labels, 4)
    x = marked_images(len(y), 2, 2)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    with pytest.raises(DataError, match=f"a.npz train labels: {message}; expected"):
        load(DataConfig(str(tmp_path / "a.npz"), image_size=None, score_images=3))


def test_homes_of_unknown_users_are_named() -> None:
    with pytest.raises(DataError, match="~nosuchuser/x: found no home folder"):
        load(DataConfig("~nosuchuser/x"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("image_size", 0), ("score_images", 0), ("test_images", 0), ("seed", -1), ("image_size", 14.0), ("seed", None)],
)
def test_config_is_checked(field: str, value: object) -> None:
    with pytest.raises(DataError, match=f"{field}: found {value}; expected a whole number"):
        DataConfig(**{field: value})  # type: ignore[arg-type]


def test_provenance_refuses_changed_data(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz")
    config = DataConfig(str(path), image_size=None, score_images=9)
    first = load(config).provenance
    recorded = json.loads(json.dumps(first))
    check_provenance(first, recorded)
    with np.load(path) as opened:
        arrays = {name: opened[name].copy() for name in opened.files}
    arrays["x_test"][0, 0, 0] ^= 1
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=r"test_images_sha256: found .*, recorded ") as caught:
        check_provenance(load(config).provenance, recorded)
    assert "train_images_sha256" not in str(caught.value)
    with pytest.raises(DataError, match="seed: found 1, recorded 0"):
        check_provenance(load(replace(config, seed=1)).provenance, recorded)
    with pytest.raises(DataError, match=r"seed: found 0, recorded \(absent\)"):
        check_provenance(first, {name: value for name, value in first.items() if name != "seed"})


def test_check_images() -> None:
    good = np.zeros((3, 4, 5, 1), np.float32)
    check_images(good, (4, 5, 1))
    for images, message in (
        (good.astype(np.float64), r"inputs: found float64 .* expected float32 \[N, 4, 5, 1\]"),
        (good[0], r"found the shape \(4, 5, 1\)"),
        (good[:, :3], r"found the shape \(3, 3, 5, 1\)"),
        (good[:0], "found no images"),
    ):
        with pytest.raises(DataError, match=message):
            check_images(images, (4, 5, 1), name="inputs")
    for value in (np.nan, np.inf):
        bad = good.copy()
        bad[1, 2, 3, 0] = value
        with pytest.raises(DataError, match=rf"images: found {value} at index \(1, 2, 3, 0\)"):
            check_images(bad, (4, 5, 1))


def test_check_labels() -> None:
    check_labels(np.array([0, 1, 2]), 3)
    check_labels(np.array([0, 1, 2], np.uint8), 3)
    for labels, message in (
        (np.array([0, 3]), r"targets: found 3 at index 1; expected whole numbers 0\.\.2"),
        (np.array([0, 1, -1]), "found -1 at index 2"),
        (np.array([0.0]), "found float64"),
        (np.array([True]), "found bool"),
        (np.zeros((2, 3), int), r"found the shape \(2, 3\)"),
        (np.zeros(0, int), "found no labels"),
    ):
        with pytest.raises(DataError, match=message):
            check_labels(labels, 3, name="targets")


def test_batches_resume_exactly() -> None:
    dataset = small(10)
    whole = list(itertools.islice(batches(dataset, 3, seed=5), 14))
    for start in (0, 1, 3, 7):
        tail = list(itertools.islice(batches(dataset, 3, seed=5, start_step=start), 14 - start))
        permutation.cache_clear()
        for (images, labels), (other_images, other_labels) in zip(whole[start:], tail, strict=True):
            np.testing.assert_array_equal(images, other_images)
            np.testing.assert_array_equal(labels, other_labels)
    images, labels = whole[0]
    assert images.shape == (3, 2, 2, 1)
    assert [images.dtype.name, labels.dtype.name] == ["float32", "int32"]
    np.testing.assert_array_equal(images[:, 0, 0, 0].astype(int) // 4 % 3, labels)


def test_epochs_are_permutations_without_the_ragged_end() -> None:
    epochs = []
    for epoch in range(4):
        chosen = np.concatenate([batch_indices(10, 3, 0, 3 * epoch + step) for step in range(3)])
        assert chosen.dtype == np.int32
        assert len(set(chosen.tolist())) == 9
        assert set(chosen.tolist()) <= set(range(10))
        epochs.append(chosen.tolist())
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert batch_indices(10, 3, 1, 0).tolist() != epochs[0][:3]
    assert sorted(batch_indices(10, 10, 0, 123456789).tolist()) == list(range(10))
    handed_out = batch_indices(10, 3, 0, 0)
    handed_out[:] = 0
    assert batch_indices(10, 3, 0, 0).tolist() == epochs[0][:3]


def test_batches_check_their_arguments_at_the_call() -> None:
    with pytest.raises(DataError, match=r"batch_size: found 11; expected 1\.\.10"):
        batches(small(10), 11, seed=0)
    with pytest.raises(DataError, match="step: found -1"):
        batches(small(10), 5, seed=0, start_step=-1)
    for arguments, name in (((0, 1, 0, 0), "n"), ((4, 0, 0, 0), "batch_size"), ((4, 1, -1, 0), "seed")):
        with pytest.raises(DataError, match=f"^{name}: found"):
            batch_indices(*arguments)


def test_real_fashion_mnist_folder() -> None:
    folder = SHARED / "fashion-mnist"
    if not folder.exists():
        pytest.skip("the real data fashion-mnist is not present")
    splits = load(DataConfig(str(folder), image_size=7, score_images=2000, test_images=500))
    assert splits.train.images.shape == (58000, 7, 7, 1)
    np.testing.assert_array_equal(np.bincount(splits.score.labels), np.full(10, 200))
    assert splits.test.images.shape == (500, 7, 7, 1)
