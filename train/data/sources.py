"""Sources of data by their layout, and the three splits that are made of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from train.data.checks import check_labels
from train.data.config import EMBEDDED_SOURCE, DataConfig
from train.data.draws import SPLIT_STREAM, random_words
from train.data.readers import DataError, Images, Labels, read_cifar10_binary, read_idx, read_npz

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


@dataclass(frozen=True)
class Raw:
    """The three splits as read: uint8 images [N, H, W, C] and int32 labels [N]."""

    name: str
    layout: str
    parts: dict[str, tuple[Images, Labels]]  # "train", "score" and "test"
    class_names: tuple[str, ...]


def read_source(config: DataConfig) -> Raw:
    """Find the layout of the source, read it, and draw the score split."""
    if config.source == EMBEDDED_SOURCE:
        embedded = resources.files(__name__.rpartition(".")[0]).joinpath(_EMBEDDED_FILE)
        with resources.as_file(embedded) as path:
            train, test = read_npz(path, "train"), read_npz(path, "test")
        return _with_score(EMBEDDED_SOURCE, "npz", train, test, FASHION_MNIST_CLASSES, config)
    try:
        path = Path(config.source).expanduser()
    except RuntimeError as error:
        raise DataError(
            f"{config.source}: found no home folder of that user ({error}); expected a path; correct the source"
        ) from error
    name = path.name or path.resolve().name
    if path.is_file() and path.suffix == ".npz":
        train, test = read_npz(path, "train"), read_npz(path, "test")
        return _with_score(name, "npz", train, test, _numbered(name, train[1]), config)
    if path.is_dir():
        idx, cifar = _find_idx(path), _find_cifar(path)
        if idx and cifar:
            raise DataError(
                f"{path}: found both idx files and CIFAR-10 batches; expected one data set; give each its own folder"
            )
        if idx:
            train, test = (_read_idx_split(path, idx, part) for part in ("train", "t10k"))
            return _with_score(name, "idx", train, test, _numbered(name, train[1]), config)
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


def _numbered(name: str, labels: Labels) -> tuple[str, ...]:
    """Class names "0", "1", ... for a data set that does not name its classes.

    Raises:
        DataError: a class below the largest label has no image, as where a single label is damaged.
    """
    present = np.unique(labels)  # a damaged label may be larger than there is room for names
    missing = np.flatnonzero(present != np.arange(len(present)))
    if missing.size:
        raise DataError(
            f"{name} train labels: found none of class {int(missing[0])}, but labels up to {int(present[-1])}; "
            "expected images of every class from 0 to the largest; number the classes from 0 without gaps"
        )
    return tuple(map(str, present))


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


def _read_cifar(folder: Path, name: str, files: Mapping[str, Path], config: DataConfig) -> Raw:
    """Read a CIFAR-10 folder; without a test batch, by the protocol that :func:`train.data.load` describes."""
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
    return Raw(name, "cifar-10 without test_batch", parts, CIFAR10_CLASSES)


def _with_score(
    name: str,
    layout: str,
    train: tuple[Images, Labels],
    test: tuple[Images, Labels],
    class_names: tuple[str, ...],
    config: DataConfig,
) -> Raw:
    """Draw the class-balanced score split from the training file; the draw keeps the order of the file."""
    images, labels = train
    check_labels(labels, len(class_names), name=f"{name} train labels")
    quota, remainder = divmod(config.score_images, len(class_names))
    keys = random_words(len(labels), SPLIT_STREAM, config.seed)
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
    return Raw(name, layout, parts, class_names)


def _head(split: tuple[Images, Labels], count: int | None) -> tuple[Images, Labels]:
    """The first ``count`` images and labels; all of them for None or a count above their number."""
    return split[0][:count], split[1][:count]
