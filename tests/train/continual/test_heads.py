"""Heads and metrics: the right outputs, the right answers, the right averages."""

import jax.numpy as jnp
import numpy as np
import pytest

from architectures.spaces import MLPSpace
from train.continual import Heads
from train.continual.metrics import summarise
from train.continual.scoring import lowest_entropy


def test_outputs_of_each_images_task() -> None:
    heads = Heads("CL1", tasks=3, classes=2, own=True)
    logits = jnp.arange(24.0).reshape(4, 6)
    np.testing.assert_array_equal(heads.of_task(logits, 1), logits[:, 2:4])
    tasks = jnp.array([2, 0, 1, 0])
    np.testing.assert_array_equal(heads.of_task(logits, tasks), [[4, 5], [6, 7], [14, 15], [18, 19]])
    np.testing.assert_array_equal(heads.columns(1), [False, False, True, True, False, False])
    shared = Heads("CL2", tasks=3, classes=2, own=False)
    np.testing.assert_array_equal(shared.of_task(logits[:, :2], tasks), logits[:, :2])
    assert (heads.outputs, shared.outputs) == (6, 2)


@pytest.mark.parametrize(
    ("arguments", "message"), [(("CL4", 2, 2, True), "use CL1, CL2 or CL3"), (("CL2", 2, 2, True), "heads='shared'")]
)
def test_bad_heads_are_named(arguments: tuple[str, int, int, bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Heads(*arguments)  # type: ignore[arg-type]


def test_a_target_of_another_head_is_named() -> None:
    with pytest.raises(ValueError, match=r"has 10 outputs, but CL1 takes 5 heads of 10 classes: 50.*classes=50"):
        Heads("CL1", 5, 10, own=True).check(MLPSpace())


def test_entropy_names_the_surest() -> None:
    logits_TNK = np.array([[[0.0, 0.1], [9.0, 0.0]], [[5.0, 0.0], [0.0, 0.0]]], np.float32)
    assert lowest_entropy(np.zeros((2, 1), np.float32), logits_TNK).tolist() == [1, 0]


def test_summary_of_a_matrix_by_hand() -> None:
    nan = np.nan
    matrix = np.array([[0.9, nan, nan], [0.95, 0.8, nan], [0.7, 0.6, 0.9]])
    found = summarise(matrix, np.array([0.9, 0.85, 0.8]))
    expected = (2.2 / 3, 2.6 / 3, (0.25 + 0.2) / 2, (-0.2 - 0.2) / 2, (-0.05 + 0.1) / 2)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    with pytest.raises(ValueError, match="not finished"):
        summarise(np.full((2, 2), nan))
    for wrong in (np.array([0.9]), np.array([0.9, 0.8]), np.full((3, 1), 0.9), np.array(0.9)):
        with pytest.raises(ValueError, match=r"scratch: shape .*each of 3 tasks"):
            summarise(matrix, wrong)
