"""What is searched: the architectures of a space that may be proposed, and what each of them costs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from architectures.spaces import CellSpace, SearchSpace, settings
from eval.ground_truth import Tabulated

DRAWS = 5000  # in a row that may be refused before nothing is said to be left
NO_LATENCY = float("nan")


class Costs(NamedTuple):
    """What an architecture costs: scalar parameters, operations and milliseconds for one input.

    Milliseconds are nan where latency is neither bounded nor an objective.
    """

    parameters: int
    flops: int
    latency_ms: float


@dataclasses.dataclass(frozen=True)
class Constraints:
    """What a proposed architecture may cost at most."""

    parameters: int | None = None  # scalars
    flops: int | None = None  # operations for one input, two a multiply-accumulate
    latency_ms: float | None = None  # milliseconds for one input, measured on this machine

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise ValueError(f"Constraints.{field.name}={value}: must be positive, or None")

    def met(self, costs: Costs) -> bool:
        """Whether the costs are within every bound."""
        return all(bound is None or cost <= bound for bound, cost in zip(dataclasses.astuple(self), costs, strict=True))

    def __str__(self) -> str:
        bounds = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return ", ".join(f"{name} <= {bound:,}" for name, bound in bounds.items() if bound is not None) or "none"


class Problem:
    """The part of a space that may be proposed: connected, within the constraints, in the table where there is one.

    Isomorphic architectures have one key, under which they are scored once.
    """

    def __init__(
        self,
        space: SearchSpace[Any],
        constraints: Constraints = Constraints(),
        table: Tabulated | None = None,
        latency: Callable[[Any], float] | None = None,
    ) -> None:
        """Looks for nothing yet.

        Args:
            space: where architectures come from.
            constraints: what they may cost.
            table: keeps samples, mutations and neighbours within its classes.
            latency: milliseconds of an architecture, where they matter.

        Raises:
            ValueError: a bound on latency that nothing measures.
        """
        if constraints.latency_ms is not None and latency is None:
            raise ValueError("Constraints.latency_ms: give Problem a latency (eval.search.latency measures it)")
        self.space, self.constraints, self.table, self._latency = space, constraints, table, latency
        self._keys: dict[Any, str] = {}
        self._costs: dict[Any, Costs] = {}
        self._allowed: dict[Any, bool] = {}

    def key(self, architecture: Any) -> str:
        """16 hexadecimal digits, the same for isomorphic architectures."""
        if architecture not in self._keys:
            canonical = self.space.canonical(architecture)
            self._keys[architecture] = hashlib.sha256(canonical.encode()).hexdigest()[:16]
        return self._keys[architecture]

    def costs(self, architecture: Any) -> Costs:
        """What it costs; computed once."""
        if architecture not in self._costs:
            own = self.space.cost(architecture)
            latency = NO_LATENCY if self._latency is None else self._latency(architecture)
            self._costs[architecture] = Costs(own.parameters, 2 * own.macs, latency)
        return self._costs[architecture]

    def allows(self, architecture: Any) -> bool:
        """Whether it may be proposed."""
        if architecture not in self._allowed:
            fits = self.space.connected(architecture) and (self.table is None or architecture in self.table)
            bounded = self.constraints != Constraints()
            self._allowed[architecture] = fits and (not bounded or self.constraints.met(self.costs(architecture)))
        return self._allowed[architecture]

    def sample(self, rng: np.random.Generator) -> Any:
        """A random architecture that may be proposed: uniform over the table's classes, or over the space.

        Raises:
            ValueError: after 5,000 draws none of which may be.
        """
        draw = self.space.sample if self.table is None else self.table.sample
        for _ in range(DRAWS):
            architecture = draw(rng)
            if self.allows(architecture):
                return architecture
        raise ValueError(self._nothing(draw, rng))

    def mutate(self, architecture: Any, rng: np.random.Generator) -> Any:
        """A random neighbour that may be proposed; a random architecture where it has none."""
        for _ in range(50):
            other = self.space.mutate(architecture, rng)
            if self.allows(other):
                return other
        others = list(self.neighbours(architecture))
        return others[int(rng.integers(len(others)))] if others else self.sample(rng)

    def perturb(self, architecture: Any, rng: np.random.Generator, probability: float) -> Any:
        """Every single choice drawn again with this probability (SMASH, section 4), until something has changed.

        A space without a way of doing so changes one choice.
        """
        for _ in range(DRAWS):
            other = _perturbed(self.space, architecture, rng, probability)
            if other != architecture and self.allows(other):
                return other
        return self.mutate(architecture, rng)

    def neighbours(self, architecture: Any) -> Iterator[Any]:
        """The neighbours that may be proposed."""
        return (other for other in self.space.neighbours(architecture) if self.allows(other))

    def describe(self) -> str:
        """One line for people."""
        part = "" if self.table is None else f"; {self.table.describe()}"
        return f"{self.space.describe()}{part}; constraints: {self.constraints}"

    def identity(self) -> dict[str, str]:
        """What tells this problem from others, by part, for files and for people."""
        space = settings(self.space) if dataclasses.is_dataclass(self.space) else self.space.describe()
        return {
            "space": json.dumps(space, sort_keys=True, default=str),
            "constraints": str(self.constraints),
            "table": "none" if self.table is None else f"{len(self.table):,} classes, {self.table.id}",
        }

    def _nothing(self, draw: Callable[[Any], Any], rng: np.random.Generator) -> str:
        costs = [self.costs(draw(rng)) for _ in range(200)]
        least = Costs(*(min(column) for column in zip(*costs, strict=True)))
        seen = ", ".join(f"{name} {value:,}" for name, value in least._asdict().items() if value == value)
        return (
            f"constraints {self.constraints}: none of {DRAWS:,} random architectures meets them; the least seen were "
            f"{seen}; loosen them"
        )


def _perturbed(space: SearchSpace[Any], architecture: Any, rng: np.random.Generator, probability: float) -> Any:
    if isinstance(space, CellSpace):
        again = rng.random(len(architecture.edges)) < probability
        drawn = space.sample(rng)
        pairs = zip(again, drawn.edges, architecture.edges, strict=True)
        return type(architecture)(tuple(new if redraw else old for redraw, new, old in pairs))
    perturb = getattr(space, "perturb", None)
    return space.mutate(architecture, rng) if perturb is None else perturb(architecture, rng, probability)
