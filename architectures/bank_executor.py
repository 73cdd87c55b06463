"""The compile-once executor of memory-bank networks (SMASH, Brock et al. 2018): one scan and one bank a resolution.

Everything that differs between architectures is data. Reading is one 1x1 convolution over all banks whose rows for
banks that are not read are zero; writing adds the layer's output to the banks that a mask names; each of a layer's
convolutions is a switch over kernel sizes and dilations; groups are block-diagonal kernels; narrower layers have
channels that normalisation multiplies by zero. Kernels lie tight in their slots (as the user has them) and are spread
to this padded form once a step, outside the scan.

Shape letters: B batch, H height, W width, L layers, K banks, N channels of a bank, U units, C channels of an image,
R rows of a bank's concatenation (K * N).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from architectures.executor import Observe
from architectures.layers import Layers
from architectures.ops import NONE, Leaves, Op, conv_leaves, normalise
from architectures.switch import run_op, switch_op

Slots = Mapping[str, Array]
Run = Callable[[tuple[Op, ...], Layers, Array, dict[str, Array], Array], Array]  # applies ops[index]


class BankShape(NamedTuple):
    """The padded sizes of one block: what every architecture of the space fits into."""

    banks: int  # K
    channels: int  # N of a bank
    units: int  # U after a layer's 1x1 convolution


class BlockChoices(NamedTuple):
    """One block as data.

    Attributes:
        banks, channels: scalars, those in use.
        active: [L] whether the layer exists.
        read, write: [L, K] of 0 and 1.
        units: [L].
        inner, outer: [L, 2] index into `inner_ops` and `outer_ops` for both paths.
        inner_groups, outer_groups: [L, 2].
    """

    banks: Array
    channels: Array
    active: Array
    read: Array
    write: Array
    units: Array
    inner: Array
    outer: Array
    inner_groups: Array
    outer_groups: Array


def conv_op(kernel: int, dilation: int, outputs: int) -> Op:
    """ReLU, convolution to `outputs` channels, batch normalisation."""

    def leaves(inputs: int) -> Leaves:
        return conv_leaves(kernel, inputs, outputs)

    def linear(weights: Mapping[str, Array], x: Array, layers: Layers) -> Array:
        return layers.conv(jax.nn.relu(x), weights["kernel"], dilation=dilation)

    return Op(f"conv_{kernel}x{kernel}_d{dilation}", normalise, leaves, linear, kernel, rectifies=True)


def inner_ops(kinds: tuple[tuple[int, int], ...], units: int) -> tuple[Op, ...]:
    """What may come first in a path: nothing at all, or a convolution of each (kernel, dilation)."""
    identity = Op("skip_connect", lambda weights, x, layers: x)
    return (identity, *(conv_op(kernel, dilation, units) for kernel, dilation in kinds))


def outer_ops(kinds: tuple[tuple[int, int], ...], outputs: int) -> tuple[Op, ...]:
    """What may end a path: no path, or a convolution of each (kernel, dilation) to a bank's channels."""
    nothing = Op(NONE.name, lambda weights, x, layers: jnp.zeros_like(x, shape=(*x.shape[:-1], outputs)))
    return (nothing, *(conv_op(kernel, dilation, outputs) for kernel, dilation in kinds))


def read_rows(read_K: Array, channels: Array, shape: BankShape, dtype: jnp.dtype | type = jnp.float32) -> Array:
    """[R, R] of 0 and 1: row k * N + c of the padded concatenation takes row (banks read before k) * channels + c of
    the tight one, if bank k is read and has a channel c."""
    bank, channel = jnp.divmod(jnp.arange(shape.banks * shape.channels), shape.channels)
    before_K = jnp.cumsum(read_K) - read_K
    tight = before_K[bank] * channels + channel
    used = (read_K[bank] > 0) & (channel < channels)
    return jax.nn.one_hot(jnp.where(used, tight, -1), len(bank), dtype=dtype)


def spread_groups(kernel: Array, inputs: Array, outputs: Array, groups: Array) -> Array:
    """The block-diagonal kernel [kh, kw, I, O] of a grouped one that lies tight in its slot, as [kh, kw, i / g, o]."""
    each, most = inputs // groups, kernel.shape[2]
    row, column = jnp.arange(most), jnp.arange(kernel.shape[3])
    chosen_II = jax.nn.one_hot(row % each, most, dtype=kernel.dtype)
    block_IO = (row[:, None] // each == column[None] // (outputs // groups)) & (row[:, None] < inputs)
    return jnp.einsum("ir,hwro->hwio", chosen_II, kernel) * block_IO


def spread(slots: Slots, choices: BlockChoices, shape: BankShape) -> dict[str, dict[str, Array]]:
    """All leaves of a block in padded form, [L, ...] (convolutions: [L, 2 paths, ...]); what an architecture does not
    use is zero."""

    def narrowed(part: str, width_L: Array) -> dict[str, Array]:
        scale = slots[f"{part}/scale"]
        mask = (jnp.arange(scale.shape[-1]) < width_L[:, None]).astype(scale.dtype)
        return {"scale": scale * mask, "bias": slots[f"{part}/bias"] * mask}

    layers = len(choices.active)
    tight = slots["read/kernel"][:, 0, 0]
    rows_LRR = jax.vmap(lambda read_K: read_rows(read_K, choices.channels, shape, tight.dtype))(choices.read)
    channels_L = jnp.broadcast_to(choices.channels, (layers,))
    read = {"kernel": rows_LRR @ tight, **narrowed("read", choices.units)}

    def convolutions(part: str, groups_L2: Array, outputs_L: Array) -> dict[str, Array]:
        twice = jnp.repeat(outputs_L, 2)
        kernel = jax.vmap(spread_groups)(
            slots[f"{part}/kernel"], jnp.repeat(choices.units, 2), twice, groups_L2.reshape(-1)
        )
        flat = {"kernel": kernel, **narrowed(part, twice)}
        return {name: array.reshape(layers, 2, *array.shape[1:]) for name, array in flat.items()}

    return {
        "read": read,
        "inner": convolutions("inner", choices.inner_groups, choices.units),
        "outer": convolutions("outer", choices.outer_groups, channels_L),
    }


class BlockPlan(NamedTuple):
    """What is fixed at compilation: padded sizes, the candidates (kernel, dilation), how layers are computed."""

    shape: BankShape
    kinds: tuple[tuple[int, int], ...]
    layers: Layers

    def run(
        self, slots: Slots, choices: BlockChoices, x: Array, observe: Observe | None = None
    ) -> tuple[Array, Array | float]:
        """Runs a block.

        Args:
            slots: leaf name -> its slots, tight.
            choices: the architecture.
            x: [B, H, W, N] the block's input, zero beyond its channels.
            observe: summed over the inputs of all ReLUs.

        Returns:
            All banks side by side, [B, H, W, R], and the sum of observations (0.0 without `observe`).
        """
        weights = spread(slots, choices, self.shape)
        nothing: Array | float = 0.0
        if observe is not None:
            seen = jax.eval_shape(observe, x)
            nothing = jnp.zeros(seen.shape, seen.dtype)

        def step(carry: tuple[Array, Array | float], row: tuple[BlockChoices, dict[str, dict[str, Array]]]):  # type: ignore[no-untyped-def]
            chosen, leaves = row

            def present(carry: tuple[Array, Array | float]) -> tuple[Array, Array | float]:
                banks, total = carry
                y, observed = self._layer(chosen, leaves, banks, switch_op, observe, nothing)
                return self._write(banks, chosen.write, y), total + observed

            return lax.cond(chosen.active, present, lambda carry: carry, carry), None

        rows = choices._replace(banks=choices.active, channels=choices.active)  # scanned over; not read by a layer
        (banks, total), _ = lax.scan(step, (self.opened(x), nothing), (rows, weights))
        return banks, total

    def run_static(self, slots: Slots, choices: BlockChoices, layers: int, x: Array) -> Array:
        """The same padded arithmetic as ordinary Python for one architecture: the reference of `run`'s speed.

        `choices` are NumPy values of which the first `layers` rows exist.
        """
        weights = spread(slots, choices, self.shape)
        banks = self.opened(x)
        for index in range(layers):
            row = functools.partial(_row, index)
            chosen, leaves = jax.tree.map(row, (choices, weights))
            y, _ = self._layer(chosen, leaves, banks, _run_static, None, 0.0)
            banks = self._write(banks, chosen.write, y)
        return banks

    def opened(self, x: Array) -> Array:
        """[B, H, W, R] banks of which the first holds x."""
        return jnp.pad(x, ((0, 0),) * 3 + ((0, (self.shape.banks - 1) * self.shape.channels),))

    def _layer(
        self,
        chosen: BlockChoices,
        leaves: dict[str, dict[str, Array]],
        banks: Array,
        run: Run,
        observe: Observe | None,
        nothing: Array | float,
    ) -> tuple[Array, Array | float]:
        """What a layer adds to the banks it writes, [B, H, W, N]."""
        read, total = leaves["read"], nothing
        units = self.layers.batch_norm(banks @ read["kernel"], read["scale"], read["bias"])
        inner = inner_ops(self.kinds, self.shape.units)
        outer = outer_ops(self.kinds, self.shape.channels)
        result: Array | None = None
        for path in range(2):
            own = {part: {name: a[path] for name, a in leaves[part].items()} for part in ("inner", "outer")}
            hidden = run(inner, self.layers, chosen.inner[path], own["inner"], units)
            ended = run(outer, self.layers, chosen.outer[path], own["outer"], hidden)
            if observe is not None:
                for index, x in ((chosen.inner[path], units), (chosen.outer[path], hidden)):
                    total = total + lax.cond(index > 0, observe, lambda _: nothing, x)
            result = ended if result is None else result + ended
        assert result is not None
        return result, total

    def _write(self, banks: Array, write_K: Array, y: Array) -> Array:
        """Adds y [B, H, W, N] to the banks that are written."""
        parted = banks.reshape(*banks.shape[:-1], self.shape.banks, self.shape.channels)
        return (parted + jnp.asarray(write_K, y.dtype)[:, None] * y[..., None, :]).reshape(banks.shape)


def _row(index: int, array: Array) -> Array:
    return array[index] if array.ndim else array


def _run_static(ops: tuple[Op, ...], layers: Layers, index: Array, slot: dict[str, Array], x: Array) -> Array:
    return run_op(ops[int(index)], layers, slot, x)
