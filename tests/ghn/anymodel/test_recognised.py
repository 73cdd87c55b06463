"""The trained hypernetwork of the package recognises networks of its space, and reads weights from their graph."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ghn
from architectures.layers import Layers
from architectures.spaces import Cell, NASBench201
from architectures.spaces.recognise import NotRecognisedError, recognise
from architectures.trace import trace
from train.data import DataConfig, load

CELL = "|nor_conv_3x3~0|+|avg_pool_3x3~0|avg_pool_3x3~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|"  # held out of training
POOR = "|nor_conv_1x1~0|+|none~0|avg_pool_3x3~1|+|none~0|nor_conv_1x1~1|avg_pool_3x3~2|"


class CellNet(nn.Module):
    """A network of NAS-Bench-201 as somebody would write it."""

    edges: tuple[str, ...]
    channels: int = 8
    classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def norm(x: jax.Array) -> jax.Array:
            return nn.BatchNorm(use_running_average=not train)(x)

        def conv(x: jax.Array, width: int, kernel: int, stride: int = 1) -> jax.Array:
            return nn.Conv(width, (kernel, kernel), (stride, stride), padding=kernel // 2, use_bias=False)(x)

        def pool(x: jax.Array, size: int, stride: int) -> jax.Array:
            return nn.avg_pool(x, (size, size), (stride, stride), "SAME", count_include_pad=False)

        x = norm(conv(x, self.channels, 3))
        for stage in range(3):
            width = self.channels * 2**stage
            if stage:
                y = norm(conv(nn.relu(x), width, 3, 2))
                x = norm(conv(nn.relu(y), width, 3)) + conv(pool(x, 2, 2), width, 1)
            edges, nodes = iter(self.edges), [x]
            for target in range(1, 4):
                terms = []
                for source in range(target):
                    op, y = next(edges), nodes[source]
                    if op == "skip_connect":
                        terms.append(y)
                    elif op == "avg_pool_3x3":
                        terms.append(pool(y, 3, 1))
                    elif op != "none":
                        terms.append(norm(conv(nn.relu(y), width, int(op[-1]))))
                nodes.append(sum(terms, jnp.zeros_like(x)))
            x = nodes[-1]
        return nn.Dense(self.classes)(nn.relu(norm(x)).mean((1, 2)))


@pytest.fixture(scope="module")
def demo() -> ghn.Hypernetwork:
    return ghn.load("demo")


@pytest.fixture(scope="module")
def images() -> tuple[Any, Any]:
    split = load(DataConfig()).test  # normalised as in training
    return np.asarray(split.images), np.asarray(split.labels)


@functools.partial(jax.jit, static_argnums=0)
def logits_of(model: nn.Module, variables: Any, x: jax.Array) -> jax.Array:
    """Under statistics of these very images."""
    return model.apply(variables, x, train=True, mutable=["batch_stats"])[0]


def accuracy(model: nn.Module, variables: Any, images: tuple[Any, Any]) -> float:
    return float(np.mean(np.argmax(np.asarray(logits_of(model, variables, images[0])), -1) == images[1]))


def test_weights_are_the_hypernetworks_and_worth_something(demo: ghn.Hypernetwork, images: tuple[Any, Any]) -> None:
    cell = demo.space.from_string(CELL)
    model, x = CellNet(cell.edges), jnp.asarray(images[0])
    result = ghn.predict(model, x)
    assert result.report.predicted == len(result.report.rows)
    own = accuracy(model, result.variables, images)
    space_logits = demo.space.apply(demo(demo.space.graph(recognise(demo.space, result.graph)[0])), cell, x)
    assert own == pytest.approx(float(np.mean(np.argmax(np.asarray(space_logits), -1) == images[1])), abs=0.003)
    initial = ghn.predict(model, x, hypernetwork=ghn.OpenHypernetwork.create(vocabulary=("input",)))
    wrong = ghn.predict(model, x, graph=demo.space.graph(demo.space.from_string(POOR)))
    changed = [
        not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (result.params, wrong.params)), strict=True)
    ]
    assert np.mean(changed) > 0.9
    assert own > 0.8 > 0.4 > accuracy(model, initial.variables, images)
    assert own > accuracy(model, wrong.variables, images) + 0.005


@pytest.mark.parametrize("seed", range(12))
def test_architectures_of_the_space_are_recognised(demo: ghn.Hypernetwork, seed: int) -> None:
    space = demo.space
    rng = np.random.default_rng(seed)
    cell = space.sample(rng)
    while not space.connected(cell):
        cell = space.sample(rng)
    params = jax.eval_shape(lambda: space_params(space, cell))
    graph = trace(lambda p, x: plain(space, cell, p, x), params, jnp.zeros((2, 14, 14, 1)))
    found, pairs = recognise(space, graph)
    # The same function: cells that differ only in dead edges or in the order of nodes are one.
    assert space.connected(found)
    reached = {graph.ops[graph.parameters[number].node] for number in pairs}
    assert reached >= {"conv", "batch_norm", "dense"}


def space_params(space: NASBench201, cell: Cell) -> Any:
    tree: dict[str, jax.Array] = {}
    for row in space.graph(cell).parameters:
        tree["/".join(row.path)] = jnp.zeros(row.leaf.shape)
    return tree


def plain(space: NASBench201, cell: Cell, params: Any, x: jax.Array) -> jax.Array:
    """The space's own network as a function of the leaves that the architecture has."""
    arrays = {name: jnp.zeros((group.slots, *group.shape)) for name, group in space.layout.items()}
    slots: dict[str, list[jax.Array]] = {name: list(array) for name, array in arrays.items()}
    for row in space.graph(cell).parameters:
        assert row.place is not None
        slots[row.place.group][row.place.slot] = params["/".join(row.path)]
    layers = Layers(gradient="plain")

    def block(prefix: str, x: jax.Array, stride: int = 1) -> jax.Array:
        y = layers.conv(jax.nn.relu(x), params[f"{prefix}/kernel"], stride)
        return layers.batch_norm(y, params[f"{prefix}/scale"], params[f"{prefix}/bias"])

    x = layers.batch_norm(layers.conv(x, params["stem/kernel"]), params["stem/scale"], params["stem/bias"])
    for stage in range(space.stages):
        if stage:
            part = f"reduction{stage}"
            y = block(f"{part}/b", block(f"{part}/a", x, 2))
            x = y + layers.conv(layers.avg_pool_2x2(x), params[f"{part}/shortcut/kernel"])
        nodes = [x]
        edges = iter(cell.edges)
        for target in range(1, space.nodes):
            total: Any = None
            for source in range(target):
                op, y = next(edges), nodes[source]
                if op == "none" or y is None:
                    continue
                if op == "avg_pool_3x3":
                    y = layers.avg_pool_3x3(y)
                elif op != "skip_connect":
                    y = block(f"stage{stage}/cell0/edge_{source}_{target}/{op}", y)
                total = y if total is None else total + y
            nodes.append(total)
        x = nodes[-1]
    x = layers.batch_norm(x, params["norm/scale"], params["norm/bias"])
    return jax.nn.relu(x).mean((1, 2)) @ params["classifier/kernel"] + params["classifier/bias"]


def test_other_models_are_not_recognised_and_say_so(demo: ghn.Hypernetwork) -> None:
    class Other(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            return nn.Dense(10)(nn.relu(nn.Conv(8, (3, 3))(x)).mean((1, 2)))

    result = ghn.predict(Other(), jnp.ones((2, 14, 14, 1)), hypernetwork=demo)
    assert {row.source for row in result.report.rows} == {"initialiser"}
    assert {row.reason for row in result.report.rows} == {"no network of nasbench201"}
    assert "none of its networks (node" in str(result.report)
    with pytest.raises(ValueError, match="strict=True"):
        ghn.predict(Other(), jnp.ones((2, 14, 14, 1)), hypernetwork=demo, strict=True)
    with pytest.raises(NotRecognisedError):
        ghn.predict(Other(), jnp.ones((2, 14, 14, 1)), hypernetwork=demo, graph=result.graph)
    wide = CellNet(demo.space.from_string(CELL).edges, channels=16)
    assert "the space has" in ghn.predict(wide, jnp.ones((2, 14, 14, 1)), hypernetwork=demo).report.hypernetwork
