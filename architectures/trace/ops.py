"""The vocabulary of traced graphs, and which JAX primitives mean what to tracing."""

from __future__ import annotations

from typing import Any

OPS = (
    # owners of kernels
    "conv",
    "conv_transpose",
    "dense",
    "embedding",
    # elementwise parameters
    "batch_norm",
    "layer_norm",
    "rms_norm",
    "group_norm",
    "scale",
    "shift",
    "position",
    "gate",
    "constant",
    "carry",
    # without parameters
    "input",
    "sum",
    "product",
    "concat",
    "mix",
    "aggregate",
    "query_key",
    "attend",
    "matmul",
    "softmax",
    "normalise",
    "stencil",
    "max_pool",
    "avg_pool",
    "global_avg_pool",
    "global_max_pool",
    "relu",
    "gelu",
    "silu",
    "sigmoid",
    "tanh",
    "activation",
)

# One operand, whose elements are only moved, copied, dropped or converted.
VIEWS = frozenset(
    [
        "reshape",
        "transpose",
        "squeeze",
        "broadcast_in_dim",
        "slice",
        "rev",
        "expand_dims",
        "convert_element_type",
        "copy",
        "copy_p",
        "reduce_precision",
        "split",
        "stop_gradient",
        "device_put",
        "sharding_constraint",
        "name",
        "pvary",
        "pcast",
        "layout_constraint",
        "real",
        "imag",
    ]
)

# Of these, those that put other elements in an element's place: sums of what was moved are stencils, not doublings.
MOVES = frozenset(["slice", "split", "rev", "dynamic_slice"])


PART = "part of it: "  # begins the marks that tell slices of one value apart


def parts(equation: Any) -> list[list[str]]:
    """Marks of which part of its operand each result of a slicing operation is; empty for other operations."""
    name, parameters = equation.primitive.name, equation.params
    if name == "split":
        sizes, axis = [int(size) for size in parameters["sizes"]], parameters["axis"]
        return [[f"{PART}{index} of {sizes} along {axis}"] for index in range(len(sizes))]
    if name == "slice":
        return [[f"{PART}{parameters['start_indices']} to {parameters['limit_indices']} by {parameters['strides']}"]]
    if name in ("pad", "rev"):
        return [[f"{PART}{name} {sorted(map(str, parameters.values()))}"]]
    return []


# One result from operands of its shape, linear in each.
LINEAR = frozenset(
    ["add", "add_any", "sub", "mul", "div", "neg", "select_n", "pad", "dynamic_slice", "dynamic_update_slice"]
)

# Elementwise or otherwise harmless to the source of data, and by what mark they are remembered.
NONLINEAR = {
    "max": "max",
    "min": "max",
    "clamp": "max",
    "abs": "max",
    "exp": "exp",
    "exp2": "exp",
    "log": "log",
    "log1p": "log",
    "expm1": "exp",
    "logistic": "logistic",
    "tanh": "tanh",
    "erf": "erf",
    "erfc": "erf",
    "rsqrt": "rsqrt",
    "sqrt": "rsqrt",
    "pow": "power",
    "integer_pow": "power",
    "square": "power",
    "sin": "wave",
    "cos": "wave",
}

REDUCTIONS = frozenset(
    ["reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin", "reduce_and", "reduce_or"]
)

# Comparisons and integer arithmetic: masks and indices, which do not change what the data is.
SILENT = frozenset(
    [
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "and",
        "or",
        "not",
        "xor",
        "is_finite",
        "rem",
        "floor",
        "ceil",
        "round",
        "sign",
        "shift_left",
        "shift_right_logical",
        "shift_right_arithmetic",
        "iota",
    ]
)

# What makes arrays of different numbers out of none.
VARIED = frozenset(["iota", "random_bits"])

SCANS_OF_ARRAYS = frozenset(["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort", "top_k", "fft"])

SCATTERS = frozenset(
    [
        "scatter",
        "scatter-add",
        "scatter_add",
        "scatter-mul",
        "scatter_mul",
        "scatter-min",
        "scatter_min",
        "scatter-max",
        "scatter_max",
    ]
)

POOLS = {
    "reduce_window_max": "max_pool",
    "reduce_window_min": "max_pool",
    "reduce_window_sum": "avg_pool",
    "reduce_window": "max_pool",
    "select_and_gather_add": "max_pool",
}

NORMS = frozenset(("batch_norm", "layer_norm", "rms_norm", "group_norm"))
ACTIVATIONS = frozenset(("relu", "gelu", "silu", "sigmoid", "tanh", "activation"))
