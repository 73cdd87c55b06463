"""Readers: each layout is read back equal, each failure names the path, and damaged files never escape as such."""

import gc
import gzip
import lzma
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from train.data.readers import DataError, read_cifar10_binary, read_idx, read_npz

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"

Array = npt.NDArray[np.uint8]


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the real data {name} is not present")
    return path


def random_images(count: int, *shape: int) -> Array:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def random_labels(count: int) -> Array:
    return (np.arange(count) % 10).astype(np.uint8)


def idx_bytes(array: Array, magic: int | None = None) -> bytes:
    header = (0x800 + array.ndim if magic is None else magic).to_bytes(4, "big")
    return header + b"".join(side.to_bytes(4, "big") for side in array.shape) + array.tobytes()


def write_idx(folder: Path, images: Array, labels: Array, suffix: str = "") -> tuple[Path, Path]:
    paths = folder / f"images{suffix}", folder / f"labels{suffix}"
    for path, array in zip(paths, (images, labels), strict=True):
        data = idx_bytes(array)
        path.write_bytes(gzip.compress(data) if suffix == ".gz" else data)
    return paths


def cifar_bytes(images: Array, labels: Array) -> bytes:
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels[:, None], planes], axis=1).tobytes()


def assert_read(read: tuple[Array, npt.NDArray[np.int32]], images: Array, labels: Array) -> None:
    assert read[0].dtype == np.uint8
    assert read[1].dtype == np.int32
    np.testing.assert_array_equal(read[0], images)
    np.testing.assert_array_equal(read[1], labels)


def assert_refused(read: Callable[[], object], path: Path, *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        read()
    message = str(caught.value)
    for part in (str(path), "found", "expected", *parts):
        assert part in message
    assert len(message.split("; ")) >= 3  # found, expected, and the way out


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_is_read_back_equal(tmp_path: Path, suffix: str) -> None:
    images, labels = random_images(7, 5, 4), random_labels(7)
    assert_read(read_idx(*write_idx(tmp_path, images, labels, suffix)), images[..., None], labels)


@pytest.mark.parametrize("suffix", [".bin", ".bin.xz"])
def test_cifar_is_read_back_equal_in_the_order_given(tmp_path: Path, suffix: str) -> None:
    images, labels = random_images(5, 32, 32, 3), random_labels(5)
    paths = [tmp_path / f"b{suffix}", tmp_path / f"a{suffix}"]
    for path, part in zip(paths, (slice(0, 3), slice(3, 5)), strict=True):
        data = cifar_bytes(images[part], labels[part])
        path.write_bytes(lzma.compress(data) if suffix.endswith(".xz") else data)
    assert_read(read_cifar10_binary(paths), images, labels)
    assert_read(read_cifar10_binary(paths[0]), images[:3], labels[:3])


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 2)])
def test_npz_is_read_back_equal(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images, labels = random_images(9, *shape), random_labels(9)
    path = tmp_path / "data.npz"
    np.savez(path, x_train=images[:6], y_train=labels[:6], x_test=images[6:], y_test=labels[6:])
    expected = images if len(shape) == 3 else images[..., None]
    assert_read(read_npz(path), expected[:6], labels[:6])
    assert_read(read_npz(path, "test"), expected[6:], labels[6:])
    with pytest.raises(ValueError, match="split: found 'dev'"):
        read_npz(path, "dev")  # type: ignore[arg-type]


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    images, labels = write_idx(tmp_path, random_images(2, 3, 3), random_labels(2))
    missing = tmp_path / "none.gz"
    assert_refused(lambda: read_idx(missing, labels), missing, "no such file")
    assert_refused(lambda: read_idx(images, missing), missing, "no such file")
    assert_refused(lambda: read_cifar10_binary([missing]), missing, "no such file")
    assert_refused(lambda: read_npz(missing), missing, "no such file")
    assert_refused(lambda: read_idx(tmp_path, labels), tmp_path, "cannot be read")
    assert_refused(lambda: read_npz(tmp_path), tmp_path, "cannot be read")
    with pytest.raises(DataError, match="paths: found no files"):
        read_cifar10_binary([])


def test_idx_header_and_length_are_checked(tmp_path: Path) -> None:
    array = random_images(4, 3, 3)
    images, labels = write_idx(tmp_path, array, random_labels(4))
    assert_refused(lambda: read_idx(labels, labels), labels, "0x00000801", "0x00000803")
    assert_refused(lambda: read_idx(images, images), images, "0x00000803", "0x00000801")
    bad = tmp_path / "bad"
    whole = idx_bytes(array)
    for data, parts in (
        (b"", ("0 bytes", "16-byte header")),
        (whole[:10], ("10 bytes",)),
        (whole[:-1], (f"{len(whole) - 1} bytes for the dimensions (4, 3, 3)", f"{len(whole)} bytes")),
        (whole + b"\0", (f"{len(whole) + 1} bytes",)),
        (idx_bytes(array[:0]), ("dimensions (0, 3, 3)",)),
        (idx_bytes(array, magic=0xD03), ("0x00000d03",)),
        (whole[:4] + b"\xff" * 12 + whole[16:], ("4294967295",)),
    ):
        bad.write_bytes(data)
        assert_refused(lambda: read_idx(bad, labels), bad, *parts)
    bad.write_bytes(idx_bytes(random_labels(3)))
    assert_refused(lambda: read_idx(images, bad), bad, "3 labels", str(images))


def test_damaged_compressed_streams_are_refused(tmp_path: Path) -> None:
    images, labels = write_idx(tmp_path, random_images(4, 3, 3), random_labels(4), ".gz")
    bad_gz, bad_xz = tmp_path / "bad.gz", tmp_path / "bad.bin.xz"
    stream = images.read_bytes()
    for data in (b"", b"not gzip", stream[:-9], stream[:12], stream[:-8] + b"\0" * 8, stream + b"trailing"):
        bad_gz.write_bytes(data)
        assert_refused(lambda: read_idx(bad_gz, labels), bad_gz)
    stream = lzma.compress(cifar_bytes(random_images(2, 32, 32, 3), random_labels(2)))
    for data in (b"", b"not xz", stream[:-9], stream[:40] + b"\0\0\0\0" + stream[44:]):
        bad_xz.write_bytes(data)
        assert_refused(lambda: read_cifar10_binary([bad_xz]), bad_xz)


def test_cifar_length_and_labels_are_checked(tmp_path: Path) -> None:
    images, labels = random_images(3, 32, 32, 3), random_labels(3)
    path = tmp_path / "data_batch_1.bin"
    whole = cifar_bytes(images, labels)
    for data, parts in (
        (b"", ("0 bytes", "3073 bytes")),
        (whole[:-1], ("2 whole records and 3072 bytes more",)),
        (whole[:3073] + b"\x0a" + whole[3074:], ("label 10 in record 1", "0..9")),
    ):
        path.write_bytes(data)
        assert_refused(lambda: read_cifar10_binary([path]), path, *parts)


def test_npz_contents_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    x, y = random_images(4, 3, 3), random_labels(4).astype(np.int64)
    good = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    changes: list[tuple[dict[str, npt.NDArray[np.generic]], str]] = [
        ({"x_train": x.astype(np.float32)}, "x_train of float32"),
        ({"x_train": x[0]}, "shape (3, 3)"),
        ({"x_train": x[:0], "y_train": y[:0]}, "shape (0, 3, 3)"),
        ({"y_train": y[:3]}, "shape (3,)"),
        ({"y_train": y.astype(np.float64)}, "y_train of float64"),
        ({"y_train": np.eye(4, dtype=np.int64)}, "shape (4, 4)"),
        ({"y_train": np.array([0, 1, -2, 3])}, "y_train[2] = -2"),
        ({"y_train": np.array([0, 1, 2, 2**31])}, "y_train[3] = 2147483648"),
        ({"y_train": y.astype(object)}, "allow_pickle=False"),
    ]
    for change, part in changes:
        np.savez(path, **{**good, **change})  # type: ignore[arg-type]
        assert_refused(lambda: read_npz(path), path, part)
    np.savez(path, x=x, y=y)
    assert_refused(lambda: read_npz(path), path, "the arrays x, y", "missing x_test, x_train, y_test, y_train")
    with path.open("wb") as file:
        np.save(file, x)
    assert_refused(lambda: read_npz(path), path, "a single array")
    np.savez(path, **good)  # type: ignore[arg-type]
    whole = path.read_bytes()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for data in (b"", b"text, not an archive", whole[: len(whole) // 2]):
            path.write_bytes(data)
            assert_refused(lambda: read_npz(path), path)
        gc.collect()
    assert not caught  # no file is left open


def test_random_damage_gives_the_right_arrays_or_a_data_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = random_images(3, 4, 4), random_labels(3)
    idx, idx_labels = write_idx(tmp_path, images, labels, ".gz")
    npz, cifar = tmp_path / "data.npz", tmp_path / "data.bin.xz"
    np.savez_compressed(npz, x_train=images, y_train=labels, x_test=images, y_test=labels)
    colour = random_images(1, 32, 32, 3)
    cifar.write_bytes(lzma.compress(cifar_bytes(colour, labels[:1])))
    cases: list[tuple[Path, Callable[[], tuple[Array, npt.NDArray[np.int32]]], Array]] = [
        (idx, lambda: read_idx(idx, idx_labels), images[..., None]),
        (npz, lambda: read_npz(npz), images[..., None]),
        (cifar, lambda: read_cifar10_binary([cifar]), colour),
    ]
    messages: list[tuple[Path, str]] = []
    for path, read, expected in cases:
        whole = path.read_bytes()
        for _ in range(60):
            damaged = bytearray(whole)
            damaged[int(rng.integers(len(whole)))] ^= int(rng.integers(1, 256))
            path.write_bytes(damaged)
            try:
                found, _labels = read()
            except DataError as error:
                messages.append((path, str(error)))
            else:  # a byte that carries no data, such as a time stamp
                np.testing.assert_array_equal(found, expected)
    assert len(messages) > 120
    assert all(str(path) in message for path, message in messages)


def test_real_fashion_mnist() -> None:
    folder = shared("fashion-mnist")
    images, labels = read_idx(folder / "t10k-images-idx3-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz")
    assert images.shape == (10000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(labels), np.full(10, 1000))


def test_real_cifar10_batch() -> None:
    images, labels = read_cifar10_binary([shared("cifar-10/data_batch_5.bin.xz")])
    assert images.shape == (10000, 32, 32, 3)
    assert np.bincount(labels, minlength=10).min() > 900
    smooth = np.abs(np.diff(images.astype(np.int16), axis=2)).mean()
    assert smooth < 20  # neighbouring pixels are alike only where the planes were unpacked in the right order


def test_real_embedded_digits_are_refused_for_their_names() -> None:
    path = shared("embedded/uci_digits_8x8.npz")
    assert_refused(lambda: read_npz(path), path, "missing x_test")
