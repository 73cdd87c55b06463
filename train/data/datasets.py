"""Reproducible data splits, checks of images and labels, and a resumable stream of batches.

Every random draw here is made from raw ``numpy.random.Philox`` words, whose stream numpy keeps fixed between
versions, so that a seed names the same split and the same order of batches everywhere.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from train.data.readers import DataError, Images, Labels, read_cifar10_binary, read_idx, read_npz

Provenance: TypeAlias = dict[str, str | int]

EMBEDDED_SOURCE = "fashion-mnist-5k"
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_EMBEDDED_FILE = "fashion_mnist_5k_1k.npz"
_CHUNK = 4096  # images handled at once where whole-array temporaries would be large
_SPLIT_STREAM, _SHUFFLE_STREAM = 1, 2  # keep the random words of the splits and of the batches apart


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split, ready for training; the arrays are read-only."""

    name: str  # the source and the split, for example "fashion-mnist-5k/train"
    images: npt.NDArray[np.float32]  # [N, H, W, C], (pixel / 255 - mean) / std
    labels: npt.NDArray[np.int32]  # [N], 0..classes - 1
    classes: int  # number of classes of the data set
    mean: tuple[float, ...]  # per channel, in units of pixel / 255, of the training split
    std: tuple[float, ...]  # per channel, same units; 1 for a channel that is constant over the training split
    class_names: tuple[str, ...]  # one for each class


@dataclass(frozen=True)
class DataConfig:
    """Which data to load, and how to split it.

    Raises:
        DataError: a number out of range, or not whole.
    """

    # "fashion-mnist-5k" (ships with the package), or a path: a folder of idx files (plain or .gz), a folder of
    # CIFAR-10 binary batches (.bin or .bin.xz), or an .npz file with x_train, y_train, x_test and y_test
    source: str = EMBEDDED_SOURCE
    image_size: int | None = 14  # pixels, the side after average pooling; must divide the side; None: as in the file
    score_images: int = 1000  # images of the training file held out as the score split, at least 1
    test_images: int | None = None  # use at most this many images, the first ones of the test file; None: all
    seed: int = 0  # of the draw of the score split, 0 or more

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value, least in (
            ("image_size", self.image_size, 1),
            ("score_images", self.score_images, 1),
            ("test_images", self.test_images, 1),
            ("seed", self.seed, 0),
        ):
            optional = name in ("image_size", "test_images")
            if value is None and optional:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                none = ", or None" if optional else ""
                raise DataError(f"{name}: found {value!r}; expected a whole number, {least} or more{none}")


@dataclass(frozen=True, eq=False)
class Splits:
    """Three disjoint splits, all normalised with the statistics of ``train``."""

    train: Dataset  # to fit parameters
    score: Dataset  # to compare and select; no training step sees it
    test: Dataset  # to report
    # What the splits were made of: the source and its layout, the seed, counts, the image shape, and for each split the
    # SHA-256 of its labels (little-endian int32) and of its images (the file's uint8 pixels, before pooling).
    # Strings and ints only, so that it can be stored as JSON and compared by check_provenance.
    provenance: Provenance


@dataclass(frozen=True)
class _Raw:
    """The three splits as read: uint8 images [N, H, W, C] and int32 labels [N]."""

    name: str
    layout: str
    parts: dict[str, tuple[Images, Labels]]  # "train", "score" and "test"
    class_names: tuple[str, ...]


def load(config: DataConfig) -> Splits:
    """Read a source and split it into train, score and test.

    The score split is a seeded, class-balanced draw of ``score_images`` images from the training file (class counts
    differ by at most 1, the lower classes taking the remainder); train is the rest of that file, in its order; test is
    the test file.

    CIFAR-10 folders without ``test_batch`` follow another protocol: test is batch 5, score is the last
    ``score_images`` images of batch 4 (no draw: the seed has no effect), train is batches 1 to 3 and the rest of
    batch 4.

    Images are reduced by exact average pooling to ``image_size``, divided by 255, and normalised per channel with the
    mean and the standard deviation of the train split after pooling.

    Raises:
        DataError: a source that is missing, corrupt or of no known layout; labels or shapes that do not fit together;
            too few images for the score split; an ``image_size`` that does not divide the side of the images.
    """
    raw = _read_source(config)
    shape = raw.parts["train"][0].shape[1:]
    for part, (images, labels) in raw.parts.items():
        if images.shape[1:] != shape:
            raise DataError(
                f"{config.source}: found {part} images of shape {images.shape[1:]}; expected {shape}, the shape of the "
                "training images; use files of one data set"
            )
        check_labels(labels, len(raw.class_names), name=f"{raw.name} {part} labels")
    factor = _pool_factor(shape, config.image_size, config.source)
    mean, std = _moments(raw.parts["train"][0], factor)
    provenance: Provenance = {
        "source": raw.name,
        "layout": raw.layout,
        "seed": config.seed,
        "classes": len(raw.class_names),
        "height": shape[0] // factor,
        "width": shape[1] // factor,
        "channels": shape[2],
    }
    datasets: dict[str, Dataset] = {}
    for part, (images, labels) in raw.parts.items():
        provenance[f"{part}_images"] = len(images)
        provenance[f"{part}_labels_sha256"] = hashlib.sha256(labels.astype("<i4").tobytes()).hexdigest()
        provenance[f"{part}_images_sha256"] = hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()
        normalised = _normalise(images, factor, mean, std)
        normalised.flags.writeable = False
        labels.flags.writeable = False
        datasets[part] = Dataset(
            name=f"{raw.name}/{part}",
            images=normalised,
            labels=labels,
            classes=len(raw.class_names),
            mean=mean,
            std=std,
            class_names=raw.class_names,
        )
    return Splits(datasets["train"], datasets["score"], datasets["test"], provenance)


def check_provenance(found: Mapping[str, str | int], recorded: Mapping[str, str | int]) -> None:
    """Refuse data that is not the data of an earlier run.

    Args:
        found: ``Splits.provenance`` of the data just loaded.
        recorded: ``Splits.provenance`` as an earlier run stored it.

    Raises:
        DataError: the two differ; the message names every entry that does.
    """
    different = [
        f"{key}: found {found.get(key, '(absent)')}, recorded {recorded.get(key, '(absent)')}"
        for key in sorted({*found, *recorded})
        if found.get(key) != recorded.get(key)
    ]
    if different:
        raise DataError(
            f"the data set is not the recorded one ({'; '.join(different)}); "
            "load the data with the recorded configuration and files, or start a new run"
        )


def check_images(images: npt.ArrayLike, shape: tuple[int, int, int], name: str = "images") -> None:
    """Check a batch of normalised images.

    Args:
        images: expected float32 ``[N, H, W, C]``, at least one image, every value finite.
        shape: ``(H, W, C)`` expected of each image, in pixels and channels.
        name: what the message calls ``images``.

    Raises:
        DataError: the wrong type or shape, no images, or a value that is NaN or infinite.
    """
    array = np.asarray(images)
    expected = f"float32 [N, {', '.join(str(side) for side in shape)}]"
    if array.dtype != np.float32:
        raise DataError(f"{name}: found {array.dtype} of shape {array.shape}; expected {expected}, normalised")
    if array.ndim != 4 or array.shape[1:] != tuple(shape):
        raise DataError(f"{name}: found the shape {array.shape}; expected {expected}")
    if array.shape[0] == 0:
        raise DataError(f"{name}: found no images (shape {array.shape}); expected {expected} with N of at least 1")
    finite = np.isfinite(array)
    if not finite.all():
        index = tuple(int(axis) for axis in np.unravel_index(int(np.argmin(finite)), array.shape))
        raise DataError(f"{name}: found {array[index]} at index {index}; expected finite values, {expected}")


def check_labels(labels: npt.ArrayLike, classes: int, name: str = "labels") -> None:
    """Check class labels.

    Args:
        labels: expected whole numbers ``[N]``, at least one, in 0..classes - 1.
        classes: number of classes.
        name: what the message calls ``labels``.

    Raises:
        DataError: the wrong type or shape, no labels, or a label out of range.
    """
    array = np.asarray(labels)
    expected = f"whole numbers 0..{classes - 1}, shape [N]"
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{name}: found {array.dtype} of shape {array.shape}; expected {expected}")
    if array.ndim != 1:
        raise DataError(f"{name}: found the shape {array.shape}; expected {expected}")
    if array.size == 0:
        raise DataError(f"{name}: found no labels; expected {expected} with N of at least 1")
    wrong = np.flatnonzero((array < 0) | (array >= classes))
    if wrong.size:
        raise DataError(f"{name}: found {int(array[wrong[0]])} at index {int(wrong[0])}; expected {expected}")


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> npt.NDArray[np.int32]:
    """The images of one step of the endless, shuffled stream over ``n`` images.

    Step ``s`` belongs to epoch ``s // (n // batch_size)``; each epoch has its own permutation of the images, and the
    ``n % batch_size`` images at its end are dropped. The result depends on the arguments alone.

    Args:
        n: number of images.
        batch_size: images a step, 1..n.
        seed: of the order, 0 or more.
        step: counted from 0 over the whole run.

    Returns:
        int32 ``[batch_size]``, all different, in 0..n - 1.

    Raises:
        DataError: an argument out of range.
    """
    _check_stream(n, batch_size, seed, step)
    epoch, position = divmod(step, n // batch_size)
    return _permutation(n, seed, epoch)[position * batch_size : (position + 1) * batch_size].copy()


def batches(
    dataset: Dataset, batch_size: int, seed: int, start_step: int = 0
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]]:
    """An endless stream of batches, reshuffled every epoch; see :func:`batch_indices`.

    The batch of a step depends on the data, ``batch_size``, ``seed`` and the step alone: a stream started at step
    ``k`` gives exactly what remains of the stream from 0 after ``k`` batches.

    Returns:
        an iterator over (images float32 ``[batch_size, H, W, C]``, labels int32 ``[batch_size]``).

    Raises:
        DataError: an argument out of range, ``batch_size`` above the number of images included; at the call, not at
            the first batch.
    """
    _check_stream(len(dataset.labels), batch_size, seed, start_step)

    def stream() -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]]:
        step = start_step
        while True:
            chosen = batch_indices(len(dataset.labels), batch_size, seed, step)
            yield dataset.images[chosen], dataset.labels[chosen]
            step += 1

    return stream()


def _check_stream(n: int, batch_size: int, seed: int, step: int) -> None:
    """Check the arguments of the stream of batches."""
    for name, value, least in (("n", n, 1), ("batch_size", batch_size, 1), ("seed", seed, 0), ("step", step, 0)):
        if value < least:
            raise DataError(f"{name}: found {value}; expected {least} or more")
    if batch_size > n:
        raise DataError(f"batch_size: found {batch_size}; expected 1..{n}, the number of images; use a smaller batch")


def _random_words(count: int, *entropy: int) -> npt.NDArray[np.uint64]:
    """``count`` random 64-bit words, a fixed function of ``entropy`` in every version of numpy."""
    words = np.random.Philox(np.random.SeedSequence(entropy)).random_raw(count)
    return np.asarray(words, np.uint64)


@lru_cache(maxsize=8)
def _permutation(n: int, seed: int, epoch: int) -> npt.NDArray[np.int32]:
    """The order of the images in one epoch, int32 [n], read-only (shared between the steps of the epoch)."""
    order = np.argsort(_random_words(n, _SHUFFLE_STREAM, seed, epoch), kind="stable").astype(np.int32)
    order.flags.writeable = False
    return order


def _read_source(config: DataConfig) -> _Raw:
    """Find the layout of the source, read it, and draw the score split."""
    if config.source == EMBEDDED_SOURCE:
        embedded = resources.files(__name__.rpartition(".")[0]).joinpath(_EMBEDDED_FILE)
        with resources.as_file(embedded) as path:
            train, test = read_npz(path, "train"), read_npz(path, "test")
        return _with_score(EMBEDDED_SOURCE, "npz", train, test, FASHION_MNIST_CLASSES, config)
    path = Path(config.source).expanduser()
    name = path.name or path.resolve().name
    if path.is_file() and path.suffix == ".npz":
        train, test = read_npz(path, "train"), read_npz(path, "test")
        return _with_score(name, "npz", train, test, _numbered(train[1]), config)
    if path.is_dir():
        idx, cifar = _find_idx(path), _find_cifar(path)
        if idx and cifar:
            raise DataError(
                f"{path}: found both idx files and CIFAR-10 batches; expected one data set; give each its own folder"
            )
        if idx:
            train, test = (_read_idx_split(path, idx, part) for part in ("train", "t10k"))
            return _with_score(name, "idx", train, test, _numbered(train[1]), config)
        if cifar:
            return _read_cifar(path, name, cifar, config)
    found = "no such file or folder"
    if path.is_dir():
        found = "a folder with neither idx files nor CIFAR-10 batches"
    elif path.exists():
        found = "a file that is not named .npz"
    raise DataError(
        f"{path}: found {found}; expected a folder with train-images-idx3-ubyte and its companions (plain or .gz), a "
        "folder with data_batch_1.bin to data_batch_5.bin (or .bin.xz), or an .npz file; correct the source, or use "
        f"{EMBEDDED_SOURCE!r}, which ships with the package"
    )


def _numbered(labels: Labels) -> tuple[str, ...]:
    """Class names "0", "1", ... for a data set that does not name its classes."""
    return tuple(str(index) for index in range(int(labels.max()) + 1))


def _find_idx(folder: Path) -> dict[str, Path]:
    """The idx files of a folder by stem, such as "train-images"; the plain file where there is a .gz as well."""
    found: dict[str, Path] = {}
    for part in ("train", "t10k"):
        for stem, kind in ((f"{part}-images", "idx3-ubyte"), (f"{part}-labels", "idx1-ubyte")):
            names = (f"{stem}{separator}{kind}{suffix}" for suffix in ("", ".gz") for separator in "-.")
            present = next((folder / name for name in names if (folder / name).is_file()), None)
            if present:
                found[stem] = present
    return found


def _read_idx_split(folder: Path, files: Mapping[str, Path], part: str) -> tuple[Images, Labels]:
    """Read the images and labels of "train" or "t10k"."""
    default = {"images": "-idx3-ubyte", "labels": "-idx1-ubyte"}
    images, labels = (
        files.get(f"{part}-{kind}", folder / f"{part}-{kind}{ending}") for kind, ending in default.items()
    )
    return read_idx(images, labels)


def _find_cifar(folder: Path) -> dict[str, Path]:
    """The CIFAR-10 batches of a folder by stem, such as "data_batch_1"; the .bin where there is a .bin.xz as well."""
    found: dict[str, Path] = {}
    for stem in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        for suffix in (".bin", ".bin.xz"):
            if (folder / f"{stem}{suffix}").is_file():
                found.setdefault(stem, folder / f"{stem}{suffix}")
    return found


def _read_cifar(folder: Path, name: str, files: Mapping[str, Path], config: DataConfig) -> _Raw:
    """Read a CIFAR-10 folder; without a test batch, by the protocol that :func:`load` describes."""
    batches_1_to_5 = [files.get(f"data_batch_{i}", folder / f"data_batch_{i}.bin") for i in range(1, 6)]
    if "test_batch" in files:
        train, test = read_cifar10_binary(batches_1_to_5), read_cifar10_binary(files["test_batch"])
        return _with_score(name, "cifar-10", train, test, CIFAR10_CLASSES, config)
    images, labels = read_cifar10_binary(batches_1_to_5[:3])
    fourth_images, fourth_labels = read_cifar10_binary(batches_1_to_5[3])
    test = read_cifar10_binary(batches_1_to_5[4])
    kept = len(fourth_labels) - config.score_images
    if kept < 0:
        raise DataError(
            f"score_images: found {config.score_images}; expected 1..{len(fourth_labels)}, the images of batch 4 "
            f"({batches_1_to_5[3]}), from which the score split comes when there is no test_batch"
        )
    parts = {
        "train": (np.concatenate([images, fourth_images[:kept]]), np.concatenate([labels, fourth_labels[:kept]])),
        "score": (fourth_images[kept:], fourth_labels[kept:]),
        "test": _head(test, config.test_images),
    }
    return _Raw(name, "cifar-10 without test_batch", parts, CIFAR10_CLASSES)


def _with_score(
    name: str,
    layout: str,
    train: tuple[Images, Labels],
    test: tuple[Images, Labels],
    class_names: tuple[str, ...],
    config: DataConfig,
) -> _Raw:
    """Draw the class-balanced score split from the training file; the draw keeps the order of the file."""
    images, labels = train
    check_labels(labels, len(class_names), name=f"{name} train labels")
    quota, remainder = divmod(config.score_images, len(class_names))
    keys = _random_words(len(labels), _SPLIT_STREAM, config.seed)
    held = np.zeros(len(labels), bool)
    for index in range(len(class_names)):
        wanted = quota + (index < remainder)
        members = np.flatnonzero(labels == index)
        if wanted >= len(members):
            raise DataError(
                f"score_images: found {config.score_images}, which takes {wanted} of the {len(members)} training "
                f"images of class {index} ({class_names[index]}) in {name}; expected to leave at least one of each "
                "class for training; use fewer score images"
            )
        held[members[np.argsort(keys[members], kind="stable")[:wanted]]] = True
    parts = {
        "train": (images[~held], labels[~held]),
        "score": (images[held], labels[held]),
        "test": _head(test, config.test_images),
    }
    return _Raw(name, layout, parts, class_names)


def _head(split: tuple[Images, Labels], count: int | None) -> tuple[Images, Labels]:
    """The first ``count`` images and labels; all of them for None or a count above their number."""
    return split[0][:count], split[1][:count]


def _pool_factor(shape: tuple[int, ...], image_size: int | None, source: str) -> int:
    """How many pixels, along each axis, one pixel of the result averages; ``shape`` is (H, W, C)."""
    height, width = shape[:2]
    if image_size is None:
        return 1
    if height != width:
        raise DataError(
            f"image_size: found {image_size}, but the images of {source} are {height}x{width}; expected square images "
            "for a change of size; use image_size=None"
        )
    if height % image_size:
        sizes = ", ".join(str(size) for size in range(1, height + 1) if height % size == 0)
        raise DataError(
            f"image_size: found {image_size}, which does not divide {height}, the side of the images of {source}; "
            f"sizes that work: {sizes} (or None for {height})"
        )
    return height // image_size


def _block_sums(images: Images, factor: int) -> npt.NDArray[np.uint32]:
    """The sum of each factor x factor block: uint8 [N, H, W, C] to uint32 [N, H / factor, W / factor, C], exact."""
    count, height, width, channels = images.shape
    blocks = images.reshape(count, height // factor, factor, width // factor, factor, channels)
    return np.asarray(blocks.sum(axis=(2, 4), dtype=np.uint32))


def _moments(images: Images, factor: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel mean and standard deviation of pixel / 255 after pooling, from exact whole-number sums."""
    channels = images.shape[3]
    total, squares, count = [0] * channels, [0] * channels, 0
    for start in range(0, len(images), _CHUNK):
        sums = _block_sums(images[start : start + _CHUNK], factor).reshape(-1, channels).astype(np.int64)
        count += len(sums)
        for channel in range(channels):
            total[channel] += int(sums[:, channel].sum())
            squares[channel] += int(np.square(sums[:, channel]).sum())
    unit = 255 * factor * factor
    mean = tuple(value / (count * unit) for value in total)
    variance = (
        (square * count - value * value) / (count * unit) ** 2 for value, square in zip(total, squares, strict=True)
    )
    return mean, tuple(float(np.sqrt(value)) if value > 0 else 1.0 for value in variance)


def _normalise(images: Images, factor: int, mean: tuple[float, ...], std: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """Pool, divide by 255 and normalise: uint8 [N, H, W, C] to float32 [N, H / factor, W / factor, C]."""
    count, height, width, channels = images.shape
    result = np.empty((count, height // factor, width // factor, channels), np.float32)
    for start in range(0, count, _CHUNK):
        chunk = result[start : start + _CHUNK]
        chunk[...] = _block_sums(images[start : start + _CHUNK], factor)
        chunk *= np.float32(1 / (255 * factor * factor))
        chunk -= np.asarray(mean, np.float32)
        chunk /= np.asarray(std, np.float32)
    return result
