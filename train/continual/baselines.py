"""Methods that train the target's weights themselves, for comparison, on the same batches.

Elastic weight consolidation (Kirkpatrick et al. 2017), its online form (Schwarz et al. 2018) and synaptic intelligence
(Zenke et al. 2017) hold weights by a quadratic penalty, strength / 2 * sum of A w^2 - 2 B w, with an importance A and a
pull B for every weight. Learning without forgetting (Li & Hoiem 2016) holds the outputs on the new images. Fine-tuning,
training on all tasks so far (joint), on a memory besides the current task (replay), and every task from scratch differ
in their batches or their start alone.

Shape letters: n steps, B images, T tasks, O outputs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from architectures.layers import Layers
from architectures.layout import WeightArrays, initialise, occupancy
from architectures.spaces import SearchSpace
from train.continual.config import METHODS, Method
from train.continual.heads import Heads
from train.continual.learner import Chunk, Learner, Metrics, classified, compiled
from train.continual.streams import Part

FISHER_IMAGES = 500  # of a task, whose squared gradients are averaged
ONLINE_DECAY = 1.0  # of earlier importance in online EWC
SI_DAMPING = 1e-3  # keeps SI's importance finite where a weight hardly moved (Zenke et al. 2017, equation 5)
TEMPERATURE = 2.0  # of LwF


class DirectState(NamedTuple):
    """State of every method here; parts that a method does not use stay zero.

    Attributes:
        weights: the target's.
        optimizer_state: of the current task.
        importance: A.
        pull: B.
        before: weights at the start of the task.
        path: SI's path integral over the task.
        kept: [T, ...] weights of every task (scratch).
    """

    weights: WeightArrays
    optimizer_state: Any
    importance: WeightArrays
    pull: WeightArrays
    before: WeightArrays
    path: WeightArrays
    kept: WeightArrays


class DirectLearner(Learner):
    """One of these methods, for one architecture."""

    def __init__(
        self,
        space: SearchSpace[Any],
        architecture: Any,
        heads: Heads,
        method: Method,
        optimizer: optax.GradientTransformation,
        strength: float = 1.0,
        seed: int = 0,
        start: WeightArrays | None = None,
    ) -> None:
        """Compiles nothing yet.

        Args:
            space: of the architecture.
            architecture: the target.
            heads: of it.
            method: which one; all but "hypernetwork".
            optimizer: started afresh with every task.
            strength: of the penalty (ewc, online_ewc, si, lwf).
            seed: of the initial weights.
            start: weights to start from; by default an ordinary initialiser's.

        Raises:
            ValueError: a head that does not fit the scenario, an unknown method or "hypernetwork", a negative strength.
        """
        heads.check(space)
        if method == "hypernetwork":
            raise ValueError("method='hypernetwork': trains no weights of its own; use HypernetworkLearner")
        if method not in METHODS:
            raise ValueError(f"method={method!r}: use one of {', '.join(METHODS[1:])}")
        if not strength >= 0:
            raise ValueError(f"strength={strength}: must be at least 0; 0 holds nothing")
        if not heads.own and heads.scenario != "CL2" and method != "scratch":
            raise ValueError(
                f"heads='shared': {method} has one set of weights, which cannot answer several tasks with one head in "
                f"{heads.scenario}; use heads='own'"
            )
        self.heads, self.space, self.method, self.strength = heads, space, method, strength
        self.conditional = method == "scratch"
        self.replays = {"replay": "memory", "joint": "all"}.get(method, "none")
        self.encoding = space.encode(architecture)
        self.optimizer = optimizer
        filled = occupancy(space.layout, space.graph(architecture))
        self._variants = {name: jnp.asarray(group.variant) for name, group in filled.items()}
        self._seed, self._start = seed, start
        self._chunk = compiled(self._scan)
        self._fisher = jax.jit(self._squared_gradients)

    def init(self) -> DirectState:
        """Random weights, or those to start from."""
        weights = self._fresh(0)
        zeros = jax.tree.map(jnp.zeros_like, weights)
        rows = self.heads.tasks if self.method == "scratch" else 0
        kept = jax.tree.map(lambda leaf: jnp.zeros((rows, *leaf.shape)), weights)
        return DirectState(weights, self.optimizer.init(weights), zeros, zeros, zeros, zeros, kept)

    def begin(self, state: DirectState, task: int) -> DirectState:
        """A fresh optimiser; for scratch, fresh weights."""
        weights = self._fresh(task) if self.method == "scratch" else state.weights
        path = jax.tree.map(jnp.zeros_like, weights)
        return state._replace(weights=weights, optimizer_state=self.optimizer.init(weights), before=weights, path=path)

    def update(self, state: DirectState, task: int, chunk: Chunk) -> tuple[DirectState, Metrics]:
        """n steps."""
        updated: tuple[DirectState, Metrics] = self._chunk(state, np.int32(task), chunk)
        return updated

    def finish(self, state: DirectState, task: int, train: Part) -> DirectState:
        """Importance of the weights for the task that ends."""
        weights = state.weights
        if self.method == "scratch":
            kept = jax.tree.map(lambda rows, leaf: rows.at[task].set(leaf), state.kept, weights)
            return state._replace(kept=kept)
        if self.method in ("ewc", "online_ewc"):
            labels = train.labels[:FISHER_IMAGES]
            fisher = self._fisher(weights, np.int32(task), train.images[:FISHER_IMAGES], labels)
            decay = ONLINE_DECAY if self.method == "online_ewc" else 1.0
            importance = jax.tree.map(lambda a, f: decay * a + f, state.importance, fisher)
            if self.method == "online_ewc":
                pull = jax.tree.map(jnp.multiply, importance, weights)
            else:
                pull = jax.tree.map(lambda b, f, w: b + f * w, state.pull, fisher, weights)
            return state._replace(importance=importance, pull=pull)
        if self.method == "si":
            importance = jax.tree.map(
                lambda a, path, now, before: a + jnp.maximum(path, 0) / (jnp.square(now - before) + SI_DAMPING),
                state.importance,
                state.path,
                weights,
                state.before,
            )
            return state._replace(importance=importance, pull=jax.tree.map(jnp.multiply, importance, weights))
        return state

    def weights(self, state: DirectState, task: int) -> WeightArrays:
        """The same for all tasks, but for scratch."""
        if self.method == "scratch":
            kept: WeightArrays = jax.tree.map(lambda rows: rows[task], state.kept)
            return kept
        return state.weights

    def _fresh(self, task: int) -> WeightArrays:
        if self._start is not None:
            return self._start
        return initialise(self.space.layout, jax.random.fold_in(jax.random.key(self._seed), task), self._variants)

    def _logits(self, weights: WeightArrays, images: Array) -> Array:
        return self.space.forward(weights, self.encoding, images, Layers())[0]

    def _scan(self, state: DirectState, task: Array, chunk: Chunk) -> tuple[DirectState, Metrics]:
        def step(state: DirectState, rows: Chunk) -> tuple[DirectState, Metrics]:
            (_, metrics), grads = jax.value_and_grad(self._task_loss, has_aux=True)(state.weights, task, rows)
            held = jax.grad(self._penalty)(state.weights, state, task, rows)
            total = jax.tree.map(jnp.add, grads, held)
            updates, optimizer_state = self.optimizer.update(total, state.optimizer_state, state.weights)
            path = jax.tree.map(lambda path, g, change: path - g * change, state.path, grads, updates)
            weights = optax.apply_updates(state.weights, updates)
            return state._replace(weights=weights, optimizer_state=optimizer_state, path=path), metrics

        return jax.lax.scan(step, state, chunk)

    def _task_loss(self, weights: WeightArrays, task: Array, rows: Chunk) -> tuple[Array, Metrics]:
        logits = self._logits(weights, rows.images)
        if self.heads.scenario == "CL3" and self.heads.own:  # the task has to be named: all outputs seen so far compete
            seen = jnp.arange(self.heads.outputs) < (task + 1) * self.heads.classes
            logits, labels = jnp.where(seen, logits, -1e9), rows.tasks * self.heads.classes + rows.labels
        else:
            logits, labels = self.heads.of_task(logits, rows.tasks), rows.labels
        loss, accuracy = classified(logits, labels)
        return loss, {"loss": loss, "accuracy": accuracy}

    def _penalty(self, weights: WeightArrays, state: DirectState, task: Array, rows: Chunk) -> Array:
        if self.method in ("ewc", "online_ewc", "si"):
            parts = jax.tree.map(
                lambda w, a, b: jnp.sum(a * jnp.square(w) - 2 * b * w), weights, state.importance, state.pull
            )
            return 0.5 * self.strength * jax.tree.reduce(jnp.add, parts)
        if self.method == "lwf":
            return self.strength * self._distillation(weights, state.before, task, rows)
        return jnp.zeros(())

    def _distillation(self, weights: WeightArrays, before: WeightArrays, task: Array, rows: Chunk) -> Array:
        """Mean cross-entropy between softened outputs of the network before the task and now, over earlier tasks."""
        now, then = (self._logits(w, rows.images) / TEMPERATURE for w in (weights, before))
        if not self.heads.own:
            loss = optax.softmax_cross_entropy(now, jax.nn.softmax(then)).mean()
            return jnp.where(task > 0, TEMPERATURE**2 * loss, 0.0)

        def of_task(logits: Array) -> Array:  # [T, B, K]
            return logits.reshape(len(logits), self.heads.tasks, -1).swapaxes(0, 1)

        loss_T = optax.softmax_cross_entropy(of_task(now), jax.nn.softmax(of_task(then))).mean(-1)
        earlier_T = jnp.arange(self.heads.tasks) < task
        return TEMPERATURE**2 * jnp.sum(jnp.where(earlier_T, loss_T, 0.0)) / jnp.maximum(task, 1)

    def _squared_gradients(self, weights: WeightArrays, task: Array, images: Array, labels: Array) -> WeightArrays:
        """The empirical Fisher information: mean squared gradient of each image's loss, image by image."""

        def one(pair: tuple[Array, Array]) -> WeightArrays:
            image, label = pair
            rows = Chunk(image[None], label[None], task[None], jnp.zeros(()))
            grads = jax.grad(lambda w: self._task_loss(w, task, rows)[0])(weights)
            return jax.tree.map(jnp.square, grads)

        def add(total: WeightArrays, pair: tuple[Array, Array]) -> tuple[WeightArrays, None]:
            return jax.tree.map(jnp.add, total, one(pair)), None

        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, weights), (images, labels))
        return jax.tree.map(lambda leaf: leaf / len(labels), total)
