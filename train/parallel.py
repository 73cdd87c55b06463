"""The training step on several devices: architectures of a meta-batch over one axis, images of a batch over the other.

    mesh = make_mesh(architectures=4, batch=2)
    step = jax.jit(functools.partial(train_step, mesh, hypernetwork.definition, optimizer))
    state = replicate(mesh, init_state(hypernetwork, optimizer))
    for batch in batches:
        state, metrics = step(state, shard(mesh, batch))

Every device differentiates the loss of its own architectures on its own images; one all-reduce then averages all
gradients. Before it, devices exchange nothing but moments of batch normalisation, along the axis of images only: these
exchanges stand inside the executor's switches, whose branches differ from architecture to architecture, but devices
that share an architecture meet in the same branch.

Several processes (`jax.distributed`): every process builds the whole batch and hands over what its devices need.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from architectures.layers import Layers
from ghn.api import Parameters
from train import step as one_device
from train.config import DevicesConfig
from train.step import Batch, Definition, Objective, TrainState, apply_gradients, gradients

Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]

ARCHITECTURES, BATCH = "architectures", "batch"
AXES = (ARCHITECTURES, BATCH)
SPECS: dict[str, Any] = {  # by fields of Batch
    "images": P(BATCH),
    "labels": P(BATCH),
    "graphs": P(ARCHITECTURES),
    "encodings": P(ARCHITECTURES),
}


def make_mesh(architectures: int, batch: int) -> Mesh:
    """The mesh of `architectures` * `batch` devices: the first ones of this process, or all of all processes.

    Devices that share an architecture are neighbours, so that they share a host where that is possible: they talk most.

    Raises:
        ValueError: fewer devices than asked for; or several processes, of which some would have nothing to do.
    """
    asked, devices = architectures * batch, jax.devices()
    here = f"{len(devices)} {devices[0].platform} device{'s' if len(devices) > 1 else ''}"
    if asked > len(devices):
        raise ValueError(
            f"devices: {architectures} x {batch} = {asked} asked for, {here} present; ask for fewer, or on a CPU set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={asked}"
        )
    if jax.process_count() > 1 and asked != len(devices):
        raise ValueError(
            f"devices: {architectures} x {batch} = {asked} asked for, but {jax.process_count()} processes have {here}; "
            "with several processes, use them all"
        )
    return jax.make_mesh((architectures, batch), AXES, (AxisType.Auto,) * 2, devices=devices[:asked])


def train_step(
    mesh: Mesh,
    definition: Definition,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batch: Batch,
    layers: Layers = Layers(),
    objective: Objective | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """`train.step.train_step` on the devices of a mesh: the same state and metrics, up to the order of summation.

    Args:
        mesh: from `make_mesh`.
        definition: the hypernetwork's structure.
        optimizer: of its parameters.
        state: before the step, the same on all devices (`replicate`).
        batch: what the step reads (`shard`).
        layers: how the architectures compute their layers.
        objective: what is minimised; None: `train.step.loss_fn`.

    Raises:
        ValueError: the batch does not divide among the devices.
    """
    _check(mesh, batch)
    if mesh.shape[BATCH] > 1:
        layers = dataclasses.replace(layers, batch_axis=BATCH)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        # As "varying", parameters have a gradient of their own on every device. As the replicated values that they
        # are, their gradient would be summed over the devices where they are used: inside a branch of a switch that
        # the devices of other architectures do not take. Images likewise.
        parameters = lax.pcast(state.parameters, AXES, to="varying")
        part = batch._replace(images=lax.pcast(batch.images, ARCHITECTURES, to="varying"))
        grads, metrics = _average(*gradients(definition, parameters, part, layers, objective))
        return apply_gradients(optimizer, state, grads, metrics)

    sharded = jax.shard_map(step, mesh=mesh, in_specs=(P(), Batch(**SPECS)), out_specs=P())
    result: tuple[TrainState, dict[str, Array]] = sharded(state, batch)
    return result


def mesh_of(devices: DevicesConfig) -> Mesh | None:
    """The mesh of a run; None for one device and one process, which need none. Raises as `make_mesh` does."""
    if devices == DevicesConfig() and jax.process_count() == 1:
        return None
    return make_mesh(devices.architectures, devices.batch)


def make_step(
    mesh: Mesh | None,
    definition: Definition,
    optimizer: optax.GradientTransformation,
    layers: Layers,
    objective: Objective | None = None,
) -> tuple[Step, Callable[[TrainState], TrainState]]:
    """The compiled step of a run, and what puts a state where that step wants it.

    The step takes batches as they come, and may consume the state that it is given (`keep`).
    """
    if mesh is None:
        plain = functools.partial(one_device.train_step, definition, optimizer, layers=layers, objective=objective)
        return jax.jit(plain, donate_argnums=donated()), lambda state: state
    spread = functools.partial(train_step, mesh, definition, optimizer, layers=layers, objective=objective)
    step = jax.jit(spread, donate_argnums=donated())
    return lambda state, batch: step(state, shard(mesh, batch)), functools.partial(replicate, mesh)


def donated() -> tuple[int, ...]:
    """The arguments of a step whose memory the new state takes over: the old state, but not on CPUs, where memory is
    plenty and the copies that XLA then makes are dear (0.3 ms a step)."""
    return () if jax.default_backend() == "cpu" else (0,)


def keep(state: TrainState) -> TrainState:
    """The state in memory that no step takes over."""
    return jax.tree.map(jnp.copy, state) if donated() else state


def join_processes() -> None:
    """Makes this process one of several that train together; to be called before JAX is used for anything else.

    Where JAX does not know the cluster, JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID tell it.

    Raises:
        ValueError: these are missing or wrong.
    """
    count, index = (os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
    try:
        jax.distributed.initialize(
            num_processes=None if count is None else int(count), process_id=None if index is None else int(index)
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"distributed: {error}; set JAX_COORDINATOR_ADDRESS=host:port of process 0, JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID=0, 1, ... for every process"
        ) from error


def wait_for_all(name: str) -> None:
    """Returns when all processes have come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _average(grads: Parameters, metrics: dict[str, Array]) -> tuple[Parameters, dict[str, Array]]:
    """Means over all devices, by a single all-reduce of a single vector."""
    flat, restore = ravel_pytree((grads, metrics))
    return restore(lax.pmean(flat, AXES))


def replicate(mesh: Mesh, state: TrainState) -> TrainState:
    """The state on every device of the mesh."""
    placed: TrainState = _place(state, NamedSharding(mesh, P()))
    return placed


def shard(mesh: Mesh, batch: Batch) -> Batch:
    """The batch, each device holding its own architectures and images.

    Raises:
        ValueError: they do not divide among the devices.
    """
    _check(mesh, batch)
    parts = {name: _place(part, NamedSharding(mesh, SPECS[name])) for name, part in batch._asdict().items()}
    return Batch(**parts)


def _place(tree: Any, sharding: NamedSharding) -> Any:
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def place(array: Any) -> Array:
        # `device_put` would compare the array between all processes, which takes longer than the step.
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree)


def _check(mesh: Mesh, batch: Batch) -> None:
    images, architectures = len(batch.labels), len(jax.tree.leaves(batch.encodings)[0])
    for name, size, axis in (("images", images, BATCH), ("architectures", architectures, ARCHITECTURES)):
        if size % mesh.shape[axis]:
            raise ValueError(f"batch: {size} {name} do not divide among {mesh.shape[axis]} devices; use a multiple")
