"""Random networks of the DeepNets space: the distribution that training sees, and splits that lie outside of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from architectures.spaces.deepnets_blocks import entry_of
from architectures.spaces.deepnets_text import BRANCHES, OPTIONS, STRIDED_KINDS, Block, DeepNet, Stage
from architectures.tape import STEP, Activation, Norm

if TYPE_CHECKING:
    from architectures.spaces.deepnets import DeepNets

Split = Literal["id", "wide", "deep", "dense", "norm-free"]
SPLITS: tuple[Split, ...] = ("id", "wide", "deep", "dense", "norm-free")
CONV_KINDS = ("plain", "sep", "basic", "pre", "bottle", "mb", "next", "pool", "dense", "sum", "cat")
DRAWN_NORMS: dict[Norm, float] = {"batch": 0.6, "layer": 0.15, "group": 0.25}  # and how often
Item = TypeVar("Item")


def draw(space: DeepNets, rng: np.random.Generator, split: Split) -> DeepNet:
    """One draw of a split; it may be too large for the space's slots."""
    norm: Norm = "none" if split == "norm-free" else _norm(space, rng)
    activation: Activation = _pick(rng, ("relu", "gelu", "silu"), (0.5, 0.2, 0.3))
    stems = [stem for stem in space.stems if not (split == "dense" and stem.startswith("patch"))]
    stem = stems[int(rng.choice(len(stems), p=_stem_weights(stems)))]
    first, last = entry_of(stem), len(space.widths) - 1
    stages_count = last - first + 1
    if stages_count > 1 and rng.random() < 0.15:
        stages_count -= 1
    budget = _depth(space, rng, split)
    shares = rng.multinomial(max(budget - stages_count, 0), np.full(stages_count, 1 / stages_count)) + 1
    stages: list[Stage] = []
    tokens_first = stem.startswith("patch")
    for index in range(stages_count):
        section = first + index
        width = _width(space, rng, section, split, stages[-1].width if stages else 0)
        tokens = space.shape.has_tokens(section) and not space.kinds
        token_stage = tokens and rng.random() < (0.6 if tokens_first else 0.25)
        blocks = _blocks(space, rng, split, width, int(shares[index]), token_stage and split != "dense")
        down = None if index == 0 else _pick(rng, ("conv3", "conv2", "max", "avg"), (0.4, 0.2, 0.2, 0.2))
        if index > 0 and blocks[0].kind in STRIDED_KINDS and blocks[0]["k"] == 3 and rng.random() < 0.7:
            down = "block"
        stages.append(Stage(down, width, blocks))
    flat = space.shape.has_tokens(first + stages_count - 1) and rng.random() < 0.2
    return DeepNet(stem, norm, activation, tuple(stages), "flatten" if flat else "average")


def _pick(rng: np.random.Generator, items: Sequence[Item], weights: Sequence[float] | None = None) -> Item:
    return items[int(rng.choice(len(items), p=weights))]


def _norm(space: DeepNets, rng: np.random.Generator) -> Norm:
    kinds = space.norm_kinds or tuple(DRAWN_NORMS)
    shares = np.array([DRAWN_NORMS[kind] for kind in kinds])
    return _pick(rng, kinds, tuple(shares / shares.sum()))


def _stem_weights(stems: Sequence[str]) -> np.ndarray:
    weights = np.array([{"conv": 4.0, "half": 3.0, "patch": 2.0}[stem[:-1]] for stem in stems])
    return weights / weights.sum()


def _depth(space: DeepNets, rng: np.random.Generator, split: Split) -> int:
    """Number of blocks."""
    if split == "deep":
        return int(rng.integers(space.blocks + 1, space.blocks_deep + 1))
    return int(rng.integers(2, space.blocks + 1))


def _width(space: DeepNets, rng: np.random.Generator, section: int, split: Split, least: int) -> int:
    widest = space.channels[section] if split == "wide" else space.widths[section]
    narrowest = space.widths[section] + STEP if split == "wide" else max(widest // 2 // STEP * STEP, STEP)
    choices = [width for width in range(narrowest, widest + 1, STEP) if width >= min(least, widest)]
    return _pick(rng, choices or [widest])


def _blocks(
    space: DeepNets, rng: np.random.Generator, split: Split, width: int, count: int, tokens: bool
) -> tuple[Block, ...]:
    """The blocks of a stage: mostly one kind again and again, as people build networks."""
    if tokens:
        mixers = ("attn", "attn", "mix", "pool")
        mixer, perceptron = random_block(space, rng, _pick(rng, mixers), width), random_block(space, rng, "mlp", width)
        pairs = (mixer, perceptron) * ((count + 1) // 2)
        return ((Block("pos"),) if mixer.kind == "attn" and rng.random() < 0.7 else ()) + pairs
    if split == "dense":
        return tuple(_dense_block(space, rng) for _ in range(count))
    kinds = space.kinds or CONV_KINDS
    blocks = [random_block(space, rng, _pick(rng, kinds), width)]
    while len(blocks) < count:
        again = rng.random() < 0.6
        blocks.append(blocks[-1] if again else random_block(space, rng, _pick(rng, kinds), width))
    return tuple(blocks)


def _dense_block(space: DeepNets, rng: np.random.Generator) -> Block:
    """More connections than training has seen: dense cells of 4 or 5 layers, cells of 4 branches."""
    kind = _pick(rng, ("dense", "sum", "cat"), (0.5, 0.3, 0.2))
    if kind == "dense":
        return Block("dense", (("k", 3), ("n", int(rng.integers(4, 6))), ("w", _pick(rng, (4, 8)))))
    return Block(kind, branches=_branches(space, rng, 4))


def _branches(space: DeepNets, rng: np.random.Generator, count: int) -> tuple[str, ...]:
    """Different ones, in the order of BRANCHES; at least one with a kernel."""
    known = [branch for branch in BRANCHES if space.has_branch(branch)]
    while True:
        rows = sorted(rng.choice(len(known), min(count, len(known)), replace=False))
        picked = tuple(known[row] for row in rows)
        if any(branch not in ("skip", "max", "avg") for branch in picked):
            return picked


def random_block(space: DeepNets, rng: np.random.Generator, kind: str, width: int) -> Block:
    """A block of a kind that the space has at this width."""
    if kind in ("sum", "cat"):
        return Block(kind, branches=_branches(space, rng, int(rng.integers(2, 4))))
    options = []
    for letter in OPTIONS[kind]:
        choices = space.choices(kind, letter, width)
        weights = np.array([1.0 / (1 + row) for row in range(len(choices))])
        options.append((letter, int(_pick(rng, choices, tuple(weights / weights.sum())))))
    return Block(kind, tuple(options), kind == "mb" and bool(rng.random() < 0.5))
