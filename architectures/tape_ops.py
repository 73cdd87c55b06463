"""What a unit of a tape computes, on arrays padded to the most channels of a section; real extents are data.

Channels beyond an entry's own are zero on the way in and out, so that sums over channels need no mask; statistics are
divided by the real counts.

Shape letters: B batch, H height, W width, C most channels, N pixels (H * W), G groups, D heads, Q hidden units.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from architectures.layers import BATCH_NORM_EPSILON, Layers
from architectures.switch import cut
from architectures.tape import ACTIVATIONS, NORM_GROUPS, Norm
from architectures.window import depthwise, max_pool_3x3

MOST_HEADS = 4
GELU = (2 / np.pi) ** 0.5  # of its approximation by a hyperbolic tangent (Hendrycks & Gimpel 2016)
Leaves = Mapping[str, Array]
ACTIVATE: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
}


class Extents(NamedTuple):
    """The sizes of a unit that its op depends on: int32 scalars."""

    inputs: Array
    outputs: Array
    heads: Array
    hidden: Array
    offset: Array


Op = Callable[[Leaves, Extents, Array], Array]
Prepare = Callable[..., Array]  # (scale, bias, channels, activation, x) -> normalised and activated x


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def switch(branches: tuple[Callable[..., Array], ...], index: Array, *operands: Any) -> Any:
    """`lax.switch` whose gradient saves the operands alone and is a switch over each branch's own."""
    return lax.switch(index, branches, *operands)


def _switch_forward(branches: tuple[Callable[..., Array], ...], index: Array, *operands: Any) -> tuple[Any, Any]:
    return lax.switch(index, branches, *operands), (index, operands)


def _switch_backward(branches: tuple[Callable[..., Array], ...], saved: Any, g: Any) -> tuple[Any, ...]:
    index, operands = saved

    def gradient(branch: Callable[..., Array], operands: tuple[Any, ...], g: Any) -> tuple[Any, ...]:
        return jax.vjp(branch, *operands)[1](g)

    return None, *lax.switch(index, [functools.partial(gradient, branch) for branch in branches], operands, g)


switch.defvjp(_switch_forward, _switch_backward)


# --------------------------------------------------------------------------------------- normalisation and activation


def prepares(kinds: Sequence[tuple[Norm, bool]], layers: Layers) -> tuple[Prepare, ...]:
    """For every normalisation, and whether the activation after it is smooth: of the form x * sigmoid(a x + b x^3)
    (SiLU, GELU), not one that cuts off (none, ReLU)."""

    def prepare(
        norm: str, smooth: bool, scale: Array, bias: Array, channels: Array, activation: Array, x: Array
    ) -> Array:
        if norm == "batch":
            x = layers.batch_norm(x, scale, bias)
        elif norm != "none":
            moments = _layer_moments if norm == "layer" else _group_moments
            wide = x.astype(jnp.float32)
            mean, variance = moments(wide, channels)
            x = ((wide - mean) * lax.rsqrt(variance + BATCH_NORM_EPSILON) * scale + bias).astype(x.dtype)
        if smooth:
            gelu = activation == ACTIVATIONS.index("gelu")
            linear = jnp.where(gelu, 2 * GELU, 1.0).astype(x.dtype)
            cubic = jnp.where(gelu, 2 * GELU * 0.044715, 0.0).astype(x.dtype)
            return x * jax.nn.sigmoid(x * (linear + cubic * x * x))
        return jnp.where((activation == ACTIVATIONS.index("relu")) & (x <= 0), 0, x)

    return tuple(functools.partial(prepare, norm, smooth) for norm, smooth in kinds)


def _layer_moments(x: Array, channels: Array) -> tuple[Array, Array]:
    """[B, H, W, 1] mean and variance over the real channels of every pixel."""
    mask = jnp.arange(x.shape[-1]) < channels
    mean = x.sum(-1, keepdims=True) / channels
    return mean, jnp.square(jnp.where(mask, x - mean, 0)).sum(-1, keepdims=True) / channels


def _group_moments(x: Array, channels: Array) -> tuple[Array, Array]:
    """[B, 1, 1, C] mean and variance over pixels and a quarter of the real channels, spread over channels again."""
    each = jnp.maximum(channels // NORM_GROUPS, 1)
    member_CG = (jnp.arange(x.shape[-1])[:, None] // each == jnp.arange(NORM_GROUPS)).astype(x.dtype)
    count = each * x.shape[1] * x.shape[2]

    def pooled(x: Array) -> Array:
        return ((x.sum((1, 2)) @ member_CG / count) @ member_CG.T)[:, None, None]

    mean = pooled(x)
    mask = jnp.arange(x.shape[-1]) < channels
    return mean, pooled(jnp.where(mask, jnp.square(x - mean), 0))


# --------------------------------------------------------------------------------------------------------------- ops


def make_op(name: str, narrow: int, spatial: int, layers: Layers) -> Op:
    """The op of a section by its name (`tape_layout.op_name`); narrow convolutions compute the first `narrow` channels
    alone, pools and depthwise ones the first `spatial`."""
    if name in _OPS:
        op = functools.partial(_OPS[name], layers)
        return _of_first(spatial, op) if name.endswith("pool") else op
    kind, numbers = name.rstrip("0123456789d"), name.lstrip("abcdefghijklmnopqrstuvwxyz")
    kernel, dilation = map(int, numbers.split("d"))
    if kind == "conv":
        return functools.partial(_conv, layers, kernel, dilation)
    if kind == "narrow":
        return _of_first(narrow, functools.partial(_narrow, layers, kernel, dilation))
    return _of_first(spatial, functools.partial(_depthwise, layers, kernel, dilation))


def _of_first(channels: int, op: Op) -> Op:
    """The op on so many channels of an input; nothing on the others."""

    def run(leaves: Leaves, extents: Extents, x: Array) -> Array:
        y = op(leaves, extents, x[..., :channels])
        return jnp.pad(y, ((0, 0),) * 3 + ((0, x.shape[-1] - channels),))

    return run


def _conv(layers: Layers, kernel: int, dilation: int, leaves: Leaves, extents: Extents, x: Array) -> Array:
    return layers.conv(x, leaves["conv"], dilation=dilation)


def _narrow(layers: Layers, kernel: int, dilation: int, leaves: Leaves, extents: Extents, x: Array) -> Array:
    """A convolution with part of a larger kernel."""
    channels = x.shape[-1]
    if kernel == 3:
        weight = leaves["conv"][..., :channels, :channels]
    else:
        weight = cut(leaves["large"], (kernel, kernel, channels, channels))
    return layers.conv(x, weight, dilation=dilation)


def _depthwise(layers: Layers, kernel: int, dilation: int, leaves: Leaves, extents: Extents, x: Array) -> Array:
    weight = leaves["depthwise"]
    start = (weight.shape[0] - kernel) // 2
    return depthwise(x, weight[start : start + kernel, start : start + kernel], dilation=dilation)


def _skip(layers: Layers, leaves: Leaves, extents: Extents, x: Array) -> Array:
    return x


def _beside(layers: Layers, leaves: Leaves, extents: Extents, x: Array) -> Array:
    """The input with its channels moved up to where the unit writes; convolutions have kernels that do so."""
    return jnp.roll(x, extents.offset, -1)


def _dense(layers: Layers, leaves: Leaves, extents: Extents, x: Array) -> Array:
    return x @ leaves["dense"]


def _max_pool(layers: Layers, leaves: Leaves, extents: Extents, x: Array) -> Array:
    return max_pool_3x3(x)


def _avg_pool(layers: Layers, leaves: Leaves, extents: Extents, x: Array) -> Array:
    return layers.avg_pool_3x3(x)


def _attention(layers: Layers, leaves: Leaves, extents: Extents, x_BHWC: Array) -> Array:
    """Multi-head self-attention over pixels (Vaswani et al. 2017, section 3.2)."""
    kernel_4CC, bias_4C = leaves["attention"], leaves["attention_bias"]
    x = x_BHWC.reshape(x_BHWC.shape[0], -1, x_BHWC.shape[-1])
    each = jnp.maximum(extents.inputs // extents.heads, 1)
    head_CD = (jnp.arange(x.shape[-1])[:, None] // each == jnp.arange(MOST_HEADS)) & (
        jnp.arange(MOST_HEADS) < extents.heads
    )
    head_CD = head_CD.astype(x.dtype)
    query, key, value = (x @ kernel_4CC[index] + bias_4C[index] for index in range(3))
    queries = query[:, None] * head_CD.T[:, None] * lax.rsqrt(each.astype(jnp.float32)).astype(x.dtype)
    weights_BDNN = jax.nn.softmax(jnp.einsum("bdnc,bmc->bdnm", queries, key).astype(jnp.float32), -1).astype(x.dtype)
    read = jnp.einsum("bdnm,bmc->bdnc", weights_BDNN, value)
    y = jnp.einsum("bdnc,cd->bnc", read, head_CD) @ kernel_4CC[3] + bias_4C[3]
    return y.reshape(x_BHWC.shape)


def _token_mix(layers: Layers, leaves: Leaves, extents: Extents, x_BHWC: Array) -> Array:
    """A perceptron over the pixels of each channel (Tolstikhin et al. 2021, equation 1)."""
    x = x_BHWC.reshape(len(x_BHWC), -1, x_BHWC.shape[-1])
    hidden = jax.nn.gelu(jnp.einsum("bnc,nq->bqc", x, leaves["mix_in"]) + leaves["mix_in_bias"][:, None])
    hidden = jnp.where((jnp.arange(hidden.shape[1]) < extents.hidden)[:, None], hidden, 0)
    y = jnp.einsum("bqc,qn->bnc", hidden, leaves["mix_out"]) + leaves["mix_out_bias"][:, None]
    return y.reshape(x_BHWC.shape)


def _squeeze_excite(layers: Layers, leaves: Leaves, extents: Extents, x: Array) -> Array:
    """Channels scaled by a function of their means (Hu et al. 2018, section 3)."""
    hidden = jax.nn.relu(x.mean((1, 2)) @ leaves["squeeze"] + leaves["squeeze_bias"])
    hidden = jnp.where(jnp.arange(hidden.shape[-1]) < extents.hidden, hidden, 0)
    gate = jax.nn.sigmoid(hidden @ leaves["excite"] + leaves["excite_bias"])
    return x * gate[:, None, None]


def _position(layers: Layers, leaves: Leaves, extents: Extents, x: Array) -> Array:
    return x + leaves["position"].reshape(x.shape[1:])


_OPS: dict[str, Callable[..., Array]] = {
    "skip": _skip,
    "beside": _beside,
    "dense": _dense,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "attention": _attention,
    "token_mix": _token_mix,
    "squeeze_excite": _squeeze_excite,
    "position": _position,
}
