"""The penalty on earlier tasks: equal to its formula, unbiased when it draws, blind to what is not used."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from architectures.spaces import MLP, MLPSpace
from ghn.api import Hypernetwork, Parameters
from ghn.config import GHNConfig
from ghn.features import stack_inputs
from train.continual import Heads, HypernetworkLearner, RegulariserConfig
from train.continual.learner import Chunk
from train.continual.regulariser import Drawn, Pool, Regulariser, make_pool

SPACE = MLPSpace(input_shape=(2, 2, 1), classes=8, widths=(3, 5), depths=(1, 2))
POOL = (MLP((5,)), MLP((3, 5)))
HEADS = Heads("CL1", tasks=4, classes=2, own=True)


@pytest.fixture(scope="module")
def hypernetwork() -> Hypernetwork:
    config = GHNConfig(
        width=4, hidden=4, tile=4, task_width=4, propagation="none", decoder="chunks", residual=False, tasks=4
    )
    return Hypernetwork.create(SPACE, config)


@pytest.fixture(scope="module")
def moved(hypernetwork: Hypernetwork) -> Parameters:
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape).astype(np.float32), hypernetwork.parameters
    )


def regulariser(hypernetwork: Hypernetwork, **fields: object) -> tuple[Regulariser, Pool]:
    chosen = {"beta": 0.5, "subset": None, "targets": "snapshot", **fields}
    config = RegulariserConfig(**chosen)  # type: ignore[arg-type]
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


def penalties(
    parts: Regulariser, hypernetwork: Hypernetwork, parameters: Parameters, pool: Pool, task: int, draws: int = 64
) -> tuple[np.ndarray, Drawn]:
    """The penalty under many keys, and what was drawn."""
    stored = HypernetworkLearner(hypernetwork, POOL, HEADS, parts.config)._store(hypernetwork.parameters, task)
    assert (stored is None) == (parts.config.targets == "snapshot")

    @jax.jit
    def value(drawn: Drawn) -> jax.Array:
        inputs = pool.inputs_of(drawn.architectures, drawn.tasks)
        targets = parts.targets(hypernetwork.parameters, stored, inputs, drawn)
        return parts.penalty(parts.generate(parameters, inputs), targets, pool, drawn)

    rng = np.random.default_rng(0)
    drawn = [parts.draw(task, rng) for _ in range(draws)]
    return np.array([value(one) for one in drawn]), stack_inputs(drawn)


@pytest.mark.parametrize(("subset", "targets"), [(None, "snapshot"), (1, "snapshot"), (2, "stored")])
def test_is_its_formula_for_every_draw(
    hypernetwork: Hypernetwork, moved: Parameters, subset: int | None, targets: str
) -> None:
    parts, pool = regulariser(hypernetwork, subset=subset, targets=targets)
    values, drawn = penalties(parts, hypernetwork, moved, pool, task=3)
    count = subset or 3
    distance = {(task, own): plain(hypernetwork, moved, task, POOL[own]) for task in range(3) for own in range(2)}
    for value, tasks, architectures in zip(values, drawn.tasks, drawn.architectures, strict=True):
        pairs = list(zip(tasks.tolist()[:count], architectures.tolist()[:count], strict=True))
        assert len({task for task, _ in pairs}) == count
        assert value == pytest.approx(0.5 / count * sum(distance[pair] for pair in pairs), rel=1e-4)
    assert len(set(np.round(values, 5))) == min({1: 6, 2: 12, None: 8}[subset], 64)


def test_first_task_has_no_penalty(hypernetwork: Hypernetwork, moved: Parameters) -> None:
    parts, pool = regulariser(hypernetwork)
    values, drawn = penalties(parts, hypernetwork, moved, pool, task=0, draws=2)
    assert not values.any()
    assert not np.any(drawn.shares)


def test_chosen_leaves_alone_are_held(hypernetwork: Hypernetwork, moved: Parameters) -> None:
    parts, pool = regulariser(hypernetwork, leaves=("classifier",), subset=1)
    (value,), drawn = penalties(parts, hypernetwork, moved, pool, task=1, draws=1)
    expected = 0.5 * plain(hypernetwork, moved, 0, POOL[int(drawn.architectures[0, 0])], "classifier")
    assert value == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match=r"leaves: 'last' begins no name.*first/kernel"):
        make_pool(hypernetwork, POOL, ("last",))


def test_only_the_current_embedding_is_trained(hypernetwork: Hypernetwork) -> None:
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


@pytest.mark.parametrize(
    "names", [("a", "b", "b", "c"), ("a", "b", "c"), ("a", "b", "c", ""), ("a", "b", "c", "d", "e")]
)
def test_names_are_one_for_each_task(hypernetwork: Hypernetwork, names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"names=.*: give 4 that differ, one for each task"):
        HypernetworkLearner(hypernetwork, POOL, HEADS, names=names)


def test_a_learner_has_an_architecture_and_renames_no_task(hypernetwork: Hypernetwork) -> None:
    with pytest.raises(ValueError, match="architectures: there is none"):
        HypernetworkLearner(hypernetwork, [], HEADS)
    named = hypernetwork.add_task("first")
    with pytest.raises(ValueError, match=r"knows task 'first' in row 0, where the learner has '0'; give names"):
        HypernetworkLearner(named, POOL, HEADS)
    learner = HypernetworkLearner(named, POOL, HEADS, names=("first", "b", "c", "d"))
    trained = learner.trained(learner.init(), 2)
    assert trained.tasks == ("first", "b", "", "")
    HypernetworkLearner(trained, POOL, HEADS, names=("first", "b", "c", "d"))
