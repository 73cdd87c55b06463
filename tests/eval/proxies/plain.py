"""A NAS-Bench-201 network written by hand from its named leaves: the slow reference of the proxies."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from architectures.layout import Weights, initialise, occupancy
from architectures.spaces import NASBench201
from architectures.spaces.cell import Cell


def random_weights(space: NASBench201, cell: Cell, key: Array) -> dict[str, Any]:
    """The leaves of `cell` by name, drawn as the proxies draw them."""
    variants = {name: filled.variant for name, filled in occupancy(space.layout, space.graph(cell)).items()}
    return Weights(initialise(space.layout, key, variants), space).as_pytree(cell)


def conv(x: Array, kernel: Array, stride: int = 1) -> Array:
    reach = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(reach, reach)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def pool(x: Array, size: int, stride: int, reach: int) -> Array:
    """Average pooling that does not count padding."""
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    padding = [(0, 0), (reach, reach), (reach, reach), (0, 0)]

    def total(x: Array) -> Array:
        return lax.reduce_window(x, np.zeros((), x.dtype)[()], lax.add, window, strides, padding)

    return total(x) / total(jnp.ones_like(x))


class Plain:
    """The network of one cell; `relus` and `blocks` hold what its last run saw."""

    def __init__(self, space: NASBench201, cell: Cell, normalised: bool = True) -> None:
        self.space, self.cell, self.normalised = space, cell, normalised
        self.relus: list[Array] = []
        self.blocks: list[Array] = []

    def relu(self, x: Array) -> Array:
        self.relus.append(x)
        return jax.nn.relu(x)

    def norm(self, x: Array, leaves: dict[str, Array]) -> Array:
        if not self.normalised:
            return x
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) * lax.rsqrt(variance + 1e-5) * leaves["scale"] + leaves["bias"]

    def convolved(self, x: Array, leaves: dict[str, Array], stride: int = 1) -> Array:
        return self.norm(conv(self.relu(x), leaves["kernel"], stride), leaves)

    def op(self, name: str, x: Array, leaves: dict[str, Any]) -> Array:
        if name == "skip_connect":
            return x
        return pool(x, 3, 1, 1) if name == "avg_pool_3x3" else self.convolved(x, leaves[name])

    def run_cell(self, x: Array, leaves: dict[str, Any]) -> Array:
        nodes, edges = [x], iter(self.cell.edges)
        for target in range(1, self.space.nodes):
            read = [(source, next(edges)) for source in range(target)]
            terms = [self.op(op, nodes[s], leaves.get(f"edge_{s}_{target}", {})) for s, op in read if op != "none"]
            nodes.append(sum(terms[1:], terms[0]))
        return nodes[-1]

    def ended(self, x: Array) -> Array:
        self.blocks.append(x)
        return checkpoint_name(x, "block")

    def __call__(self, weights: dict[str, Any], images: Array) -> Array:
        """Logits."""
        self.relus, self.blocks = [], []
        x = self.ended(self.norm(conv(images, weights["stem"]["kernel"]), weights["stem"]))
        for stage in range(self.space.stages):
            if stage > 0:
                part = weights[f"reduction{stage}"]
                shortcut = conv(pool(x, 2, 2, 0), part["shortcut"]["kernel"])
                x = self.ended(shortcut + self.convolved(self.convolved(x, part["a"], 2), part["b"]))
            for cell in range(self.space.cells):
                x = self.ended(self.run_cell(x, weights.get(f"stage{stage}", {}).get(f"cell{cell}", {})))
        x = self.relu(self.norm(x, weights["norm"])).mean((1, 2))
        return x @ weights["classifier"]["kernel"] + weights["classifier"]["bias"]

    def run_block(self, weights: dict[str, Any], number: int, x: Array) -> Array:
        """Block `number` (the stem is 0) from its input."""
        stage, cell = divmod(number - 1, self.space.cells + 1)
        if cell == self.space.cells:
            part = weights[f"reduction{stage + 1}"]
            return conv(pool(x, 2, 2, 0), part["shortcut"]["kernel"]) + self.convolved(
                self.convolved(x, part["a"], 2), part["b"]
            )
        return self.run_cell(x, weights[f"stage{stage}"][f"cell{cell}"])
