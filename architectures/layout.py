"""The fixed slot layout of a space's weights: one set of arrays that holds the weights of any of its architectures.

Shape letters: S slots of a group.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from architectures.graph import ArchGraph, Place
from architectures.ops import Leaf, Role
from architectures.switch import cut, cut_slices

if TYPE_CHECKING:
    from architectures.spaces.base import SearchSpace


@dataclasses.dataclass(frozen=True)
class LeafGroup:
    """Leaves of one role that lie side by side in an array [S, *shape].

    Attributes:
        name: key of the group, unique within a layout.
        slots: number of leaves S.
        variants: the leaf of every op that may own a slot (one for the fixed parts of a network); a slot is as large
            as the largest, and the others are cut out of it.
        sliced: all variants share one base, cut to their shape (SMASH's weights), instead of one base each.
        generated: whether a hypernetwork adds its delta; if not, the base alone is the weight (SMASH's convolutions
            beyond the 1x1).
    """

    name: str
    slots: int
    variants: tuple[Leaf, ...]
    sliced: bool = False
    generated: bool = True

    @property
    def role(self) -> Role:
        """The common role of the variants."""
        return self.variants[0].role

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of one slot."""
        return tuple(max(sizes) for sizes in zip(*(leaf.shape for leaf in self.variants), strict=True))

    @functools.cached_property
    def _bounds(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """[variants, axes] first index of a variant's leaf within a slot, and the one after its last."""
        slices = [cut_slices(self.shape, leaf.shape) for leaf in self.variants]
        starts, stops = ([[getattr(s, end) for s in own] for own in slices] for end in ("start", "stop"))
        return np.array(starts, np.int32), np.array(stops, np.int32)

    def extents(self, variant_S: Array | NDArray[np.int32]) -> Array:
        """[S, *shape]: 1 where the leaf of each slot's variant lies, 0 beyond it."""
        first, last = (jnp.asarray(bounds)[variant_S] for bounds in self._bounds)
        mask = jnp.ones((len(variant_S), *self.shape), bool)
        for axis, size in enumerate(self.shape):
            index = jnp.arange(size).reshape(-1, *[1] * (len(self.shape) - axis - 1))
            edges = (bound[:, axis].reshape(-1, *[1] * len(self.shape)) for bound in (first, last))
            mask &= (index >= next(edges)) & (index < next(edges))
        return mask.astype(jnp.float32)


Layout = Mapping[str, LeafGroup]
WeightArrays = dict[str, Array]  # group name -> [S, *shape]


@dataclasses.dataclass(frozen=True)
class Occupancy:
    """Which node and which variant fills each slot of one group.

    Attributes:
        owner: [S] int, the owning node (0 where the slot is empty).
        variant: [S] int, index into the group's variants (0 where empty).
        used: [S] bool, whether the architecture has this leaf.
    """

    owner: NDArray[np.int32]
    variant: NDArray[np.int32]
    used: NDArray[np.bool_]


def occupancy(layout: Layout, graph: ArchGraph) -> dict[str, Occupancy]:
    """The occupancy of every group by the parameters of `graph`.

    Raises:
        ValueError: a parameter whose place is not in the layout, or is another leaf's.
    """
    result = {
        name: Occupancy(np.zeros(g.slots, np.int32), np.zeros(g.slots, np.int32), np.zeros(g.slots, np.bool_))
        for name, g in layout.items()
    }
    for row in graph.parameters:
        if row.place is None or not _fits(layout, row.place, row.leaf):
            raise ValueError(
                f"parameter {'/'.join(row.path)} has no slot in this space's layout; "
                "the graph was made by another space or by tracing"
            )
        group = result[row.place.group]
        group.owner[row.place.slot] = row.node
        group.variant[row.place.slot] = row.place.variant
        group.used[row.place.slot] = True
    return result


def _fits(layout: Layout, place: Place, leaf: Leaf) -> bool:
    """Whether the layout has this place, for this very leaf."""
    group = layout.get(place.group)
    return (
        group is not None
        and 0 <= place.slot < group.slots
        and 0 <= place.variant < len(group.variants)
        and group.variants[place.variant] == leaf
    )


def initial_scale(leaf: Leaf) -> float:
    """Standard deviation of an ordinary (He et al. 2015) initialiser for a kernel or head; 0 for 1-D leaves."""
    if leaf.role == "kernel":
        return float(np.sqrt(2.0 / leaf.fan_in))
    return float(np.sqrt(1.0 / leaf.fan_in)) if leaf.role == "head_kernel" else 0.0


def initial_mean(leaf: Leaf) -> float:
    """Mean of an ordinary initialiser: 1 for normalisation scales, 0 for everything else."""
    return 1.0 if leaf.role == "scale" else 0.0


def initialise(layout: Layout, key: Array, variants: Mapping[str, Array]) -> WeightArrays:
    """Ordinary random weights for one architecture.

    Args:
        layout: the space's layout.
        key: PRNG key.
        variants: group name -> [S] variant of each slot (decides its fan-in).
    """
    sizes = {name: group.slots * math.prod(group.shape) for name, group in layout.items()}
    # One draw for all groups: as many draws as groups would take 10 times longer to compile.
    keys = jax.random.split(key, len(layout))
    noise = jax.vmap(lambda subkey: jax.random.normal(subkey, (max(sizes.values()),)))(keys)
    arrays = {}
    for (name, group), drawn in zip(layout.items(), noise, strict=True):
        scales = jnp.array([initial_scale(leaf) for leaf in group.variants])[variants[name]]
        unit = drawn[: sizes[name]].reshape(group.slots, *group.shape)
        arrays[name] = initial_mean(group.variants[0]) + unit * scales.reshape(-1, *[1] * len(group.shape))
    return arrays


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights of one architecture in the slot layout of its space.

    Attributes:
        arrays: group name -> [S, *shape]; slots that the architecture does not use hold values that nothing reads.
        space: the space whose layout this is.
    """

    arrays: WeightArrays
    space: SearchSpace[Any] = dataclasses.field(metadata={"static": True})

    def as_pytree(self, architecture: Any) -> dict[str, Any]:
        """Only the leaves that `architecture` has, as nested dictionaries by name."""
        tree: dict[str, Any] = {}
        for row in self.space.graph(architecture).parameters:
            assert row.place is not None
            branch = tree
            for key in row.path[:-1]:
                branch = branch.setdefault(key, {})
            branch[row.path[-1]] = cut(self.arrays[row.place.group][row.place.slot], row.leaf.shape)
        return tree
