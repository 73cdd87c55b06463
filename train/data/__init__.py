"""Image-classification data: file readers, reproducible splits and batches, on-device augmentation."""

from train.data.augment import AugmentConfig, augment
from train.data.datasets import (
    CIFAR10_CLASSES,
    EMBEDDED_SOURCE,
    FASHION_MNIST_CLASSES,
    DataConfig,
    Dataset,
    Provenance,
    Splits,
    batch_indices,
    batches,
    check_images,
    check_labels,
    check_provenance,
    load,
)
from train.data.readers import DataError, read_cifar10_binary, read_idx, read_npz

__all__ = [
    "CIFAR10_CLASSES",
    "EMBEDDED_SOURCE",
    "FASHION_MNIST_CLASSES",
    "AugmentConfig",
    "DataConfig",
    "DataError",
    "Dataset",
    "Provenance",
    "Splits",
    "augment",
    "batch_indices",
    "batches",
    "check_images",
    "check_labels",
    "check_provenance",
    "load",
    "read_cifar10_binary",
    "read_idx",
    "read_npz",
]
