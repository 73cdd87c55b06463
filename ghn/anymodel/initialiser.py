"""What a model's own initialiser does to a leaf: its mean and deviation, and its values where nothing is predicted.

A hypernetwork emits weights in units of an initialiser's scale; where the model has an initialiser, its scale is taken.
Deviations are snapped to the formula that they come from (LeCun, He, Glorot, ...), so that the same network in two
frameworks, one of which hands over arrays and the other a function, gets the very same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from numpy.typing import NDArray

from architectures.ops import Leaf
from ghn.anymodel.moments import TRUNCATED, Moments, moments_of, written_down
from ghn.open_network import EMBEDDING_SCALE

SAMPLE = 16_384  # values of an array from which its moments are estimated
FEW = 64  # least values that tell how they are distributed
FIXED = (1.0, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001)  # deviations that people write down
# Those of `truncated_normal`, which does not make up for the cut.
CUT = {f"{value}, truncated": value * TRUNCATED for value in (0.02, 0.01)}
SMALL = 1 << 22  # most values of a leaf that is computed to see what its initialiser does


ON_HOST = ("normal", "truncated", "uniform")  # what is drawn without compiling anything
UNREADABLE = Moments(math.nan, math.nan)  # there is an initialiser, but it does something of its own


class Initialiser(Protocol):
    """A source of moments and values for leaves by their index."""

    def moments(self, index: int) -> Moments | None:
        """Moments of a leaf; None if they are not known."""

    def values(self, indices: Sequence[int]) -> Mapping[int, NDArray[Any]]:
        """The values of some leaves; those that it does not know are missing."""


class NoInitialiser:
    """Shapes only."""

    def moments(self, index: int) -> Moments | None:
        """Nothing."""
        return None

    def values(self, indices: Sequence[int]) -> Mapping[int, NDArray[Any]]:
        """Nothing."""
        return {}


class ArrayInitialiser:
    """Parameters that the user has initialised."""

    def __init__(self, leaves: Sequence[Any]) -> None:
        self._leaves = leaves

    def moments(self, index: int) -> Moments | None:
        """Estimated from SAMPLE values."""
        leaf = self._leaves[index]
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return None
        flat = np.asarray(leaf).reshape(-1)
        step = max(1, flat.size // SAMPLE) | 1  # odd, so as not to meet one column only
        sample = flat[::step].astype(np.complex128 if np.iscomplexobj(flat) else np.float64)
        if not sample.size:
            return None
        bound = _uniform_bound(sample)
        if bound:
            return Moments(bound / 2, abs(bound) / math.sqrt(12), sample.size, "uniform")
        if not sample.all() and len(np.unique(sample)) == 2:
            draw = "mask"
        elif _is_structured(np.asarray(leaf), sample):
            draw = "structure"
        else:
            draw = "truncated" if _is_cut(sample) else ""
        return Moments(float(sample.mean().real), float(sample.std()), sample.size, draw)

    def values(self, indices: Sequence[int]) -> Mapping[int, NDArray[Any]]:
        """Copies."""
        return {
            index: np.array(self._leaves[index])
            for index in indices
            if not isinstance(self._leaves[index], jax.ShapeDtypeStruct)
        }


class TracedInitialiser:
    """A function that initialises, read from its jaxpr and run only for leaves that are needed."""

    def __init__(self, jaxpr: Any, run: Callable[[], Sequence[Any]], seed: int = 0) -> None:
        """Takes a closed jaxpr whose outputs are the leaves, a function without arguments that returns them, and the
        seed of what is drawn on the host."""
        self._moments = moments_of(jaxpr.jaxpr, [None] * len(jaxpr.jaxpr.invars))
        self._written_down = written_down(jaxpr.jaxpr)
        self._shapes = [(aval.shape, aval.dtype) for aval in jaxpr.out_avals]
        self._run, self._seed = run, seed
        self._arrays: dict[int, NDArray[Any]] = {}

    def moments(self, index: int) -> Moments | None:
        """Exact, for sums and products of constants and of JAX's normal and uniform draws; others of at most SMALL
        values are computed, all at once, and looked at; UNREADABLE for larger ones. What is neither drawn nor one
        number is a structure."""
        found = self._estimated(index)
        if found is None or not self._written_down[index] or found.deviation == 0 or found.draw == "mask":
            return found
        return found._replace(draw="structure")

    def _estimated(self, index: int) -> Moments | None:
        found = self._moments[index]
        if found is not None:
            return found
        if not self._is_small(index):
            return UNREADABLE
        if index not in self._arrays:
            self._compute([i for i, known in enumerate(self._moments) if known is None and self._is_small(i)])
        return ArrayInitialiser([self._arrays[index]]).moments(0)

    def _is_small(self, index: int) -> bool:
        shape, dtype = self._shapes[index]
        return math.prod(shape) <= SMALL and jax.numpy.issubdtype(dtype, jax.numpy.inexact)

    def _compute(self, indices: Sequence[int]) -> None:
        arrays = jax.jit(lambda: [self._run()[index] for index in indices])()
        self._arrays |= {index: np.array(array) for index, array in zip(indices, arrays, strict=True)}

    def values(self, indices: Sequence[int]) -> Mapping[int, NDArray[Any]]:
        """Constants and draws of known distribution are made on the host: compiling a draw for every shape takes longer
        than all else (20 s for 48 leaves). The rest is compiled, for the leaves that are wanted."""
        known = {index: self._drawn(index) for index in indices if self._knows(index)}
        wanted = [index for index in indices if index not in known]
        missing = [index for index in wanted if index not in self._arrays]
        if missing:
            self._compute(missing)
        return known | {index: self._arrays[index] for index in wanted}

    def _knows(self, index: int) -> bool:
        moments, (_, dtype) = self._moments[index], self._shapes[index]
        if moments is None or jax.numpy.issubdtype(dtype, jax.numpy.complexfloating):
            return False
        return moments.deviation == 0 or moments.draw in ON_HOST

    def _drawn(self, index: int) -> NDArray[Any]:
        moments, (shape, dtype) = self._moments[index], self._shapes[index]
        assert moments is not None
        if moments.deviation == 0:
            return np.full(shape, moments.mean, dtype)
        rng = np.random.default_rng((self._seed, index))
        if moments.draw == "uniform":
            unit = rng.uniform(-(3**0.5), 3**0.5, shape)
        else:
            unit = rng.standard_normal(shape)
            if moments.draw == "truncated":
                while (outside := np.abs(unit) > 2).any():
                    unit[outside] = rng.standard_normal(int(outside.sum()))
                unit /= TRUNCATED
        return (moments.mean + moments.deviation * unit).astype(dtype)


def snapped(moments: Moments, leaf: Leaf) -> tuple[float, str]:
    """The deviation of an initialiser and the name of its formula, or the estimate in two digits."""
    tolerance = 0.005 if moments.sampled == 0 else min(0.3, max(0.02, 3 / math.sqrt(2 * moments.sampled)))
    formulas = _formulas(leaf)  # the most usual first: estimates from few values fit several
    formulas = CUT | formulas if moments.draw == "truncated" and moments.sampled else formulas | CUT
    for name, deviation in formulas.items():
        if abs(math.log(deviation / moments.deviation)) <= tolerance:
            return deviation, name
    return float(f"{moments.deviation:.1e}"), "its own"


def from_zero(moments: Moments) -> bool:
    """Whether values are drawn between 0 and a bound, as `jax.nn.initializers.uniform` does: weights of one sign, whose
    mean says nothing."""
    return moments.draw == "uniform" and math.isclose(abs(moments.mean), moments.deviation * 3**0.5, rel_tol=0.01)


def _uniform_bound(sample: NDArray[Any]) -> float:
    """The bound of a uniform draw from 0, if values look like one (and not like a grid); otherwise 0."""
    if len(sample) < FEW or np.iscomplexobj(sample) or sample.min() * sample.max() < 0:
        return 0.0
    sizes = np.sort(np.abs(sample))
    gaps, bound = np.diff(sizes), float(sizes[-1])
    near = 1 / math.sqrt(len(sizes))  # how far an estimate may be off, in units of the bound: three of its deviations
    if bound == 0 or abs(sizes.mean() / bound - 0.5) > near or abs(sizes.std() / bound - 12**-0.5) > near:
        return 0.0
    if sizes[0] > 10 * bound / len(sizes):
        return 0.0
    at_random = gaps.std() > 0.5 * gaps.mean() and np.mean(gaps > 0) > 0.5
    return math.copysign(bound, sample.sum()) if at_random else 0.0


def _is_cut(sample: NDArray[Any]) -> bool:
    """Whether values come from `truncated_normal` with a deviation that people write down: none beyond two of it."""
    if len(sample) < FEW or np.iscomplexobj(sample):
        return False
    largest, deviation = np.abs(sample).max(), sample.std()
    near = 3 / math.sqrt(2 * len(sample))
    return any(largest <= size / TRUNCATED * 2.001 and abs(deviation / size - 1) < near for size in CUT.values())


def _is_structured(array: NDArray[Any], sample: NDArray[Any]) -> bool:
    """Whether a matrix was written down rather than drawn: all rows or all columns are equal, one number among others
    fills a quarter of it, or its values are a grid."""
    if array.ndim < 2 or min(array.shape[0], array.shape[-1]) < 2 or sample.std() == 0:
        return False
    for rows in (array, np.moveaxis(array, -1, 0)):
        if np.array_equal(rows[0], rows[-1]) and (rows == rows[:1]).all():  # the first comparison spares the second
            return True
    if array.size < FEW or np.iscomplexobj(array):
        return False
    values, counts = np.unique(sample, return_counts=True)
    if len(values) > 2 and 4 * counts.max() >= len(sample):
        return True
    gaps = np.diff(values)
    wide = array.dtype.itemsize >= 4  # in half precision everything lies on a grid
    return bool(wide and len(values) > 2 and np.ptp(values) < 4 * len(values) * gaps.min())


def rule(leaf: Leaf, looked_up: bool) -> tuple[float, str]:
    """The deviation where no initialiser is known: LeCun's, as Flax and Haiku use; of tables, Flax's or 0.02."""
    if leaf.role == "embedding":
        return (leaf.shape[1] ** -0.5, "width") if looked_up else (EMBEDDING_SCALE, str(EMBEDDING_SCALE))
    return leaf.fan_in**-0.5, "LeCun"


def _formulas(leaf: Leaf) -> dict[str, float]:
    if leaf.role == "embedding":
        return {"width": leaf.shape[1] ** -0.5} | {str(value): value for value in FIXED}
    inputs = leaf.fan_in
    outputs = inputs // leaf.shape[-2] * leaf.shape[-1]
    formulas = {
        "LeCun": inputs**-0.5,
        "He": (2 / inputs) ** 0.5,
        "Glorot": (2 / (inputs + outputs)) ** 0.5,
        "He, fan out": (2 / outputs) ** 0.5,
        "LeCun, fan out": outputs**-0.5,
        "LeCun, uniform third": (3 * inputs) ** -0.5,
    }
    return formulas | {str(value): value for value in FIXED}
