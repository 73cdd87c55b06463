"""The graph hypernetwork: graph in, weights out.

Shape letters: N places of a graph's grid, D state width, S slots of a leaf group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from architectures.layout import Layout, LeafGroup, WeightArrays, initial_mean, initial_scale
from architectures.spaces import SearchSpace
from ghn.conditioning import Conditioning, condition_width
from ghn.config import GHNConfig
from ghn.decoder import Decoder
from ghn.features import PADDING_OP, GraphInputs, centred, constant_norm
from ghn.parts import make_decoders, make_encoder, make_propagation
from ghn.reference import reference_weights
from ghn.transformer import layer_norm

ROLES = ("kernel", "head_kernel", "scale", "bias", "head_bias")  # of leaves; each has a decoder


class GHN(nnx.Module):
    """A graph hypernetwork for one space (Zhang et al. 2019; Knyazev et al. 2021) with MIP (Ortiz et al. 2023).

    weights = base + scale(fan_in) * delta(node state), where the base is learned for every slot and op of the space,
    starts as an ordinary initialiser would, and does not depend on the graph. Kernels are brought to unit root mean
    square before they are scaled (SMASH normalises generated tensors too): training alone lets them grow fourfold.

    With the configurations of `ghn.presets`, there is no base, and the parts are those of GHN-2 and GHN-3.
    """

    def __init__(self, config: GHNConfig, space: SearchSpace[Any], *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.space = space
        if config.delta:
            self.conditioning = Conditioning(config, rngs=rngs)
            self.encoder = make_encoder(config, len(space.op_names), space.classes, rngs=rngs)
            self.propagation = make_propagation(config, rngs=rngs)
            if config.layer_norm:
                self.norm = layer_norm(config.width, rngs=rngs)
            conditioned = config.centred and condition_width(config) > 0
            self.shared = nnx.Linear(condition_width(config), config.width, rngs=rngs) if conditioned else None
            for role, decoder in make_decoders(config, space.classes, rngs=rngs).items():
                setattr(self, role, decoder)
        based = {name: group for name, group in space.layout.items() if self.has_base(group)}
        if based:
            self.base = learned_base(based, rngs)

    def __call__(self, inputs: GraphInputs) -> WeightArrays:
        """Weights in the slot layout of the space: group name -> [S, *shape]."""
        deltas = self.deltas(inputs, self.node_states(inputs)) if self.config.delta else {}
        return {
            name: self._parametrise(group, inputs.variant[name], deltas.get(name))
            for name, group in self.space.layout.items()
        }

    def has_base(self, group: LeafGroup) -> bool:
        """Whether a group's weights have a learned part that does not depend on the graph."""
        return self.config.residual or not group.generated

    def node_states(self, inputs: GraphInputs) -> Array:
        """[N, D] states after propagation and, if there is one, layer norm."""
        states_ND = self.encoder(inputs.op_N, inputs.features_NF, self.conditioning(inputs))
        present_N = inputs.op_N != PADDING_OP
        states_ND = self.propagation(states_ND, inputs.distances_NN, self.space.schedule, present_N)
        return self.norm(states_ND) if self.config.layer_norm else states_ND

    def embedding(self, inputs: GraphInputs) -> Array:
        """[D] mean of the states of all nodes: what the network knows of an architecture as a whole."""
        present_N1 = (inputs.op_N != PADDING_OP)[:, None]
        return (self.node_states(inputs) * present_N1).sum(0) / present_N1.sum()

    def decoded_states(self, inputs: GraphInputs, states_ND: Array) -> Array:
        """[N, D] what decoders read: states relative to their mean and of constant norm, as the configuration says.

        A condition reaches all nodes alike, so that the mean takes most of it away: it is added again.
        """
        scaled = constant_norm if self.config.encoding == "mip" else lambda x_ND: x_ND
        if not self.config.centred:
            return scaled(states_ND)
        states_ND = scaled(centred(states_ND, inputs.op_N != PADDING_OP))
        if self.shared is None:
            return states_ND
        return scaled(states_ND + self.shared(self.conditioning(inputs)))

    def deltas(self, inputs: GraphInputs, states_ND: Array) -> WeightArrays:
        """Group name -> [S, *shape] of unit order, whatever the norm of the states (with the MIP encoding)."""
        states_ND = self.decoded_states(inputs, states_ND)
        result: dict[str, Array] = {}
        for role in ROLES:
            groups = [group for group in self.space.layout.values() if group.role == role and group.generated]
            if groups:
                decoder: Decoder = getattr(self, role)
                owner_S = jnp.concatenate([inputs.owner[group.name] for group in groups])
                ends = np.cumsum([group.slots for group in groups])
                parts = jnp.split(decoder.hidden_units(states_ND[owner_S]), ends[:-1])
                result |= {g.name: decoder.emit(part, g.shape) for g, part in zip(groups, parts, strict=True)}
        return result

    def _parametrise(self, group: LeafGroup, variant_S: Array | NDArray[np.int32], delta: Array | None) -> Array:
        """base + scale(fan_in) * delta, or what GHN-2 makes of delta."""
        if self.config.scaling == "ghn2" and group.generated:
            assert delta is not None
            return reference_weights(group, self._normalised(group, variant_S, delta), variant_S)
        weights: Array | float = 0.0
        if self.has_base(group):
            weights = _selected(self.base[_key(group.name)].get_value(), variant_S)
        elif group.role == "scale":
            weights = initial_mean(group.variants[0])
        if delta is not None:
            weights = weights + _scales(group, variant_S) * delta
        return self._normalised(group, variant_S, jnp.asarray(weights))

    def _normalised(self, group: LeafGroup, variant_S: Array | NDArray[np.int32], weights_S: Array) -> Array:
        """Generated kernels brought to an initialiser's root mean square, if the configuration says so."""
        if not (self.config.normalise and group.role == "kernel" and group.generated):
            return weights_S
        unit_S = unit_rms(weights_S, group.extents(variant_S))
        return unit_S if self.config.scaling == "ghn2" else _scales(group, variant_S) * unit_S


def _scales(group: LeafGroup, variant_S: Array | NDArray[np.int32]) -> Array:
    """[S, 1, ...]: what delta is multiplied by, an ordinary initialiser's scale; 1 for 1-D leaves."""
    scales = jnp.array([initial_scale(leaf) or 1.0 for leaf in group.variants])
    return scales[variant_S].reshape(-1, *[1] * len(group.shape))


def _selected(bank_SV: Array, variant_S: Array | NDArray[np.int32]) -> Array:
    """[S, ...]: every slot's own variant of a bank [S, V, ...]. By comparisons, because the gradient of indexing is a
    scatter, which is slow on CPUs."""
    selected = bank_SV[:, 0]
    for variant in range(1, bank_SV.shape[1]):
        chosen = (variant_S == variant).reshape(-1, *[1] * (selected.ndim - 1))
        selected = jnp.where(chosen, bank_SV[:, variant], selected)
    return selected


def unit_rms(x_S: Array, mask_S: Array) -> Array:
    """x [S, ...] with each slot scaled to root mean square 1 over the part of it that is used (mask of 0 and 1)."""
    axes = tuple(range(1, x_S.ndim))
    mean_square = jnp.sum(jnp.square(x_S) * mask_S, axes, keepdims=True) / jnp.sum(mask_S, axes, keepdims=True)
    return x_S * jax.lax.rsqrt(jnp.maximum(mean_square, 1e-20))


def _key(group: str) -> str:
    return group.replace("/", ".")


def learned_base(layout: Layout, rngs: nnx.Rngs) -> nnx.Dict[nnx.Param[Array]]:
    """Group name -> [S, V, *shape], as an ordinary initialiser would fill it."""
    return nnx.Dict({_key(name): nnx.Param(_initial_base(group, rngs)) for name, group in layout.items()})


def _initial_base(group: LeafGroup, rngs: nnx.Rngs) -> Array:
    """[S, V, *shape] for V variants, or 1 where they share it, as an ordinary initialiser fills it: kernels and heads
    with normal noise by fan-in, 1-D leaves with a constant."""
    variants = group.variants[-1:] if group.sliced else group.variants
    shape = (group.slots, len(variants), *group.shape)
    if group.role in ("kernel", "head_kernel"):
        scales = jnp.array([initial_scale(leaf) for leaf in variants])
        return scales.reshape(-1, *[1] * len(group.shape)) * jax.random.normal(rngs.params(), shape)
    # With a dtype: a weakly typed parameter would make the second step compile again.
    return jnp.full(shape, initial_mean(group.variants[0]), jnp.float32)


def vocabulary_ids(names: tuple[str, ...]) -> Mapping[str, int]:
    """Op name -> index."""
    return {name: index for index, name in enumerate(names)}
