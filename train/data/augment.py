"""On-device image augmentation: a random crop with zero padding, and a horizontal flip, drawn for each image."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to each training image.

    Raises:
        ValueError: ``crop`` is negative.
    """

    crop: int = 4  # pixels of zero padding on every side before the random crop; 0 turns the crop off
    flip: bool = True  # mirror left to right with probability 1/2; False turns the flip off

    def __post_init__(self) -> None:
        """Check the padding."""
        if self.crop < 0:
            raise ValueError(f"crop: found {self.crop}; expected 0 (off) or a number of pixels")


def augment(key: jax.Array, images: jax.Array, crop: int = 4, flip: bool = True) -> jax.Array:
    """Crop and mirror every image at random; a pure function of ``key``, to be called inside or outside ``jit``.

    ``crop`` and ``flip`` are Python values that shape the program (static under ``jit``); a new key compiles nothing.
    The padding is zero in the units of ``images``: for normalised images it is the training mean of each channel.
    ``crop=0, flip=False`` returns ``images`` as they are.

    Args:
        key: JAX random key; the same key gives the same result.
        images: any number type, ``[B, H, W, C]``.
        crop: pixels of zero padding on every side, 0..min(H, W) - 1; every image is shifted by -crop..crop pixels
            along each axis, uniformly and independently.
        flip: mirror each image left to right with probability 1/2.

    Returns:
        images of the shape and type given, ``[B, H, W, C]``.

    Raises:
        ValueError: ``images`` does not have four axes, or ``crop`` is out of range.
    """
    if images.ndim != 4:
        raise ValueError(f"images: found the shape {images.shape}; expected [B, H, W, C]")
    batch, height, width, _ = images.shape
    if not 0 <= crop < max(1, min(height, width)):
        raise ValueError(f"crop: found {crop}; expected 0..{min(height, width) - 1} pixels for {height}x{width} images")
    if crop == 0 and not flip:
        return images
    shift_key, flip_key = jax.random.split(key)
    rows = jnp.broadcast_to(jnp.arange(height), (batch, height))  # the source row of each output row
    columns = jnp.broadcast_to(jnp.arange(width), (batch, width))
    if flip:
        mirrored = jax.random.bernoulli(flip_key, 0.5, (batch, 1))
        columns = jnp.where(mirrored, width - 1 - columns, columns)
    if crop:
        shift = jax.random.randint(shift_key, (batch, 2), -crop, crop + 1)
        rows, columns = rows + shift[:, :1], columns + shift[:, 1:]
    # One gather with clipped indices and a mask, rather than a padded copy: on the CPU this is faster than a mapped
    # dynamic_slice or take_along_axis on the padded images, and far faster than selecting among shifted copies.
    taken = images.at[
        jnp.arange(batch)[:, None, None],
        jnp.clip(rows, 0, height - 1)[:, :, None],
        jnp.clip(columns, 0, width - 1)[:, None, :],
    ].get(mode="promise_in_bounds")
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    return jnp.where(inside[..., None], taken, jnp.zeros((), images.dtype))
