"""Scenarios and heads: which outputs belong to a task, and what counts as right (van de Ven & Tolias 2019).

CL1: the task is told. CL2: it is not, and labels are those within a task. CL3: it is not, and has to be named too.
With `own`, every task has outputs of its own; without, all share one set. A network whose weights depend on the task
can share one set in any scenario; one set of weights for all tasks cannot in CL1 and CL3.

Shape letters: B images, O outputs, K classes of a task.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array

from architectures.spaces import SearchSpace

Scenario = Literal["CL1", "CL2", "CL3"]


@dataclasses.dataclass(frozen=True)
class Heads:
    """The outputs of a target network.

    Attributes:
        scenario: CL1, CL2 or CL3.
        tasks: there are, or will be at most.
        classes: K of each task.
        own: whether each task has its own K outputs.

    Raises:
        ValueError: an unknown scenario, or own outputs in CL2, where the task is neither told nor asked for.
    """

    scenario: Scenario
    tasks: int
    classes: int
    own: bool

    def __post_init__(self) -> None:
        if self.scenario not in ("CL1", "CL2", "CL3"):
            raise ValueError(f"scenario={self.scenario!r}: use CL1, CL2 or CL3")
        if self.own and self.scenario == "CL2":
            raise ValueError("scenario=CL2: all tasks share one head; use heads='shared'")

    @property
    def outputs(self) -> int:
        """O."""
        return self.classes * (self.tasks if self.own else 1)

    def check(self, space: SearchSpace[Any]) -> None:
        """Raises ValueError for a target with another number of outputs."""
        if space.classes != self.outputs:
            kind = (
                f"{self.tasks} heads of {self.classes} classes" if self.own else f"one head of {self.classes} classes"
            )
            raise ValueError(
                f"target: its head has {space.classes} outputs, but {self.scenario} takes {kind}: {self.outputs}; "
                f"build the space with classes={self.outputs}"
            )

    def of_task(self, logits_BO: Array, task: Array | int) -> Array:
        """[B, K] outputs of the task of each image; `task` is one number, or one for each image."""
        if not self.own:
            return logits_BO
        columns_BK = jnp.asarray(task).reshape(-1, 1) * self.classes + jnp.arange(self.classes)
        return jnp.take_along_axis(logits_BO, jnp.broadcast_to(columns_BK, (len(logits_BO), self.classes)), 1)

    def columns(self, task: Array | int) -> Array:
        """[O] bool: the outputs of a task."""
        outputs = jnp.arange(self.outputs)
        return (outputs // self.classes == task) if self.own else outputs >= 0
