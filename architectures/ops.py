"""Ops: what a node of an architecture computes, and which parameter leaves it owns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from architectures.layers import Layers

Role = Literal["kernel", "scale", "bias", "head_kernel", "head_bias", "embedding", "factor"]
ROLES: tuple[Role, ...] = ("kernel", "scale", "bias", "head_kernel", "head_bias", "embedding", "factor")


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter array in canonical layout.

    Attributes:
        role: what the array does; decides how it is initialised and decoded. An embedding is looked up or added by
            position; a factor is any other parameter (gates, temperatures), whose size only its model knows.
        shape: (kh, kw, input channels, output channels) for a kernel, (inputs, outputs) for a head_kernel, (rows,
            width) for an embedding, (size,) for the 1-D roles.
    """

    role: Role
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        rank = {"kernel": 4, "head_kernel": 2, "embedding": 2}.get(self.role, 1)
        if self.role not in ROLES:
            raise ValueError(f"Leaf.role={self.role!r}: use one of {', '.join(ROLES)}")
        if len(self.shape) != rank or min(self.shape) < 1:
            raise ValueError(f"Leaf.shape={self.shape}: a {self.role} has {rank} positive sizes")

    @property
    def fan_in(self) -> int:
        """Number of inputs that one output sums over (1 for 1-D leaves)."""
        if len(self.shape) == 1:
            return 1
        fan_in = 1
        for size in self.shape[:-1]:
            fan_in *= size
        return fan_in


Leaves = Mapping[str, Leaf]
Apply = Callable[[Mapping[str, Array], Array, Layers], Array]


def no_leaves(channels: int) -> Leaves:
    """The leaves of an op without parameters."""
    return {}


@dataclasses.dataclass(frozen=True)
class Op:
    """An operation from [B, H, W, C] to [B, H, W, C] (or, where all candidates agree, to another number of channels).

    Attributes:
        name: the key of the op's embedding in a hypernetwork's vocabulary; unique within a space.
        apply: `apply(weights, x, layers)`, where `weights` holds the leaves declared below by name.
        leaves: the op's parameter leaves at a number of channels.
        linear: optionally, the expensive first part of the op, of the same signature, whose output (of one shape for
            all candidates of a switch) is what `apply` then gets for x. The executor saves that output, so that the
            backward pass does not compute it again; an op without it is computed again from its input.
        kernel: spatial extent of its receptive field (an attribute of the graph's node).
        rectifies: its input passes through a ReLU first (what activation-pattern proxies observe).
    """

    name: str
    apply: Apply
    leaves: Callable[[int], Leaves] = no_leaves
    linear: Apply | None = None
    kernel: int = 1
    rectifies: bool = False


def conv_leaves(kernel: int, inputs: int, outputs: int) -> Leaves:
    """Leaves of convolution and batch normalisation: kernel, scale, bias."""
    return {
        "kernel": Leaf("kernel", (kernel, kernel, inputs, outputs)),
        "scale": Leaf("scale", (outputs,)),
        "bias": Leaf("bias", (outputs,)),
    }


def relu_conv(weights: Mapping[str, Array], x: Array, layers: Layers) -> Array:
    """ReLU, then convolution."""
    return layers.conv(jax.nn.relu(x), weights["kernel"])


def normalise(weights: Mapping[str, Array], x: Array, layers: Layers) -> Array:
    """Batch normalisation."""
    return layers.batch_norm(x, weights["scale"], weights["bias"])


NONE = Op("none", lambda weights, x, layers: jnp.zeros_like(x))
SKIP = Op("skip_connect", lambda weights, x, layers: x)
CONV_1X1 = Op("nor_conv_1x1", normalise, lambda c: conv_leaves(1, c, c), relu_conv, kernel=1, rectifies=True)
CONV_3X3 = Op("nor_conv_3x3", normalise, lambda c: conv_leaves(3, c, c), relu_conv, kernel=3, rectifies=True)
AVG_POOL_3X3 = Op("avg_pool_3x3", lambda weights, x, layers: layers.avg_pool_3x3(x), kernel=3)
