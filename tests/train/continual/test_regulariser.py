"""The penalty on earlier tasks: equal to its formula, unbiased when it draws, blind to what is not used."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from architectures.spaces import MLP, MLPSpace
from ghn.api import Hypernetwork, Parameters
from ghn.config import GHNConfig
from train.continual import Heads, RegulariserConfig
from train.continual.regulariser import Pool, Regulariser, make_pool

SPACE = MLPSpace(input_shape=(2, 2, 1), classes=8, widths=(3, 5), depths=(1, 2))
POOL = (MLP((5,)), MLP((3, 5)))
HEADS = Heads("CL1", tasks=4, classes=2, own=True)


@pytest.fixture(scope="module")
def hypernetwork() -> Hypernetwork:
    config = GHNConfig(
        width=4, message_width=2, hidden=4, tile=4, task_width=4, decoder="chunks", residual=False, tasks=4
    )
    return Hypernetwork.create(SPACE, config)


@pytest.fixture(scope="module")
def moved(hypernetwork: Hypernetwork) -> Parameters:
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape).astype(np.float32), hypernetwork.parameters
    )


def regulariser(hypernetwork: Hypernetwork, **fields: object) -> tuple[Regulariser, Pool]:
    config = RegulariserConfig(beta=0.5, **fields)  # type: ignore[arg-type]
    pool = make_pool(hypernetwork, POOL, config.leaves)
    return Regulariser(hypernetwork.definition, SPACE, config, HEADS, 4, len(POOL)), pool


def plain(hypernetwork: Hypernetwork, parameters: Parameters, task: int, architecture: MLP, prefix: str = "") -> float:
    """|| h(e_t, then) - h(e_t, now) ||^2 over the leaves that the user sees, of the head only the task's columns."""
    names = [str(index) for index in range(4)]
    then = dataclasses.replace(hypernetwork, tasks=tuple(names))
    now = dataclasses.replace(then, parameters=parameters)
    graph, total = SPACE.graph(architecture), 0.0
    trees = [side(graph, task=task).as_pytree(architecture) for side in (then, now)]
    for layer in trees[0]:
        for leaf in trees[0][layer]:
            square = np.square(np.asarray(trees[0][layer][leaf]) - np.asarray(trees[1][layer][leaf]))
            square = square[..., 2 * task : 2 * task + 2] if layer == "classifier" else square
            total += float(square.sum()) if layer.startswith(prefix) else 0.0
    return total


def test_is_its_formula_at_every_architecture(hypernetwork: Hypernetwork, moved: Parameters) -> None:
    parts, pool = regulariser(hypernetwork)
    gradient = jax.jit(parts.gradient)
    values = [
        float(gradient(moved, hypernetwork.parameters, None, pool, np.int32(1), jax.random.key(key))[0])
        for key in range(8)
    ]
    expected = {round(0.5 * plain(hypernetwork, moved, 0, architecture), 4) for architecture in POOL}
    assert {round(value, 4) for value in values} == expected


def test_gradient_is_the_gradient(hypernetwork: Hypernetwork, moved: Parameters) -> None:
    parts, pool = regulariser(hypernetwork)
    one = dataclasses.replace(parts.config)  # all tasks, so the value depends on the architectures alone

    def value(parameters: Parameters) -> jax.Array:
        key = jax.random.key(3)
        architectures = jax.random.randint(jax.random.split(key)[1], (4,), 0, len(POOL))
        order = np.argsort([*jax.random.uniform(jax.random.split(key)[0], (4,))[:2], 2, 2])
        total = jnp.zeros(())
        for place in range(2):
            task, architecture = int(order[place]), architectures[place]
            target = parts.generate(hypernetwork.parameters, pool, architecture, task)
            total += parts.distance(parameters, target, pool, architecture, task)
        return one.beta / 2 * total

    found, grads = parts.gradient(moved, hypernetwork.parameters, None, pool, np.int32(2), jax.random.key(3))
    expected, expected_grads = jax.value_and_grad(value)(moved)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_drawing_some_tasks_is_unbiased_and_stored_targets_are_the_same(
    hypernetwork: Hypernetwork, moved: Parameters
) -> None:
    means = {}
    for subset, targets in ((None, "snapshot"), (1, "snapshot"), (1, "stored")):
        parts, pool = regulariser(hypernetwork, subset=subset, targets=targets)
        stored = parts.targets(hypernetwork.parameters, pool)
        assert (stored is None) == (targets == "snapshot")

        def value(key: jax.Array, parts: Regulariser = parts, pool: Pool = pool, stored: object = stored) -> jax.Array:
            return parts.gradient(moved, hypernetwork.parameters, stored, pool, jnp.int32(3), key)[0]  # type: ignore[arg-type]

        values = jax.jit(jax.vmap(value))(jax.random.split(jax.random.key(0), 400))
        means[subset, targets] = np.asarray(values)
    np.testing.assert_allclose(means[1, "stored"], means[1, "snapshot"], rtol=1e-4)
    error = means[1, "stored"].std() / 20
    assert abs(means[1, "stored"].mean() - means[None, "snapshot"].mean()) < 4 * error


def test_first_task_has_no_penalty(hypernetwork: Hypernetwork, moved: Parameters) -> None:
    parts, pool = regulariser(hypernetwork)
    value, grads = parts.gradient(moved, hypernetwork.parameters, None, pool, np.int32(0), jax.random.key(0))
    assert value == 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_chosen_leaves_alone_are_held(hypernetwork: Hypernetwork, moved: Parameters) -> None:
    parts, pool = regulariser(hypernetwork, leaves=("classifier",))
    target = parts.generate(hypernetwork.parameters, pool, 0, 2)  # type: ignore[arg-type]
    found = parts.distance(moved, target, pool, 0, 2)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, plain(hypernetwork, moved, 2, POOL[0], "classifier"), rtol=1e-4)
    with pytest.raises(ValueError, match=r"leaves: 'last' begins no name.*first/kernel"):
        make_pool(hypernetwork, POOL, ("last",))


def test_only_the_current_embedding_is_trained(hypernetwork: Hypernetwork) -> None:
    from train.continual import HypernetworkLearner
    from train.continual.learner import Chunk

    learner = HypernetworkLearner(hypernetwork, POOL, HEADS)
    rng = np.random.default_rng(0)
    chunk = Chunk(
        rng.normal(size=(2, 4, 2, 2, 1)).astype(np.float32),
        rng.integers(0, 2, (2, 4)).astype(np.int32),
        np.full((2, 4), 2, np.int32),
        np.arange(2, dtype=np.int32),
    )
    state, metrics = learner.update(learner.begin(learner.init(), 2), 2, chunk)
    assert np.isfinite(metrics["loss"]).all()
    table = nnx.to_pure_dict(state.parameters)["conditioning"]["tasks"]
    before = nnx.to_pure_dict(hypernetwork.parameters)["conditioning"]["tasks"]
    changed = np.abs(np.asarray(table) - np.asarray(before)).max(1) > 0
    assert changed.tolist() == [False, False, True, False]
