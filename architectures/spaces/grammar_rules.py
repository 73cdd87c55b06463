"""The productions of the grammar at one resolution: what they derive at random, what they accept, how many they are.

Nonterminals carry the channels that they read and write, a -> b, in halves of the stage's width:

    chain[a->b]  ->  item[a->b]  |  item[a->c] > chain[c->b]
    item[a->b]   ->  an operation from a to b  |  add(part[a->b], ...)  |  cat(part[a->c], ending[a->d], ...), b = c + d
    part[a->b]   ->  chain[a->b]  |  id, where a = b (once in a sum)
    ending[a->b] ->  a chain whose last operation is linear or conv3

Branches lie at most `depth` deep, and a chain leads on to `sequence` + `branching` * (mean number of branches) others
on average. That is below 1, as in einspace (Ericsson et al. 2024), so that every derivation ends by itself.

Shape letters: L leaves of a stage at most.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from architectures.spaces.grammar_text import (
    ONCE,
    OPERATIONS,
    RESIZING,
    WIDTHS,
    Branch,
    Chain,
    Item,
    Leaf,
    depth_of,
    leaves_of,
    text_of,
)

ARITIES = {2: 0.8, 3: 0.2}  # branches -> how often
MEAN_ARITY = sum(arity * share for arity, share in ARITIES.items())
CONCATENATED = 0.25  # share of merges that are by channels
IDENTITY = 0.35  # share of branches that are the identity
KEPT = 0.8  # share of operations within a chain that keep the number of channels
WEIGHTS = {"linear": 3.0, "conv3": 3.0, "pos": 0.5, "excite": 0.5}  # of operations in a draw; 1 for all others
ENDINGS = ("linear", "conv3")  # what may write beside other channels

Widths = tuple[int, int]  # read, written
Polynomial = list[int]  # [L + 1] derivations by their leaves
Counts = dict[Widths, Polynomial]
Choice = TypeVar("Choice")


@dataclasses.dataclass(frozen=True)
class Rules:
    """Productions of one resolution.

    Attributes:
        kernels: of convolutions.
        tokens: whether pixels are tokens: attention, token mixing, positions.
        depth: how deep branches may lie within branches.
        leaves: most operations.
        sequence: how often a chain goes on after an item.
        branching: how often an item is a branch.
    """

    kernels: tuple[int, ...]
    tokens: bool
    depth: int
    leaves: int
    sequence: float
    branching: float

    @functools.cached_property
    def operations(self) -> Mapping[Widths, tuple[Leaf, ...]]:
        """Leaves of every pair of widths."""
        return {(a, b): tuple(self._operations(a, b)) for a, b in itertools.product(WIDTHS, repeat=2)}

    def _operations(self, inputs: int, outputs: int) -> list[Leaf]:
        found = []
        for name, (kind, options) in OPERATIONS.items():
            wide = max(inputs, outputs) > ONCE
            kernel = options.get("kernel", 3)
            if kernel not in self.kernels or (kind == "conv" and kernel > 3 and wide):
                continue
            if kind in ("attention", "token_mix", "position") and not self.tokens:
                continue
            if kind in RESIZING:
                found.append(Leaf(name, outputs))
            elif inputs == outputs:
                found.append(Leaf(name))
        return found

    # ------------------------------------------------------------------------------------------------ what is accepted

    def fault(self, chain: Chain) -> str | None:
        """Why a chain is none of a stage, or None."""
        try:
            outputs = self.outputs(chain, ONCE)
        except ValueError as error:
            return str(error)
        if outputs != ONCE:
            return f"it ends at {WIDTHS[outputs]} the stage's width; end it with 'linear', for one"
        depth, leaves = depth_of(chain), leaves_of(chain)
        if depth > self.depth:
            return f"branches lie {depth} deep; at most {self.depth}"
        return f"{leaves} operations; at most {self.leaves}" if leaves > self.leaves else None

    def outputs(self, chain: Chain, inputs: int) -> int:
        """Channels that a chain writes, of those that it reads, in halves of the stage's width.

        Raises:
            ValueError: something that the grammar does not derive.
        """
        return functools.reduce(lambda width, item: self.output(item, width), chain, inputs)

    def output(self, item: Item, inputs: int) -> int:
        """The same of one item."""
        if isinstance(item, Branch):
            return self._merged(item, inputs)
        outputs = item.halves or inputs
        if item not in self.operations[inputs, outputs]:
            known = ", ".join(map(str, self.operations[inputs, outputs]))
            raise ValueError(f"{item} on {WIDTHS[inputs]} the stage's width; at this resolution there are {known}")
        return outputs

    def _merged(self, branch: Branch, inputs: int) -> int:
        if len(branch.parts) > max(ARITIES):
            raise ValueError(f"{branch}: {len(branch.parts)} branches; at most {max(ARITIES)}")
        widths = [self.outputs(part, inputs) for part in branch.parts]
        named = " and ".join(WIDTHS[width] for width in widths)
        if branch.merge == "add":
            if len(set(widths)) > 1:
                raise ValueError(f"{branch}: branches of {named} the stage's width cannot be added")
            if sum(not part for part in branch.parts) > 1:
                raise ValueError(f"{branch}: the identity twice; once is enough")
            return widths[0]
        for part in branch.parts[1:]:
            if not (part and isinstance(part[-1], Leaf) and part[-1].name in ENDINGS):
                raise ValueError(
                    f"{branch}: {text_of(part)!r} has to end in {' or '.join(ENDINGS)}, to be laid beside others"
                )
        if sum(widths) not in WIDTHS:
            raise ValueError(f"{branch}: {named} the stage's width side by side; use half + half or once + once")
        return sum(widths)

    # ------------------------------------------------------------------------------------------------- random ones

    def part(self, rng: np.random.Generator, inputs: int, outputs: int, depth: int) -> Chain:
        """A random branch or stage, with branches at most `depth` deep."""
        if inputs == outputs and rng.random() < IDENTITY:
            return ()
        return self.chain(rng, inputs, outputs, depth)

    def chain(self, rng: np.random.Generator, inputs: int, outputs: int, depth: int) -> Chain:
        """A random chain."""
        items: list[Item] = []
        while rng.random() < self.sequence:
            others = [width for width in WIDTHS if width != inputs]
            width = inputs if rng.random() < KEPT else _pick(rng, others)
            items.append(self._item(rng, inputs, width, depth))
            inputs = width
        return (*items, self._item(rng, inputs, outputs, depth))

    def _item(self, rng: np.random.Generator, inputs: int, outputs: int, depth: int) -> Item:
        if depth > 0 and rng.random() < self.branching:
            return self._branch(rng, inputs, outputs, depth - 1)
        operations = self.operations[inputs, outputs]
        weights = np.array([WEIGHTS.get(leaf.name, 1.0) for leaf in operations])
        return operations[int(rng.choice(len(operations), p=weights / weights.sum()))]

    def _branch(self, rng: np.random.Generator, inputs: int, outputs: int, depth: int) -> Branch:
        """Drawn again where parts would lie flat within it or are the identity twice."""
        count = int(rng.choice(list(ARITIES), p=list(ARITIES.values())))
        divisions = shares(outputs, count) if rng.random() < CONCATENATED else []
        if divisions:
            first, *rest = _pick(rng, divisions)
            endings = (self._ending(rng, inputs, width, depth) for width in rest)
            return Branch("cat", (self._apart("cat", rng, inputs, first, depth), *endings))
        parts: tuple[Chain, ...] = ((), ())
        while sum(not part for part in parts) > 1:
            parts = tuple(self._apart("add", rng, inputs, outputs, depth) for _ in range(count))
        return Branch("add", parts)

    def _apart(self, merge: str, rng: np.random.Generator, inputs: int, outputs: int, depth: int) -> Chain:
        """A part that is no such merge itself."""
        while _lone(part := self.part(rng, inputs, outputs, depth), merge):
            pass
        return part

    def _ending(self, rng: np.random.Generator, inputs: int, outputs: int, depth: int) -> Chain:
        width = inputs if rng.random() < KEPT else _pick(rng, list(WIDTHS))
        return (*self.part(rng, inputs, width, depth), Leaf(_pick(rng, ENDINGS), outputs))

    # ------------------------------------------------------------------------------------------------ how many they are

    def count(self) -> int:
        """Derivations of a stage: by dynamic programming over depth, widths and leaves, as the productions say."""
        leaves = {key: self._monomial(1, len(found)) for key, found in self.operations.items()}
        items, adds, cats = leaves, self._none(), self._none()
        for _ in range(self.depth):
            chains = self._chains(items)
            adds, cats = self._adds(chains, adds), self._cats(chains, cats)
            items = {key: _sum(leaves[key], adds[key], cats[key]) for key in leaves}
        return 1 + sum(self._chains(items)[ONCE, ONCE])

    def _monomial(self, power: int, factor: int) -> Polynomial:
        return [factor if degree == power else 0 for degree in range(self.leaves + 1)]

    def _none(self) -> Counts:
        return {key: self._monomial(0, 0) for key in self.operations}

    def _chains(self, items: Counts) -> Counts:
        """chain = item + item * chain, degree by degree."""
        chains = self._none()
        for degree in range(1, self.leaves + 1):
            for a, b in chains:
                longer = sum(
                    items[a, c][first] * chains[c, b][degree - first] for c in WIDTHS for first in range(1, degree)
                )
                chains[a, b][degree] = items[a, b][degree] + longer
        return chains

    def _adds(self, chains: Counts, adds: Counts) -> Counts:
        """Sums of parts of which none is a sum and at most one the identity."""
        found = self._none()
        for a, b in found:
            whole = _sum(chains[a, b], [-number for number in adds[a, b]])
            for arity in ARITIES:
                found[a, b] = _sum(found[a, b], self._product([whole] * arity))
                if a == b:
                    rest = self._product([self._monomial(1, arity), *[whole] * (arity - 1)])
                    found[a, b] = _sum(found[a, b], rest)
        return found

    def _cats(self, chains: Counts, cats: Counts) -> Counts:
        found = self._none()
        identity = self._monomial(1, 1)
        last = self._monomial(1, len(ENDINGS))
        # An ending is its last operation alone, or a chain of any width before it.
        endings = {a: _sum(last, *(self._product([chains[a, c], last]) for c in WIDTHS)) for a in WIDTHS}
        for a, b in found:
            for first, *rest in (division for arity in ARITIES for division in shares(b, arity)):
                whole = _sum(chains[a, first], [-number for number in cats[a, first]])
                whole = _sum(whole, identity) if a == first else whole
                found[a, b] = _sum(found[a, b], self._product([whole, *(endings[a] for _ in rest)]))
        return found

    def _product(self, factors: Sequence[Polynomial]) -> Polynomial:
        """Terms of more than L leaves are left out."""
        result = self._monomial(0, 1)
        for factor in factors:
            result = [
                sum(result[i] * factor[degree - i] for i in range(degree + 1)) for degree in range(self.leaves + 1)
            ]
        return result


def shares(outputs: int, count: int) -> list[tuple[int, ...]]:
    """Widths of so many branches that lie side by side."""
    return [widths for widths in itertools.product(WIDTHS, repeat=count) if sum(widths) == outputs]


def _lone(part: Chain, merge: str) -> bool:
    return len(part) == 1 and isinstance(part[0], Branch) and part[0].merge == merge


def _sum(*polynomials: Polynomial) -> Polynomial:
    return [sum(terms) for terms in zip(*polynomials, strict=True)]


def _pick(rng: np.random.Generator, choices: Sequence[Choice]) -> Choice:
    return choices[int(rng.integers(len(choices)))]
