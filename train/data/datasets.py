"""Reproducible data splits, ready for training."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.data.checks import Provenance, check_labels
from train.data.config import DataConfig
from train.data.pooling import moments, normalise, pool_factor
from train.data.readers import DataError
from train.data.sources import read_source


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
    raw = read_source(config)
    shape = raw.parts["train"][0].shape[1:]
    for part, (images, labels) in raw.parts.items():
        if images.shape[1:] != shape:
            raise DataError(
                f"{config.source}: found {part} images of shape {images.shape[1:]}; expected {shape}, the shape of the "
                "training images; use files of one data set"
            )
        check_labels(labels, len(raw.class_names), name=f"{raw.name} {part} labels")
    factor = pool_factor(shape, config.image_size, config.source)
    mean, std = moments(raw.parts["train"][0], factor)
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
        normalised = normalise(images, factor, mean, std)
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
