"""Augmentation keeps shapes and values, is the identity when off, and is the same compiled and not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.data import AugmentConfig, augment

compiled = jax.jit(augment, static_argnames=("crop", "flip"))


def images(batch: int = 16, height: int = 6, width: int = 5, channels: int = 2) -> jax.Array:
    values = np.arange(1, 1 + batch * height * width * channels, dtype=np.float32)
    return jnp.asarray(values.reshape(batch, height, width, channels))


def test_identity() -> None:
    given = images()
    np.testing.assert_array_equal(augment(jax.random.key(0), given, crop=0, flip=False), given)


@pytest.mark.parametrize(("crop", "flip"), [(2, True), (2, False), (0, True)])
def test_every_image_is_a_shifted_and_perhaps_mirrored_copy(crop: int, flip: bool) -> None:
    given = images()
    result = compiled(jax.random.key(1), given, crop=crop, flip=flip)
    assert (result.shape, result.dtype) == (given.shape, given.dtype)
    _, height, width, _ = given.shape
    padded = np.pad(given, ((0, 0), (crop, crop), (crop, crop), (0, 0)))
    seen = set()
    for before, after in zip(padded, np.asarray(result), strict=True):
        matches = [
            (row, column, mirrored)
            for row in range(2 * crop + 1)
            for column in range(2 * crop + 1)
            for mirrored in ((False, True) if flip else (False,))
            if np.array_equal(
                before[row : row + height, column : column + width][:, :: -1 if mirrored else 1],
                after,
            )
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) > 1  # drawn for each image, not for the batch
    assert {mirrored for *_, mirrored in seen} == ({False, True} if flip else {False})


def test_every_shift_is_drawn_about_equally_often() -> None:
    given = np.zeros((9000, 3, 3, 1), np.float32)
    given[:, 1, 1] = 1
    result = np.asarray(compiled(jax.random.key(2), jnp.asarray(given), crop=1, flip=False))
    np.testing.assert_allclose(result[..., 0].sum(0), np.full((3, 3), 1000), atol=150)
    given[:, 1, 0] = 2
    mirrored = np.asarray(compiled(jax.random.key(3), jnp.asarray(given), crop=0, flip=True))
    np.testing.assert_allclose((mirrored[:, 1, 2, 0] == 2).sum(), 4500, atol=250)


def test_compiled_equals_uncompiled_and_new_keys_compile_nothing() -> None:
    given = images()
    traces: list[None] = []

    def traced(key: jax.Array, batch: jax.Array) -> jax.Array:
        traces.append(None)
        return augment(key, batch, crop=3, flip=True)

    step = jax.jit(traced)
    results = []
    for seed in range(3):
        results.append(np.asarray(step(jax.random.key(seed), given)))
    assert len(traces) == 1
    np.testing.assert_array_equal(results[0], augment(jax.random.key(0), given, crop=3, flip=True))
    assert not np.array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], step(jax.random.PRNGKey(0), given))  # the older kind of key


@pytest.mark.parametrize("dtype", ["bfloat16", "uint8"])
def test_other_types_are_kept(dtype: str) -> None:
    given = jnp.zeros((2, 6, 5, 2), dtype)
    assert jax.eval_shape(augment, jax.random.key(0), given).dtype == given.dtype


def test_arguments_are_checked() -> None:
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"images: found the shape \(6, 5, 2\)"):
        augment(key, images()[0])
    with pytest.raises(ValueError, match=r"crop: found 5; expected 0\.\.4"):
        augment(key, images(), crop=5)
    with pytest.raises(ValueError, match="crop: found -1"):
        AugmentConfig(crop=-1)
    assert AugmentConfig() == AugmentConfig(crop=4, flip=True)
