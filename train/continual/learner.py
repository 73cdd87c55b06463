"""What learns a stream: the interface, and the hypernetwork.

Shape letters: n steps in one call, B images, T tasks, P architectures of a pool.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from architectures.layers import Layers
from architectures.layout import WeightArrays
from architectures.spaces import Encoding, SearchSpace
from ghn.api import Hypernetwork, Parameters
from ghn.conditioning import FREE
from ghn.features import stack_inputs
from train.continual.config import RegulariserConfig
from train.continual.heads import Heads
from train.continual.regulariser import Drawn, Pool, Regulariser, make_pool
from train.continual.streams import Part
from train.optimizer import flatten_small

Metrics = dict[str, Array]  # each [n]
_DRAWS = 3  # keeps the random words of these draws apart from those of batches


class Chunk(NamedTuple):
    """The batches of n steps.

    Attributes:
        images: [n, B, H, W, C] float32.
        labels: [n, B] int32, within the task of each image.
        tasks: [n, B] int32, the task of each image.
        steps: [n] int32, counted from the start of the stream.
    """

    images: Any
    labels: Any
    tasks: Any
    steps: Any


class Learner(abc.ABC):
    """A method. Its state is a pytree whose shapes do not change over a stream; methods of it are pure.

    Attributes:
        heads: of the target.
        space: of the target.
        encoding: the target, as the executor reads it.
        conditional: whether each task has weights of its own, so that a task that is not told has to be inferred.
        replays: which images besides the current task's are in a batch: none, those of a memory, or all.
    """

    heads: Heads
    space: SearchSpace[Any]
    encoding: Encoding
    conditional: bool = False
    replays: str = "none"

    @abc.abstractmethod
    def init(self) -> Any:
        """The state before the first task."""

    @abc.abstractmethod
    def begin(self, state: Any, task: int) -> Any:
        """The state at the start of a task."""

    @abc.abstractmethod
    def update(self, state: Any, task: int, chunk: Chunk) -> tuple[Any, Metrics]:
        """n steps on a task; metrics "loss" and "accuracy" for each."""

    def finish(self, state: Any, task: int, train: Part) -> Any:
        """The state at the end of a task, whose training images may be looked at once more."""
        return state

    @abc.abstractmethod
    def weights(self, state: Any, task: int) -> WeightArrays:
        """The target's weights for a task."""

    def trained(self, state: Any, tasks: int) -> Hypernetwork | None:
        """The hypernetwork after so many tasks; None for a method that has none."""
        return None


def adam(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Adam with a cosine to 0 over one task."""
    return flatten_small(optax.adam(optax.cosine_decay_schedule(learning_rate, steps)))


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit`; on CPUs without XLA's fusion emitters, a third of the time to compile a step, and not faster."""
    options: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False} if jax.default_backend() == "cpu" else {}
    return jax.jit(function, compiler_options=options or None)


def classified(logits_BK: Array, labels_B: Array) -> tuple[Array, Array]:
    """Mean cross-entropy in nats, and accuracy."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits_BK, labels_B).mean()
    return loss, (logits_BK.argmax(-1) == labels_B).mean()


class Draw(NamedTuple):
    """What a step trains, and what it protects."""

    architecture: Any  # of the pool
    earlier: Drawn


class HypernetworkState(NamedTuple):
    """Parameters now and before the task, the optimiser's state, and stored targets if there are any."""

    parameters: Parameters
    snapshot: Parameters
    optimizer_state: Any
    stored: WeightArrays | None


class HypernetworkLearner(Learner):
    """A hypernetwork that emits the target, and other architectures, for every task.

    The optimiser starts afresh with each task, and of the embeddings only the current task's is trained. Every step
    trains one architecture of the pool: the target (the first) in half of the steps.
    """

    conditional = True

    def __init__(
        self,
        hypernetwork: Hypernetwork,
        architectures: Sequence[Any],
        heads: Heads,
        regulariser: RegulariserConfig = RegulariserConfig(),
        optimizer: optax.GradientTransformation | None = None,
        names: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        """Compiles nothing yet.

        Args:
            hypernetwork: with room for the tasks; those that it knows already have the names given here, in their rows.
            architectures: the target, then others that are trained and protected beside it.
            heads: of all of them.
            regulariser: of earlier tasks.
            optimizer: of the hypernetwork; Adam at 1e-3 by default.
            names: of the tasks, one for each; "0", "1", ... by default.
            seed: of the draws of architectures and earlier tasks.

        Raises:
            ValueError: a head that does not fit, no architecture, too little room for the tasks, names that are not one
                for each task, a hypernetwork that knows other tasks, an unknown leaf group.
        """
        heads.check(hypernetwork.space)
        if hypernetwork.config.tasks < heads.tasks:
            raise ValueError(
                f"GHNConfig.tasks={hypernetwork.config.tasks}: the stream has {heads.tasks} tasks; "
                f"use GHNConfig(tasks={heads.tasks})"
            )
        if not architectures:
            raise ValueError("architectures: there is none; give at least the target")
        self.names = _task_names(hypernetwork, heads, names)
        self.heads, self.hypernetwork, self.architectures = heads, hypernetwork, tuple(architectures)
        self.space, self.encoding = hypernetwork.space, hypernetwork.space.encode(self.architectures[0])
        self.pool = make_pool(hypernetwork, self.architectures, regulariser.leaves)
        self.optimizer = optimizer or flatten_small(optax.adam(1e-3))
        self.regulariser = Regulariser(
            hypernetwork.definition,
            hypernetwork.space,
            regulariser,
            heads,
            hypernetwork.config.tasks,
            len(self.architectures),
        )
        self._seed = seed
        self._chunk = compiled(self._scan)
        self._generate = compiled(self._one)

    def init(self) -> HypernetworkState:
        """The hypernetwork as it is."""
        parameters = self.hypernetwork.parameters
        return HypernetworkState(parameters, parameters, self.optimizer.init(parameters), self._store(parameters, 0))

    def begin(self, state: HypernetworkState, task: int) -> HypernetworkState:
        """A snapshot, targets if they are stored, a fresh optimiser."""
        parameters = state.parameters
        return HypernetworkState(parameters, parameters, self.optimizer.init(parameters), self._store(parameters, task))

    def _store(self, parameters: Parameters, task: int) -> WeightArrays | None:
        """What is stored before a task, if anything: [T, P, ...] weights of all architectures for earlier tasks."""
        if self.regulariser.config.targets == "snapshot" or not self.regulariser.draws:
            return None
        rows, columns = self.regulariser.tasks, len(self.architectures)
        stored = {
            name: np.zeros((rows, columns, group.slots, *group.shape), np.float32)
            for name, group in self.space.layout.items()
        }
        for row in range(task):
            for column in range(columns):
                for name, leaf in self._generate(parameters, self.pool, np.int32(column), np.int32(row)).items():
                    stored[name][row, column] = leaf
        return jax.tree.map(jnp.asarray, stored)

    def update(self, state: HypernetworkState, task: int, chunk: Chunk) -> tuple[HypernetworkState, Metrics]:
        """n steps of task loss and protection."""
        draws = stack_inputs([self._draw(task, int(step)) for step in chunk.steps])
        parameters, optimizer_state, metrics = self._chunk(
            state.parameters,
            state.optimizer_state,
            state.snapshot,
            state.stored,
            self.pool,
            np.int32(task),
            chunk,
            draws,
        )
        return state._replace(parameters=parameters, optimizer_state=optimizer_state), metrics

    def weights(self, state: HypernetworkState, task: int, architecture: int = 0) -> WeightArrays:
        """Weights of an architecture of the pool, the target by default."""
        arrays: WeightArrays = self._generate(state.parameters, self.pool, np.int32(architecture), np.int32(task))
        return arrays

    def trained(self, state: HypernetworkState, tasks: int) -> Hypernetwork:
        """The hypernetwork after so many tasks, which it knows by their names."""
        room = self.hypernetwork.config.tasks
        names = (*self.names[:tasks], *[FREE] * (room - tasks))
        return dataclasses.replace(self.hypernetwork, parameters=state.parameters, tasks=names)

    def _one(self, parameters: Parameters, pool: Pool, architecture: Array, task: Array) -> WeightArrays:
        inputs = pool.inputs_of(architecture[None], task[None])
        return {name: leaf[0] for name, leaf in self.regulariser.generate(parameters, inputs).items()}

    def changed(self, architectures: Sequence[Any]) -> HypernetworkLearner:
        """The same learner for another target (the first) and other architectures; it goes on with this one's state.

        Raises:
            ValueError: another number of architectures, whose state has another shape.
        """
        if len(architectures) != len(self.architectures):
            raise ValueError(
                f"architectures: {len(architectures)}, the learner has {len(self.architectures)}; give as many"
            )
        return HypernetworkLearner(
            self.hypernetwork,
            architectures,
            self.heads,
            self.regulariser.config,
            self.optimizer,
            self.names,
            self._seed,
        )

    def _scan(
        self,
        parameters: Parameters,
        optimizer_state: Any,
        snapshot: Parameters,
        stored: WeightArrays | None,
        pool: Pool,
        task: Array,
        chunk: Chunk,
        draws: Draw,
    ) -> tuple[Parameters, Any, Metrics]:
        def step(carry: tuple[Parameters, Any], rows: tuple[Chunk, Draw]) -> tuple[tuple[Parameters, Any], Metrics]:
            parameters, optimizer_state = carry
            loss = functools.partial(self._loss, snapshot=snapshot, stored=stored, pool=pool, task=task, rows=rows)
            grads, metrics = jax.grad(loss, has_aux=True)(parameters)
            grads["conditioning"]["tasks"] = _only(grads["conditioning"]["tasks"], task)
            updates, optimizer_state = self.optimizer.update(grads, optimizer_state, parameters)
            return (optax.apply_updates(parameters, updates), optimizer_state), metrics

        (parameters, optimizer_state), metrics = jax.lax.scan(step, (parameters, optimizer_state), (chunk, draws))
        return parameters, optimizer_state, metrics

    def _draw(self, task: int, step: int) -> Draw:
        """What one step trains and protects, by the seed and the step alone."""
        rng = np.random.default_rng((self._seed, _DRAWS, step))
        count = len(self.architectures)
        other = count > 1 and rng.random() < 0.5
        return Draw(np.int32(rng.integers(1, count) if other else 0), self.regulariser.draw(task, rng))

    def _loss(
        self,
        parameters: Parameters,
        snapshot: Parameters,
        stored: WeightArrays | None,
        pool: Pool,
        task: Array,
        rows: tuple[Chunk, Draw],
    ) -> tuple[Array, Metrics]:
        """Cross-entropy on the current task, and the penalty on earlier ones; all weights are generated at once."""
        parts, (batch, (architecture, drawn)) = self.regulariser, rows
        architectures = jnp.append(architecture, drawn.architectures)
        inputs = pool.inputs_of(architectures, jnp.append(task, drawn.tasks))
        weights = parts.generate(parameters, inputs)
        own = jax.tree.map(lambda leaf: leaf[0], weights)
        logits, _ = self.space.forward(own, pool.encoding_of(architecture), batch.images, Layers())
        loss, accuracy = classified(self.heads.of_task(logits, batch.tasks), batch.labels)
        metrics = {"loss": loss, "accuracy": accuracy}
        if not parts.draws:
            return loss, metrics
        earlier, earlier_inputs = (jax.tree.map(lambda leaf: leaf[1:], tree) for tree in (weights, inputs))
        penalty = parts.penalty(earlier, parts.targets(snapshot, stored, earlier_inputs, drawn), pool, drawn)
        return loss + penalty, {**metrics, "penalty": penalty}


def _task_names(hypernetwork: Hypernetwork, heads: Heads, names: Sequence[str]) -> tuple[str, ...]:
    """The names by row; ValueError where they are not one for each task, or not those that the hypernetwork knows."""
    chosen = tuple(names) or tuple(str(task) for task in range(heads.tasks))
    if len(chosen) != heads.tasks or len(set(chosen)) != heads.tasks or FREE in chosen:
        raise ValueError(f"names={chosen}: give {heads.tasks} that differ, one for each task, none of them empty")
    for row, known in enumerate(hypernetwork.tasks):
        if known != FREE and known not in chosen[row : row + 1]:
            raise ValueError(
                f"hypernetwork: knows task {known!r} in row {row}, where the learner has "
                f"{chosen[row] if row < len(chosen) else 'none'!r}; give names that keep it, or delete_task it first"
            )
    return chosen


def _only(table: nnx.Param[Array], row: Array) -> nnx.Param[Array]:
    """A gradient of the table of tasks with all rows but one at 0."""
    values = table.get_value()
    return cast("nnx.Param[Array]", table.replace(values * (jnp.arange(len(values)) == row)[:, None]))


@functools.cache
def forward(space: Any) -> Any:
    """(weights, encoding, images) -> logits, compiled once for a space."""
    return jax.jit(lambda weights, encoding, images: space.forward(weights, encoding, images, Layers())[0])
