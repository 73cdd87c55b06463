"""From uint8 pixels to normalised float32 images: exact average pooling, then mean and deviation of each channel."""

import numpy as np
import numpy.typing as npt

from train.data.readers import DataError, Images

_CHUNK = 4096  # images handled at once where whole-array temporaries would be large


def pool_factor(shape: tuple[int, ...], image_size: int | None, source: str) -> int:
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


def moments(images: Images, factor: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
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


def normalise(images: Images, factor: int, mean: tuple[float, ...], std: tuple[float, ...]) -> npt.NDArray[np.float32]:
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
