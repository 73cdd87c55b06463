"""Tasks and conditions: weights depend on them, earlier tasks stay what they were, bad input is named."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ghn
from architectures.layout import Weights
from architectures.spaces import MLP, MLPSpace
from ghn.config import GHNConfig
from ghn.features import encode
from ghn.hypernetwork import GHN
from ghn.propagation import LayerRNN

SPACE = MLPSpace(input_shape=(2, 2, 1), classes=3, widths=(4, 6), depths=(1, 2))
GRAPH = SPACE.graph(MLP((6, 4)))
CONFIG = GHNConfig(
    width=8,
    message_width=4,
    hidden=8,
    tile=4,
    decoder="chunks",
    residual=False,
    tasks=2,
    conditions=(("angle", -90, 90),),
)


@pytest.fixture(scope="module")
def hypernetwork() -> ghn.Hypernetwork:
    return ghn.Hypernetwork.create(SPACE, CONFIG).add_task("first").add_task("second")


def at(hypernetwork: ghn.Hypernetwork, task: str | int | None, angle: float = 10.0) -> Weights:
    return hypernetwork(GRAPH, task=task, conditions={"angle": angle})


def distance(a: Weights, b: Weights) -> float:
    return max(float(jnp.abs(a.arrays[name] - b.arrays[name]).max()) for name in a.arrays)


def test_weights_depend_on_task_and_condition(hypernetwork: ghn.Hypernetwork) -> None:
    first = at(hypernetwork, "first")
    assert distance(first, at(hypernetwork, 0)) == 0
    assert distance(first, at(hypernetwork, "second")) > 1e-2
    assert distance(first, at(hypernetwork, "first", 80.0)) > 1e-2


def test_what_is_put_in_has_constant_norm(hypernetwork: ghn.Hypernetwork) -> None:
    module: GHN = nnx.merge(hypernetwork.definition, hypernetwork.parameters)
    norms = []
    for task, angle in (("first", -90.0), ("second", 0.0), ("second", 90.0)):
        inputs = hypernetwork.inputs(GRAPH, task, {"angle": angle})
        norms.append(float(jnp.linalg.norm(module.conditioning(inputs))))
    np.testing.assert_allclose(norms, (CONFIG.task_width + 1) ** 0.5, rtol=1e-5)
    assert encode(np.zeros(1, np.float32), "mip").shape == (2,)


def test_size_of_an_embedding_changes_nothing(hypernetwork: ghn.Hypernetwork) -> None:
    scaled = jax.tree.map(lambda leaf: leaf, hypernetwork.parameters)
    table = scaled["conditioning"]["tasks"]
    table.set_value(table.get_value() * 100)
    larger = dataclasses.replace(hypernetwork, parameters=scaled)
    assert distance(at(larger, "first"), at(hypernetwork, "first")) < 1e-5


def test_adding_and_deleting_tasks_leaves_others_exactly(hypernetwork: ghn.Hypernetwork) -> None:
    second = at(hypernetwork, "second")
    more = hypernetwork.add_task("third").add_task("fourth")
    assert more.config.tasks == 4
    fewer = more.delete_task("first")
    assert distance(at(more, "second"), second) == 0
    assert distance(at(fewer, "second"), second) == 0
    again = fewer.add_task("fifth")
    assert again.config.tasks == 4
    assert again.tasks == ("fifth", "second", "third", "fourth")
    with pytest.raises(
        ValueError, match=r"task='first': unknown; this hypernetwork knows second \(1\), third \(2\), fourth \(3\)"
    ):
        at(fewer, "first")


def test_a_tasks_number_is_its_row_whatever_other_tasks_do(hypernetwork: ghn.Hypernetwork) -> None:
    second = at(hypernetwork, "second")
    fewer = hypernetwork.add_task("third").delete_task("first")
    assert distance(at(fewer, 1), second) == 0
    assert distance(at(fewer, np.int64(1)), second) == 0
    again = fewer.add_task("fourth")
    assert again.tasks.index("fourth") == 0
    assert distance(at(again, 1), second) == 0
    assert distance(at(again, 0), at(again, "fourth")) == 0
    assert again.delete_task(1).tasks == ("fourth", "", "third", "")


def test_many_graphs_for_a_task_equal_each_by_itself(hypernetwork: ghn.Hypernetwork) -> None:
    graphs = [GRAPH, SPACE.graph(MLP((4,)))]
    many = hypernetwork.generate_many(graphs, "second", {"angle": 10.0})
    for index, graph in enumerate(graphs):
        alone = hypernetwork(graph, task="second", conditions={"angle": 10.0}).arrays
        for name, leaf in many.items():
            np.testing.assert_allclose(leaf[index], alone[name], rtol=1e-5, atol=1e-6)
    first, second = (np.asarray(hypernetwork.embed(graphs, task, {"angle": 10.0})) for task in (0, 1))
    assert first.shape == (2, CONFIG.width)
    assert np.abs(first - second).max() > 1e-3
    with pytest.raises(ValueError, match="task=None: unknown"):
        hypernetwork.embed(graphs)


def test_growth_keeps_outputs_and_then_learns(hypernetwork: ghn.Hypernetwork) -> None:
    larger = hypernetwork.grow(5).grow(3)
    assert larger.parameter_count > hypernetwork.parameter_count
    assert distance(at(larger, "second"), at(hypernetwork, "second")) <= 1e-6

    def total(parameters: nnx.State) -> jax.Array:
        weights = nnx.merge(larger.definition, parameters)(larger.inputs(GRAPH, 0, {"angle": 0.0}))
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in weights.values())

    grads = dict(nnx.to_flat_state(jax.jit(jax.grad(total))(larger.parameters)))
    branches = [leaf.get_value() for key, leaf in grads.items() if key[-3:-1] in (("networks", 1), ("networks", 2))]
    moved = [leaf for leaf in branches if float(jnp.abs(leaf).max()) > 0]
    assert len(moved) == 4  # the two outputs of each; what lies before an output of zero follows once that has moved


def test_checkpoints_hold_tasks_conditions_and_growth(hypernetwork: ghn.Hypernetwork, tmp_path: Path) -> None:
    saved = hypernetwork.grow(5).delete_task("first")
    ghn.save_file(saved, tmp_path / "saved.safetensors")
    loaded = ghn.load(tmp_path / "saved.safetensors")
    assert (loaded.config, loaded.tasks) == (saved.config, ("", "second"))
    assert distance(at(loaded, "second"), at(saved, "second")) == 0


def test_no_tile_of_a_layer_repeats_another(hypernetwork: ghn.Hypernetwork) -> None:
    space = MLPSpace(input_shape=(8, 8, 1), classes=3, widths=(16,), depths=(1,))
    wide = ghn.Hypernetwork.create(space, dataclasses.replace(CONFIG, tasks=0, conditions=()))
    kernel = np.asarray(wide(space.graph(MLP((16,)))).arrays["first/kernel"])[0, 0, 0]
    tiles = kernel.reshape(16, 4, 4, 4).swapaxes(1, 2).reshape(64, 16)
    correlation = np.corrcoef(tiles) - np.eye(64)
    assert np.abs(correlation).max() < 0.999
    np.testing.assert_allclose(kernel.std(), (2 / 64) ** 0.5, rtol=0.05)


def test_rnn_passes_forward_only() -> None:
    module = LayerRNN(4, rngs=nnx.Rngs(0))
    states = jax.random.normal(jax.random.key(0), (6, 4))
    present = np.array([True, True, True, False, True, True])  # three steps of two places
    nothing = np.zeros((6, 6), np.uint8)
    base = module(states, nothing, (3, 2), present)
    for node in range(6):
        changed = module(states.at[node].add(1.0), nothing, (3, 2), present) - base
        moved = np.flatnonzero(np.abs(np.asarray(changed)).max(1) > 1e-6).tolist()
        later = [place for place in range(6) if place // 2 > node // 2]
        assert moved == sorted([node, *later]) if present[node] else moved == [node]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda h: at(h, "other"), "task='other': unknown; this hypernetwork knows first \\(0\\), second \\(1\\)"),
        (lambda h: at(h, 2), "task=2: unknown"),
        (lambda h: at(h, -1), "task=-1: unknown"),
        (lambda h: at(h, True), "task=True: unknown"),
        (lambda h: at(h, 1.0), r"task=1\.0: unknown"),
        (lambda h: at(h.delete_task(0), 0), r"task=0: unknown; this hypernetwork knows second \(1\)"),
        (lambda h: at(h, None), "task=None: unknown"),
        (lambda h: at(h, 0, 91.0), r"angle=91 is outside its bounds \[-90, 90\]"),
        (lambda h: h(GRAPH, task=0), "angle missing or unknown"),
        (lambda h: h(GRAPH, task=0, conditions={"angle": 0, "size": 1}), "size missing or unknown"),
        (lambda h: h.add_task("first"), "'first': is empty or taken"),
        (
            lambda h: ghn.Hypernetwork.create(SPACE, GHNConfig(width=8, hidden=8)).add_task("x"),
            "not conditioned on tasks",
        ),
        (lambda h: ghn.Hypernetwork.create(SPACE, GHNConfig(width=8, hidden=8)).grow(4), "only decoder='chunks' grows"),
        (lambda h: GHNConfig(tasks=2, delta=False), r"GHNConfig.tasks=2.*delta=True"),
        (lambda h: GHNConfig(conditions=(("a", 1, 0),)), "'a' from 1 to 0"),
        (lambda h: GHNConfig(conditions=(("a", 0, float("inf")),)), "'a' from 0 to inf; give finite bounds"),
        (lambda h: GHNConfig(conditions=(("a", float("-inf"), 0),)), "'a' from -inf to 0; give finite bounds"),
    ],
)
def test_bad_input_is_named(hypernetwork: ghn.Hypernetwork, call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(hypernetwork)  # type: ignore[operator]
