"""Image-classification data: file readers, reproducible splits and batches, on-device augmentation."""

from train.data.augment import AugmentConfig, augment
from train.data.batching import batch_indices, batches
from train.data.checks import Provenance, check_images, check_labels, check_provenance
from train.data.config import EMBEDDED_SOURCE, DataConfig
from train.data.datasets import Dataset, Splits, load
from train.data.readers import DataError, read_cifar10_binary, read_idx, read_npz
from train.data.sources import CIFAR10_CLASSES, FASHION_MNIST_CLASSES

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
