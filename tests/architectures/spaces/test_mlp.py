"""Multi-layer perceptrons: padding changes nothing, every architecture is one program, texts and neighbours."""

import itertools

import jax
import numpy as np
import pytest

from architectures.layers import Layers
from architectures.layout import initialise, occupancy
from architectures.spaces import MLP, MLPSpace, from_settings, settings

SPACE = MLPSpace(input_shape=(3, 2, 2), classes=5, widths=(3, 7), depths=(1, 2, 3))
EVERY = [*(MLP((w,)) for w in (3, 7)), MLP((7, 3)), MLP((3, 7)), MLP((3, 7, 3)), MLP((7, 7, 7))]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)


@pytest.mark.parametrize("mlp", EVERY, ids=str)
def test_padded_program_equals_plain_products(mlp: MLP, images: np.ndarray) -> None:
    variants = {name: group.variant for name, group in occupancy(SPACE.layout, SPACE.graph(mlp)).items()}
    arrays = initialise(SPACE.layout, jax.random.key(1), variants)
    arrays = {name: array + 0.1 for name, array in arrays.items()}  # biases too; padding is not zero either
    x = images.reshape(4, -1)
    part = "first"
    for index, width in enumerate(mlp.widths):
        part, slot = ("first", 0) if index == 0 else ("hidden", index - 1)
        kernel = np.asarray(arrays[f"{part}/kernel"])[slot, 0, 0, : x.shape[1], :width]
        x = np.maximum(x @ kernel + np.asarray(arrays[f"{part}/bias"])[slot, :width], 0)
    expected = x @ np.asarray(arrays["classifier/kernel"])[0, : x.shape[1]] + np.asarray(arrays["classifier/bias"])[0]
    logits, _ = SPACE.forward(arrays, SPACE.encode(mlp), images, Layers())
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(SPACE.forward_static(arrays, mlp, images, Layers()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mlp", EVERY, ids=str)
def test_counts_and_texts(mlp: MLP) -> None:
    sizes = (12, *mlp.widths, 5)
    expected = sum(a * b + b for a, b in itertools.pairwise(sizes))
    assert SPACE.cost(mlp) == (expected, expected - sum(sizes[1:]))
    assert SPACE.from_string(SPACE.to_string(mlp)) == mlp


def test_published_target_has_its_published_size() -> None:
    space = MLPSpace(classes=30, widths=(100,), depths=(2,))
    assert space.cost(space.from_string("100-100")).parameters == 91_630


def test_neighbours_differ_in_one_choice_and_are_mutual() -> None:
    for mlp in EVERY:
        others = list(SPACE.neighbours(mlp))
        assert len(set(others)) == len(others)
        assert all(mlp in SPACE.neighbours(other) for other in others)
        assert SPACE.mutate(mlp, 0) in others


def test_samples_cover_the_space_evenly() -> None:
    rng = np.random.default_rng(0)
    counts: dict[MLP, int] = {}
    for _ in range(1400):
        mlp = SPACE.sample(rng)
        counts[mlp] = counts.get(mlp, 0) + 1
    assert len(counts) == SPACE.size == 14
    assert min(counts.values()) > 60  # 100 expected; 4 standard deviations


def test_settings_rebuild_the_space() -> None:
    assert from_settings(settings(SPACE)) == SPACE


def test_observed_are_the_units_that_exist(images: np.ndarray) -> None:
    space = MLPSpace(input_shape=(3, 2, 2), classes=5, widths=(7,), depths=(1, 2))
    arrays = initialise(space.layout, jax.random.key(0), {name: np.zeros(1, int) for name in space.layout})  # type: ignore[misc]
    for mlp in (MLP((7,)), MLP((7, 7))):
        _, units = space.forward(arrays, space.encode(mlp), images, Layers(), lambda x: (x == x).sum())
        assert units == 4 * sum(mlp.widths)
    with pytest.raises(ValueError, match="widths="):
        SPACE.forward(arrays, SPACE.encode(MLP((7,))), images, Layers(), lambda x: x.sum())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7-x", "100-100"),
        ("7-4", "width 4"),
        ("7-7-7-7", "4 hidden layers"),
        ("", "100-100"),
        ("0_7-7", "100-100"),
        ("+7", "100-100"),
        ("07", "100-100"),
    ],
)
def test_bad_texts_name_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SPACE.from_string(text)


@pytest.mark.parametrize(
    "field",
    [
        {"widths": (7, 3)},
        {"widths": (4.5, 5)},
        {"widths": (True, 5)},
        {"depths": ()},
        {"depths": (1.0, 2)},
        {"classes": 0},
        {"input_shape": (3, 2)},
        {"input_shape": (3, 2.0, 1)},
    ],
)
def test_bad_fields_are_named(field: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"MLPSpace.{next(iter(field))}"):
        MLPSpace(**field)  # type: ignore[arg-type]
