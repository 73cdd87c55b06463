"""ONNX operators that compute every element by itself."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from architectures.onnx.registry import OPS, Node, Operator, Value, op

_UNARY: dict[str, Callable[[Array], Array]] = {
    "Relu": jax.nn.relu,
    "Sigmoid": jax.nn.sigmoid,
    "Tanh": jnp.tanh,
    "Erf": lax.erf,
    "Exp": jnp.exp,
    "Log": jnp.log,
    "Sqrt": jnp.sqrt,
    "Abs": jnp.abs,
    "Neg": jnp.negative,
    "Sin": jnp.sin,
    "Cos": jnp.cos,
    "Floor": jnp.floor,
    "Ceil": jnp.ceil,
    "Round": jnp.round,
    "Sign": jnp.sign,
    "Not": jnp.logical_not,
    "Reciprocal": lambda x: 1 / x,
    "Softplus": jax.nn.softplus,
    "Softsign": jax.nn.soft_sign,
    "HardSwish": lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1),
    "Mish": jax.nn.mish,
    "Identity": lambda x: x,
}
_BINARY: dict[str, Callable[[Array, Array], Array]] = {
    "Sub": jnp.subtract,
    "Mul": jnp.multiply,
    "Equal": jnp.equal,
    "Greater": jnp.greater,
    "GreaterOrEqual": jnp.greater_equal,
    "Less": jnp.less,
    "LessOrEqual": jnp.less_equal,
    "And": jnp.logical_and,
    "Or": jnp.logical_or,
    "MatMul": jnp.matmul,
    "Add": jnp.add,
    "Max": jnp.maximum,
    "Min": jnp.minimum,
    "Sum": jnp.add,
}


def _unary(function: Callable[[Array], Array]) -> Operator:
    return lambda node, x: function(x)


def _binary(function: Callable[[Array, Array], Array]) -> Operator:
    def run(node: Node, *inputs: Value) -> Value:
        result = inputs[0]
        for other in inputs[1:]:
            result = function(result, other)
        return result

    return run


OPS.update({name: _unary(function) for name, function in _UNARY.items()})
OPS.update({name: _binary(function) for name, function in _BINARY.items()})


@op("Div")
def _div(node: Node, a: Value, b: Value) -> Value:
    whole = jnp.issubdtype(a.dtype, jnp.integer)
    return lax.div(*jnp.broadcast_arrays(a, b)) if whole else a / b


@op("Pow")
def _pow(node: Node, x: Value, exponent: Value) -> Value:
    if not isinstance(exponent, jax.Array) and np.ndim(exponent) == 0 and float(exponent).is_integer():
        return x ** int(exponent)
    return x**exponent


@op("LeakyRelu")
def _leaky_relu(node: Node, x: Value) -> Value:
    return jax.nn.leaky_relu(x, node.get("alpha", 0.01))


@op("Elu")
def _elu(node: Node, x: Value) -> Value:
    return jax.nn.elu(x, node.get("alpha", 1.0))


@op("PRelu")
def _prelu(node: Node, x: Value, slope: Value) -> Value:
    return jnp.where(x < 0, slope * x, x)


@op("HardSigmoid")
def _hard_sigmoid(node: Node, x: Value) -> Value:
    return jnp.clip(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1)


@op("Gelu")
def _gelu(node: Node, x: Value) -> Value:
    return jax.nn.gelu(x, approximate=node.get("approximate", "none") == "tanh")


@op("Clip")
def _clip(node: Node, x: Value, low: Value = None, high: Value = None) -> Value:
    return jnp.clip(x, low if low is not None else node.get("min"), high if high is not None else node.get("max"))


@op("Where")
def _where(node: Node, condition: Value, a: Value, b: Value) -> Value:
    return jnp.where(condition, a, b)


@op("Cast")
def _cast(node: Node, x: Value) -> Value:
    from onnx import helper

    return jnp.asarray(x).astype(jax.dtypes.canonicalize_dtype(helper.tensor_dtype_to_np_dtype(node.get("to"))))


@op("Dropout")
def _dropout(node: Node, x: Value, ratio: Value = None, training: Value = None) -> Value:
    if training is not None and (isinstance(training, jax.core.Tracer) or np.any(training)):
        raise NotImplementedError("dropout that is not switched off")
    return (x, jnp.ones(x.shape, bool)) if node.opset >= 12 else x  # what an older mask holds is not specified


@op("Softmax")
def _softmax(node: Node, x: Value) -> Value:
    return jax.nn.softmax(x, _softmax_axes(node, x))


@op("LogSoftmax")
def _log_softmax(node: Node, x: Value) -> Value:
    return jax.nn.log_softmax(x, _softmax_axes(node, x))


def _softmax_axes(node: Node, x: Value) -> int | tuple[int, ...]:
    """One axis; before opset 13, all axes from the given one on."""
    if node.opset >= 13:
        return int(node.get("axis", -1))
    first = node.get("axis", 1)
    axes = tuple(range(first if first >= 0 else first + x.ndim, x.ndim))
    return axes[0] if len(axes) == 1 else axes
