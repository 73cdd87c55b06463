"""Readers of the standard image-classification file layouts.

Every reader returns ``(images, labels)``: images uint8 ``[N, H, W, C]`` with values 0..255, labels int32 ``[N]``
with values from 0. A file that is missing, truncated or corrupt raises :class:`DataError`, whose message holds the
path, what was found, what was expected and the way out. Nothing is ever unpickled.
"""

import gzip
import lzma
import math
import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

StrPath: TypeAlias = str | os.PathLike[str]
Images: TypeAlias = npt.NDArray[np.uint8]  # [N, H, W, C], 0..255
Labels: TypeAlias = npt.NDArray[np.int32]  # [N], from 0

CIFAR10_RECORD_BYTES = 3073  # 1 label byte, then the red, green and blue planes of 32 x 32 bytes each
CIFAR10_CLASS_COUNT = 10
CIFAR10_SIDE = 32  # pixels

_IDX_IMAGES_MAGIC = 0x00000803  # unsigned bytes, 3 dimensions
_IDX_LABELS_MAGIC = 0x00000801  # unsigned bytes, 1 dimension
_FETCH_AGAIN = "fetch the file again and compare its size and checksum with the publisher's"


class DataError(ValueError):
    """Data, or a request about data, that cannot be used; the message says what was found and what to do."""


def _error(path: StrPath, found: str, expected: str, remedy: str) -> DataError:
    """The error for one file: the path, what was found, what was expected, and the way out."""
    return DataError(f"{os.fspath(path)}: found {found}; expected {expected}; {remedy}")


def _read_bytes(path: StrPath, expected: str) -> bytes:
    """The contents of ``path``, decompressed when its name ends in ``.gz`` or ``.xz``.

    Raises:
        DataError: the file cannot be opened, or its compressed stream is truncated or corrupt.
    """
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise _error(path, "no such file", expected, "check the path or fetch the file") from error
    except OSError as error:
        found = f"a file that cannot be read ({error.strerror or error})"
        raise _error(path, found, expected, "check the path and its permissions") from error
    suffix = Path(path).suffix
    if suffix not in (".gz", ".xz"):
        return raw
    try:
        return gzip.decompress(raw) if suffix == ".gz" else lzma.decompress(raw)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        kind = "gzip" if suffix == ".gz" else "xz"
        found = f"{len(raw)} bytes that are not a complete {kind} stream ({error})"
        remedy = f"{_FETCH_AGAIN}, or drop {suffix} from the name if it is already decompressed"
        raise _error(path, found, f"{expected}, {kind}-compressed", remedy) from error


def _read_idx_file(path: StrPath, magic: int, dimensions: int) -> npt.NDArray[np.uint8]:
    """One idx file of unsigned bytes with the given magic number, as an array of ``dimensions`` axes."""
    kind = f"an idx{dimensions} file of unsigned bytes"
    data = _read_bytes(path, kind)
    header = 4 + 4 * dimensions
    found_magic = int.from_bytes(data[:4], "big")
    if len(data) >= 4 and found_magic != magic:
        remedy = "check that images and labels were not swapped and that the file is decompressed or named .gz"
        raise _error(path, f"the magic number 0x{found_magic:08x}", f"0x{magic:08x} ({kind})", remedy)
    if len(data) < header:
        raise _error(path, f"{len(data)} bytes", f"{kind} (at least its {header}-byte header)", _FETCH_AGAIN)
    shape = tuple(int.from_bytes(data[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(dimensions))
    if 0 in shape:
        raise _error(path, f"the dimensions {shape}", "dimensions of at least 1", _FETCH_AGAIN)
    size = header + math.prod(shape)
    if len(data) != size:
        found = f"{len(data)} bytes for the dimensions {shape}"
        raise _error(path, found, f"{size} bytes (header included)", _FETCH_AGAIN)
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def read_idx(images_path: StrPath, labels_path: StrPath) -> tuple[Images, Labels]:
    """Read a pair of idx files (the layout of MNIST and Fashion-MNIST), plain or ``.gz``.

    Args:
        images_path: idx3 file of unsigned bytes, dimensions ``(N, H, W)``.
        labels_path: idx1 file of unsigned bytes, dimension ``(N,)``.

    Returns:
        images uint8 ``[N, H, W, 1]`` and labels int32 ``[N]``.

    Raises:
        DataError: a missing, truncated or corrupt file, a wrong magic number, dimensions that do not fit the length
            of the file, or two files with different numbers of items.
    """
    images = _read_idx_file(images_path, _IDX_IMAGES_MAGIC, 3)
    labels = _read_idx_file(labels_path, _IDX_LABELS_MAGIC, 1)
    if len(images) != len(labels):
        expected = f"{len(images)}, the number of images in {os.fspath(images_path)}"
        raise _error(labels_path, f"{len(labels)} labels", expected, "give the two files of the same split")
    return images[..., np.newaxis].copy(), labels.astype(np.int32)


def read_cifar10_binary(paths: StrPath | Iterable[StrPath]) -> tuple[Images, Labels]:
    """Read CIFAR-10 binary batches (``.bin`` or ``.bin.xz``), joined in the order given.

    Args:
        paths: one file, or several, of 3,073-byte records: a label byte (0..9), then the red, green and blue planes.

    Returns:
        images uint8 ``[N, 32, 32, 3]`` and labels int32 ``[N]``.

    Raises:
        DataError: no paths, a missing, truncated or corrupt file, a length that is not a multiple of 3,073 bytes,
            or a label above 9.
    """
    listed = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not listed:
        raise DataError("paths: found no files; expected at least one CIFAR-10 batch; name the .bin or .bin.xz files")
    all_images: list[Images] = []
    all_labels: list[Labels] = []
    for path in listed:
        expected = f"CIFAR-10 records of {CIFAR10_RECORD_BYTES} bytes"
        data = _read_bytes(path, expected)
        count, rest = divmod(len(data), CIFAR10_RECORD_BYTES)
        if count == 0 or rest:
            found = f"{len(data)} bytes ({count} whole records and {rest} bytes more)"
            raise _error(path, found, f"one or more {expected}", _FETCH_AGAIN)
        records = np.frombuffer(data, np.uint8).reshape(count, CIFAR10_RECORD_BYTES)
        wrong = np.flatnonzero(records[:, 0] >= CIFAR10_CLASS_COUNT)
        if wrong.size:
            first = int(wrong[0])
            found = f"the label {int(records[first, 0])} in record {first}"
            remedy = "check that this is CIFAR-10 (CIFAR-100 records have 3,074 bytes), or fetch the file again"
            raise _error(path, found, f"labels 0..{CIFAR10_CLASS_COUNT - 1}", remedy)
        planes = records[:, 1:].reshape(count, 3, CIFAR10_SIDE, CIFAR10_SIDE)
        all_images.append(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)))
        all_labels.append(records[:, 0].astype(np.int32))
    return np.concatenate(all_images), np.concatenate(all_labels)


def read_npz(path: StrPath, split: Literal["train", "test"] = "train") -> tuple[Images, Labels]:
    """Read one split of an ``.npz`` file with the arrays ``x_train``, ``y_train``, ``x_test`` and ``y_test``.

    Args:
        path: the file; images are uint8 ``[N, H, W]`` or ``[N, H, W, C]``, labels whole numbers ``[N]`` from 0.
        split: ``"train"`` or ``"test"``.

    Returns:
        images uint8 ``[N, H, W, C]`` (``C = 1`` for ``[N, H, W]``) and labels int32 ``[N]``.

    Raises:
        DataError: a missing, truncated or corrupt file, a missing array, or an array of the wrong type or shape.
        ValueError: ``split`` is neither of the two.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split: found {split!r}; expected 'train' or 'test'")
    keys = {f"{array}_{part}" for array in "xy" for part in ("train", "test")}
    expected = f"an .npz file with the arrays {', '.join(sorted(keys))}"
    try:
        with Path(path).open("rb") as file:  # np.load leaves a damaged archive open
            opened = np.load(file, allow_pickle=False)
            if not isinstance(opened, np.lib.npyio.NpzFile):
                raise _error(path, "a single array (.npy)", expected, "save the arrays with numpy.savez")
            with opened:
                missing = sorted(keys - set(opened.files))
                if missing:
                    found = f"the arrays {', '.join(sorted(opened.files)) or '(none)'}; missing {', '.join(missing)}"
                    raise _error(path, found, expected, "save the file with these names")
                images, labels = opened[f"x_{split}"], opened[f"y_{split}"]
    except DataError:
        raise
    except FileNotFoundError as error:
        raise _error(path, "no such file", expected, "check the path or fetch the file") from error
    except (
        OSError,
        EOFError,
        KeyError,
        ValueError,  # not an archive, or an array that would need unpickling
        SyntaxError,  # a damaged array header
        TypeError,
        MemoryError,  # a damaged header that asks for an absurd shape
        OverflowError,
        RuntimeError,  # encrypted, or (NotImplementedError) an unknown compression
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        found = f"a file that cannot be read as .npz ({type(error).__name__}: {error})"
        raise _error(path, found, expected, f"{_FETCH_AGAIN}, or save it again without object arrays") from error
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        found = f"x_{split} of {images.dtype} and shape {images.shape}"
        wanted = "uint8 images [N, H, W] or [N, H, W, C], none of them empty"
        raise _error(path, found, wanted, "store the raw pixels, 0..255")
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        found = f"y_{split} of {labels.dtype} and shape {labels.shape}"
        wanted = f"whole-number labels of shape {images.shape[:1]}, one for each image"
        raise _error(path, found, wanted, "store class indices, not one-hot vectors")
    limit = int(np.iinfo(np.int32).max)
    wrong = np.flatnonzero((labels < 0) | (labels > limit))
    if wrong.size:
        found = f"y_{split}[{int(wrong[0])}] = {int(labels[wrong[0]])}"
        raise _error(path, found, f"labels 0..{limit}", "number the classes from 0")
    if images.ndim == 3:
        images = images[..., np.newaxis]
    return np.ascontiguousarray(images), labels.astype(np.int32)
