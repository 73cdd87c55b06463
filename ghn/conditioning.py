"""What weights are conditioned on besides the graph: noise, a task, continuous conditions.

A task is a learned embedding of constant norm; a continuous condition is encoded as the attributes of nodes are, with
constant norm within declared bounds (MIP, Ortiz et al. 2023). Both reach every node's first state.

Shape letters: T rows of the table of tasks, Z size of the whole condition.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

from ghn.config import GHNConfig
from ghn.features import Bounds, GraphInputs, constant_norm, encode

if TYPE_CHECKING:
    from ghn.api import Hypernetwork, Parameters

FREE = ""  # the name of a row of the table that holds no task


def condition_width(config: GHNConfig) -> int:
    """Z."""
    encoded = 2 if config.encoding == "mip" else 1
    return config.noise + (config.task_width if config.tasks else 0) + encoded * len(config.conditions)


class Conditioning(nnx.Module):
    """The condition as one vector."""

    def __init__(self, config: GHNConfig, *, rngs: nnx.Rngs) -> None:
        self.encoding = config.encoding
        self.tasks = (
            nnx.Param(jax.random.normal(rngs.params(), (config.tasks, config.task_width))) if config.tasks else None
        )

    def __call__(self, inputs: GraphInputs) -> Array:
        """[Z] noise, embedding of the task (of norm sqrt(task_width)), encoded conditions."""
        parts = [jnp.asarray(inputs.noise)]
        if self.tasks is not None:
            parts.append(constant_norm(self.tasks.get_value()[inputs.task]))
        return jnp.concatenate([*parts, encode(jnp.asarray(inputs.conditions), self.encoding)])


def task_row(tasks: Sequence[str], task: str | int | None) -> int:
    """The row of a task: of its name, or the row itself as any integer, which other tasks come and go without changing.

    Raises:
        ValueError: no task is given, or there is none of this name or in this row.
    """
    known = {row: name for row, name in enumerate(tasks) if name != FREE}
    if not tasks:
        if task is None:
            return 0
        raise ValueError(f"task={task!r}: this hypernetwork knows no tasks; create it with GHNConfig(tasks=...)")
    row = next((row for row, name in known.items() if name == task), None) if isinstance(task, str) else _integer(task)
    if row not in known:
        rows = ", ".join(f"{name} ({row})" for row, name in known.items())
        raise ValueError(f"task={task!r}: unknown; this hypernetwork knows {rows or 'none: add_task first'}")
    return row


def _integer(value: Any) -> int | None:
    """Any kind of integer as an int; None for what is none."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def scaled_conditions(config: GHNConfig, conditions: Mapping[str, float]) -> NDArray[np.float32]:
    """[C] in [0, 1], in the order of the configuration.

    Raises:
        ValueError: a condition that is missing or unknown, or a value outside its bounds.
    """
    names = [name for name, _, _ in config.conditions]
    odd = sorted(set(names) ^ set(conditions))
    if odd:
        raise ValueError(f"conditions: {', '.join(odd)} missing or unknown; give exactly {', '.join(names) or 'none'}")
    scaled = np.zeros(len(names), np.float32)
    for index, (name, low, high) in enumerate(config.conditions):
        if not low <= conditions[name] <= high:
            raise ValueError(f"conditions: {name}={conditions[name]:g} is outside its bounds [{low:g}, {high:g}]")
        scaled[index] = Bounds(low, high).scale(name, np.array([conditions[name]]))[0]
    return scaled


def with_task(hypernetwork: Hypernetwork, name: str, seed: int = 0) -> Hypernetwork:
    """The hypernetwork with one more task, in the first free row (its number); the table doubles where it is full.

    The new embedding is random. Nothing else changes, so neither do the weights of other tasks.

    Raises:
        ValueError: a hypernetwork without tasks, an empty name, or one that is taken.
    """
    tasks, config = hypernetwork.tasks, hypernetwork.config
    if not config.tasks:
        raise ValueError(
            f"task {name!r}: this hypernetwork is not conditioned on tasks; use GHNConfig(tasks=1) or more"
        )
    if name == FREE or name in tasks:
        raise ValueError(f"task {name!r}: is empty or taken; this hypernetwork has {', '.join(filter(None, tasks))}")
    if FREE not in tasks:
        tasks = (*tasks, *[FREE] * len(tasks))
        config = dataclasses.replace(config, tasks=len(tasks))
    row = tasks.index(FREE)
    table_TE = np.zeros((config.tasks, config.task_width), np.float32)
    table_TE[: hypernetwork.config.tasks] = _table(hypernetwork.parameters).get_value()
    table_TE[row] = np.random.default_rng((seed, row)).standard_normal(config.task_width, np.float32)
    return dataclasses.replace(
        hypernetwork,
        config=config,
        parameters=_with_table(hypernetwork.parameters, jnp.asarray(table_TE)),
        tasks=(*tasks[:row], name, *tasks[row + 1 :]),
    )


def without_task(hypernetwork: Hypernetwork, task: str | int) -> Hypernetwork:
    """The hypernetwork without a task: its embedding is erased and its row free; all other weights are what they were.

    Raises:
        ValueError: an unknown task.
    """
    row, tasks = task_row(hypernetwork.tasks, task), hypernetwork.tasks
    table_TE = jnp.asarray(_table(hypernetwork.parameters).get_value()).at[row].set(0.0)
    return dataclasses.replace(
        hypernetwork,
        parameters=_with_table(hypernetwork.parameters, table_TE),
        tasks=(*tasks[:row], FREE, *tasks[row + 1 :]),
    )


def grown(hypernetwork: Hypernetwork, hidden: int, seed: int = 0) -> Hypernetwork:
    """The hypernetwork with another branch of `hidden` units in its decoder, whose output starts at zero.

    The weights of all tasks are what they were: widening the states instead would change them, being normalised.

    Raises:
        ValueError: a decoder other than "chunks", or fewer than 1 unit.
    """
    config = dataclasses.replace(hypernetwork.config, growth=(*hypernetwork.config.growth, hidden))
    fresh = type(hypernetwork).create(hypernetwork.space, config, seed).parameters
    old = dict(nnx.to_flat_state(hypernetwork.parameters))
    state = nnx.from_flat_state([(key, old.get(key, leaf)) for key, leaf in nnx.to_flat_state(fresh)])
    return dataclasses.replace(hypernetwork, config=config, parameters=state)


def _table(parameters: Parameters) -> nnx.Param[Array]:
    return cast("nnx.Param[Array]", parameters["conditioning"]["tasks"])


def _with_table(parameters: Parameters, table_TE: Array) -> Parameters:
    key = ("conditioning", "tasks")
    flat = nnx.to_flat_state(parameters)
    return nnx.from_flat_state([(path, leaf.replace(table_TE) if path == key else leaf) for path, leaf in flat])
