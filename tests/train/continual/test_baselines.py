"""Baselines: each does what its paper says on one stream; penalties equal their formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from architectures.spaces import MLP, MLPSpace
from train.continual import ContinualConfig, Heads, learn
from train.continual.baselines import FISHER_IMAGES, DirectLearner, DirectState
from train.continual.build import make_learner
from train.continual.learner import Chunk, adam
from train.continual.metrics import Summary, summarise
from train.continual.streams import Part


def summary(config: ContinualConfig, method: str, strength: float = 1.0) -> Summary:
    """Of permutations with one head for all: where one set of weights forgets most."""
    config = dataclasses.replace(config, method=method, strength=strength, scenario="CL2")
    stream = config.stream.build()
    return summarise(learn(stream, make_learner(config, stream), config.schedule).matrix)


@pytest.fixture(scope="module")
def finetuned(config: ContinualConfig) -> Summary:
    return summary(config, "finetune")


@pytest.mark.parametrize(
    ("method", "strength"), [("ewc", 100.0), ("online_ewc", 100.0), ("si", 1.0), ("replay", 0.0), ("joint", 0.0)]
)
def test_forgets_less_than_fine_tuning(
    config: ContinualConfig, finetuned: Summary, method: str, strength: float
) -> None:
    found = summary(config, method, strength)
    assert found.during > 0.5
    assert found.forgetting < finetuned.forgetting - 0.05


def test_scratch_forgets_nothing(config: ContinualConfig) -> None:
    config = dataclasses.replace(config, method="scratch")
    stream = config.stream.build()
    found = summarise(learn(stream, make_learner(config, stream), config.schedule).matrix)
    assert found.forgetting == 0
    assert found.during > 0.6


def learner_and_state(method: str, strength: float) -> tuple[DirectLearner, DirectState]:
    space = MLPSpace(input_shape=(2, 2, 1), classes=6, widths=(3,), depths=(1,))
    heads = Heads("CL1", 3, 2, own=True)
    learner = DirectLearner(space, MLP((3,)), heads, method, adam(1e-2, 10), strength)  # type: ignore[arg-type]
    return learner, learner.begin(learner.init(), 0)


def part(seed: int) -> Part:
    rng = np.random.default_rng(seed)
    return Part(rng.normal(size=(6, 2, 2, 1)).astype(np.float32), rng.integers(0, 2, 6).astype(np.int32))


def test_ewc_is_the_sum_of_its_tasks_penalties() -> None:
    learner, state = learner_and_state("ewc", 7.0)
    expected, trained = 0.0, []
    for task in range(2):
        state = learner.begin(state, task)
        weights = jax.tree.map(lambda leaf, task=task: leaf + 0.1 * task, state.weights)
        state = learner.finish(state._replace(weights=weights), task, part(task))
        trained.append((weights, _fisher(learner, weights, task)))
    now = jax.tree.map(lambda leaf: leaf * 0.5, state.weights)

    def quadratic(w: object) -> jax.Array:
        return sum(
            3.5 * sum(jnp.sum(f[name] * jnp.square(w[name] - then[name])) for name in f)  # type: ignore[index]
            for then, f in trained
        )

    found = jax.grad(lambda w: learner._penalty(w, state, jnp.int32(2), None))(now)  # type: ignore[arg-type]
    expected = jax.grad(quadratic)(now)
    for name in now:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)


def _fisher(learner: DirectLearner, weights: dict[str, jax.Array], task: int) -> dict[str, jax.Array]:
    """Mean over images of the squared gradient of each one's loss, image by image."""
    images, labels = part(task)
    assert len(labels) <= FISHER_IMAGES
    total = {name: jnp.zeros_like(leaf) for name, leaf in weights.items()}
    for image, label in zip(images, labels, strict=True):

        def loss(w: dict[str, jax.Array], image: np.ndarray = image, label: int = label) -> jax.Array:
            logits = learner.space.forward_static(w, MLP((3,)), image[None], None)[0]  # type: ignore[arg-type]
            return -jax.nn.log_softmax(logits[2 * task : 2 * task + 2])[label]

        total = {name: total[name] + jnp.square(g) / len(labels) for name, g in jax.grad(loss)(weights).items()}
    return total


def test_si_accumulates_what_each_weight_did_for_the_loss() -> None:
    learner, state = learner_and_state("si", 1.0)
    images, labels = part(0)
    chunk = Chunk(images[None, :4], labels[None, :4], np.zeros((1, 4), np.int32), np.zeros(1, np.int32))
    after, _ = learner.update(state, 0, chunk)
    grads = jax.grad(lambda w: learner._task_loss(w, jnp.int32(0), jax.tree.map(lambda x: x[0], chunk))[0])(
        state.weights
    )
    for name, path in after.path.items():
        expected = -grads[name] * (after.weights[name] - state.weights[name])
        np.testing.assert_allclose(path, expected, atol=1e-6)


def test_lwf_holds_outputs_of_earlier_tasks_alone() -> None:
    learner, state = learner_and_state("lwf", 2.0)
    images, labels = part(0)
    rows = Chunk(jnp.asarray(images), jnp.asarray(labels), jnp.zeros(6, jnp.int32), jnp.zeros(()))
    gradient = jax.grad(lambda w, before, task: learner._penalty(w, state._replace(before=before), task, rows))
    same = gradient(state.weights, state.weights, jnp.int32(2))
    assert all(float(jnp.abs(leaf).max()) < 1e-5 for leaf in same.values())
    moved = jax.tree.map(lambda leaf: leaf + 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), state.weights)
    head = np.asarray(gradient(moved, state.weights, jnp.int32(2))["classifier/kernel"])[0]
    assert np.abs(head[:, :4]).max() > 1e-3
    assert np.abs(head[:, 4:]).max() == 0
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient(moved, state.weights, jnp.int32(0))))


def test_one_set_of_weights_cannot_answer_all_tasks_with_one_head() -> None:
    space = MLPSpace(input_shape=(2, 2, 1), classes=2, widths=(3,), depths=(1,))
    with pytest.raises(ValueError, match=r"heads='shared': finetune has one set of weights.*heads='own'"):
        DirectLearner(space, MLP((3,)), Heads("CL3", 3, 2, own=False), "finetune", adam(1e-2, 10))


@pytest.mark.parametrize(
    ("method", "strength", "message"),
    [
        ("EWC", 1.0, "method='EWC': use one of finetune, joint"),
        ("ewc", -1.0, r"strength=-1.0: must be at least 0"),
        ("ewc", float("nan"), "strength=nan"),
    ],
)
def test_unknown_methods_and_negative_strengths_are_refused(method: str, strength: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learner_and_state(method, strength)
