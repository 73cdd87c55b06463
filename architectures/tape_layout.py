"""Where the leaves of tapes lie in the slots of a space.

Every section has its own groups of leaves: 3x3 convolutions, larger ones, dense layers, depthwise kernels, ...; the
n-th leaf of a kind fills the n-th slot. Slots are as large as the largest leaf; the variants of a group are all shapes,
in steps of `STEP` channels, that may be cut out of it.

Shape letters: R sections, U units of a section at most, S slots of a kind.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from architectures.graph import Place
from architectures.layout import LeafGroup
from architectures.ops import Leaf, Role
from architectures.tape import NORMS, STEP, Norm, Tape, Unit, unit_leaves

Slots = dict[str, int]
SPATIAL = ("depthwise", "max_pool", "avg_pool")  # ops of neighbouring pixels that compute every channel by itself


@dataclasses.dataclass(frozen=True)
class TapeShape:
    """What every tape of a space fits into.

    Attributes:
        sizes: height and width of each section in pixels.
        channels: most channels of an entry in each section.
        narrow: channels up to which each section's convolutions take a cheaper program.
        spatial: most channels of pools and depthwise convolutions in each section.
        image: channels of the image.
        classes: outputs of the classifier.
        units: most units of each section.
        slots: kind of leaf -> most leaves of it in a section; kinds with none, and their ops, are not in
            the space (of "dense", "depthwise" and "norm" there are some).
        kernels: of convolutions, ascending.
        dilations: of convolutions, ascending.
        tokens: most pixels of a section that has attention, token mixers, positions and a flattening head.
        mixing: most hidden units of a token mixer, in multiples of the pixels.
        stems: ops that read the image, by name: "conv3", "half3" (stride 2), "patch2" (stride and kernel 2), ...
        mains, sides: ops of stride 2 that lead to the main and to the side input of the next section, by name: "conv3",
            "depthwise5", "max_pool", "avg_pool"; "conv1", "avg_pool".
        beside: whether entries are laid side by side as they are, not only by convolutions.
        prepares: normalisations of what units read, each with whether a smooth activation (GELU, SiLU) follows.
    """

    sizes: tuple[int, ...]
    channels: tuple[int, ...]
    narrow: tuple[int, ...]
    spatial: tuple[int, ...]
    image: int
    classes: int
    units: tuple[int, ...]
    slots: tuple[tuple[str, int], ...]
    kernels: tuple[int, ...]
    dilations: tuple[int, ...]
    tokens: int
    mixing: int
    stems: tuple[str, ...]
    mains: tuple[str, ...]
    sides: tuple[str, ...]
    beside: bool = False
    prepares: tuple[tuple[Norm, bool], ...] = tuple(itertools.product(NORMS, (False, True)))

    def pixels(self, section: int) -> int:
        """Pixels of an entry."""
        return self.sizes[section] ** 2

    def count(self, kind: str) -> int:
        """Most leaves of a kind in a section."""
        return dict(self.slots).get(kind, 0)

    def has_tokens(self, section: int) -> bool:
        """Whether pixels may be tokens there."""
        return self.pixels(section) <= self.tokens

    @functools.cached_property
    def ops(self) -> tuple[tuple[str, ...], ...]:
        """Names of the ops of each section, as `op_name` gives them."""
        sections = range(len(self.sizes))
        return tuple(tuple(name for name, kind in self._ops(s) if kind == "" or self.count(kind)) for s in sections)

    def _ops(self, section: int) -> Iterator[tuple[str, str]]:
        """Name, and the kind of leaf that it needs."""
        yield from (("skip", ""), ("dense", "dense"), ("max_pool", ""), ("avg_pool", ""))
        if self.beside:
            yield "beside", ""
        yield "squeeze_excite", "squeeze_excite"
        for kernel, dilation in itertools.product(self.kernels, self.dilations):
            if kernel == 3:
                yield f"conv{kernel}d{dilation}", "conv"
            if dilation == 1 or kernel < 7:
                yield f"depthwise{kernel}d{dilation}", "depthwise"
            if (kernel == 3 or dilation == 1) and (kernel > 3 or self.narrow[section] < self.channels[section]):
                yield f"narrow{kernel}d{dilation}", "conv" if kernel == 3 else "large"
        if self.has_tokens(section):
            yield from (("attention", "attention"), ("token_mix", "token_mix"), ("position", ""))

    @functools.cached_property
    def layout(self) -> dict[str, LeafGroup]:
        """All leaf groups."""
        return {group.name: group for group in _groups(self) if group.slots}

    def group_ids(self, group: str) -> Mapping[Leaf, int]:
        """Variant -> its index."""
        return self._group_ids[group]

    @functools.cached_property
    def _group_ids(self) -> Mapping[str, Mapping[Leaf, int]]:
        """Of all groups, kept here: a cache by group would hash all variants at every call."""
        return {name: {leaf: i for i, leaf in enumerate(group.variants)} for name, group in self.layout.items()}


def op_name(unit: Unit, shape: TapeShape, section: int) -> str:
    """Which of a section's ops computes a unit; what it names may be none of them."""
    if unit.kind == "skip" and unit.offset:
        return "beside"
    if unit.kind == "depthwise":
        return f"depthwise{unit.kernel}d{unit.dilation}"
    if unit.kind == "conv" and unit.kernel == 1:
        return "dense"
    if unit.kind == "conv":
        narrow = shape.narrow[section]
        fits = max(unit.inputs, unit.offset + unit.outputs) <= narrow
        cheaper = unit.kernel > 3 or narrow < shape.channels[section]  # than the program of all channels
        return f"{'narrow' if fits and cheaper else 'conv'}{unit.kernel}d{unit.dilation}"
    return unit.kind


# ------------------------------------------------------------------------------------------------------------ groups


def _groups(shape: TapeShape) -> Iterator[LeafGroup]:
    slots = defaultdict(int, shape.slots)
    larger = [kernel for kernel in shape.kernels if kernel > 3]
    for section, channels in enumerate(shape.channels):
        widths, part = _widths(channels), f"r{section}"
        pixels = shape.pixels(section)

        def matrices(
            name: str, count: int, inputs: Iterable[int], outputs: Iterable[int], part: str = part
        ) -> Iterator[LeafGroup]:
            yield _group(f"{part}/{name}", count, _kernels([1], inputs, outputs))

        def vectors(name: str, count: int, sizes: Iterable[int], part: str = part) -> Iterator[LeafGroup]:
            role: Role = "scale" if name.endswith("scale") else "bias"
            yield _group(f"{part}/{name}", count, [Leaf(role, (size,)) for size in sizes])

        yield _group(f"{part}/conv", slots["conv"], _kernels([3], widths, widths))
        if larger:
            narrow = _widths(shape.narrow[section])
            yield _group(f"{part}/large", slots["large"], _kernels(larger, narrow, narrow))
        yield from matrices("dense", slots["dense"], widths, widths)
        spatial = _widths(shape.spatial[section])
        yield _group(f"{part}/depthwise", slots["depthwise"], _kernels(shape.kernels, [1], spatial))
        yield from vectors("bias", slots["bias"], widths)
        yield from vectors("norm_scale", slots["norm"], widths)
        yield from vectors("norm_bias", slots["norm"], widths)
        quarter, count = [squeezed(width) for width in widths], slots["squeeze_excite"]
        pairs = list(zip(widths, quarter, strict=True))
        yield _group(f"{part}/squeeze", count, [Leaf("kernel", (1, 1, w, q)) for w, q in pairs])
        yield from vectors("squeeze_bias", count, dict.fromkeys(quarter))
        yield _group(f"{part}/excite", count, [Leaf("kernel", (1, 1, q, w)) for w, q in pairs])
        yield from vectors("excite_bias", count, widths)
        if shape.has_tokens(section):
            yield _group(f"{part}/attention", 4 * slots["attention"], [Leaf("kernel", (1, 1, w, w)) for w in widths])
            yield from vectors("attention_bias", 4 * slots["attention"], widths)
            hidden = [pixels * multiple for multiple in range(1, shape.mixing + 1)]
            yield from matrices("mix_in", slots["token_mix"], [pixels], hidden)
            yield from vectors("mix_in_bias", slots["token_mix"], hidden)
            yield from matrices("mix_out", slots["token_mix"], hidden, [pixels])
            yield from vectors("mix_out_bias", slots["token_mix"], [pixels])
            yield _group(f"{part}/position", 1, [Leaf("embedding", (pixels, width)) for width in widths])
        if section + 1 < len(shape.sizes):
            part, following = f"down{section}", _widths(shape.channels[section + 1])
            for kind in ("conv", "depthwise"):
                kernels = sorted(int(name[-1]) for name in shape.mains if name.startswith(kind))
                inputs, outputs = ([1], widths) if kind == "depthwise" else (widths, following)
                if kernels:
                    yield _group(f"{part}/{kind}", 1, _kernels(kernels, inputs, outputs))
            if any(name[-1].isdigit() for name in shape.mains):
                yield from vectors("bias", 1, following, part)
            if "conv1" in shape.sides:
                yield from matrices("side", 1, widths, following, part)
                yield from vectors("side_bias", 1, following, part)
    widest = _widths(max(shape.channels))
    yield _group("stem/kernel", 1, _kernels(sorted({int(stem[-1]) for stem in shape.stems}), [shape.image], widest))
    yield _group("stem/bias", 1, [Leaf("bias", (width,)) for width in widest])
    rows = {width for channels in shape.channels for width in _widths(channels)}
    for section, channels in enumerate(shape.channels):
        if shape.has_tokens(section):
            rows |= {shape.pixels(section) * width for width in _widths(channels)}
    yield _group("head/kernel", 1, _kernels([1], sorted(rows), [shape.classes]))
    yield _group("head/bias", 1, [Leaf("bias", (shape.classes,))])


def squeezed(width: int) -> int:
    """Hidden units of squeeze-and-excite."""
    return max(width // 4, 4)


def _widths(most: int) -> list[int]:
    return list(range(STEP, most + 1, STEP))


def _kernels(kernels: Iterable[int], inputs: Iterable[int], outputs: Iterable[int]) -> list[Leaf]:
    return [Leaf("kernel", (k, k, i, o)) for k, i, o in itertools.product(kernels, list(inputs), list(outputs))]


def _group(name: str, slots: int, variants: Iterable[Leaf]) -> LeafGroup:
    leaves = tuple(variants)
    return LeafGroup(name, slots, leaves, sliced=len(leaves) > 1)


# -------------------------------------------------------------------------------------------------------- allocation


def room_for(tape: Tape) -> tuple[tuple[int, ...], tuple[tuple[str, int], ...]]:
    """`units` and `slots` of the smallest `TapeShape` that a tape fits into."""
    slots: Counter[str] = Counter()
    for units in tape.sections:
        slots |= Counter(kind for unit in units for kind in {_kind(unit, name) for name in unit_leaves(unit, 1)})
    return tuple(map(len, tape.sections)), tuple(slots.items())


class Row(NamedTuple):
    """A leaf of a tape: the path in the user's pytree, what it is, and its slot."""

    path: tuple[str, ...]
    leaf: Leaf
    place: Place


class Allocated(NamedTuple):
    """A unit with its leaves and, for every kind of leaf, the slot that it fills."""

    unit: Unit
    rows: tuple[Row, ...]
    slots: Slots


class Allocation(NamedTuple):
    """A tape with all leaves in their slots."""

    stem: Allocated
    sections: tuple[tuple[Allocated, ...], ...]
    downs: tuple[tuple[Allocated | None, Allocated | None], ...]
    head: tuple[Row, Row]

    @property
    def rows(self) -> Iterator[Row]:
        """All leaves."""
        yield from self.stem.rows
        for index, section in enumerate(self.sections):
            for unit in section:
                yield from unit.rows
            for down in self.downs[index] if index < len(self.downs) else ():
                yield from () if down is None else down.rows
        yield from self.head


def allocate(tape: Tape, shape: TapeShape) -> Allocation:
    """Gives every leaf of a tape a slot.

    Raises:
        ValueError: a section with more units or leaves of a kind, or a leaf larger, than the space has room for.
    """
    sections = []
    for section, units in enumerate(tape.sections):
        if len(units) > shape.units[section]:
            raise ValueError(
                f"{len(units)} units at {_at(shape, section)}; this space has room for {shape.units[section]}"
            )
        used: dict[str, int] = defaultdict(int)
        sections.append(tuple(_allocated(unit, shape, section, used) for unit in units))
    downs = []
    for section, pair in enumerate(tape.downs):
        main, side = (None if unit is None else _down(unit, shape, section, index) for index, unit in enumerate(pair))
        downs.append((main, side))
    stem = Allocated(
        tape.stem, tuple(_row(shape, tape.stem, name, leaf, f"stem/{name}", 0) for name, leaf in _own(tape.stem)), {}
    )
    pixels = shape.pixels(tape.exit) if tape.head == "flatten" else 1
    leaves = Leaf("kernel", (1, 1, tape.features * pixels, shape.classes)), Leaf("bias", (shape.classes,))
    if tape.head == "flatten" and not shape.has_tokens(tape.exit):
        raise ValueError(f"the head flattens {_at(shape, tape.exit)}; this space flattens up to {shape.tokens} pixels")
    kernel, bias = (_placed(shape, ("head", leaf.role), leaf, f"head/{leaf.role}", 0) for leaf in leaves)
    return Allocation(stem, tuple(sections), tuple(downs), (kernel, bias))


def _at(shape: TapeShape, section: int) -> str:
    return f"{shape.sizes[section]}x{shape.sizes[section]} pixels"


def _own(unit: Unit) -> Iterable[tuple[str, Leaf]]:
    return unit_leaves(unit, 1).items()


def _allocated(unit: Unit, shape: TapeShape, section: int, used: dict[str, int]) -> Allocated:
    """A unit of a section; counts the slots that are used up."""
    if unit.kind in ("attention", "token_mix", "position") and not shape.has_tokens(section):
        raise ValueError(
            f"{unit.name}: {unit.kind} at {_at(shape, section)}; this space has it up to {shape.tokens} pixels"
        )
    if op_name(unit, shape, section) not in shape.ops[section]:
        raise ValueError(
            f"{unit.name}: {unit.kind} of kernel {unit.kernel}, dilation {unit.dilation} from {unit.inputs} to "
            f"{unit.outputs} channels at {_at(shape, section)}; the space has no such op there"
        )
    widest = (shape.spatial if unit.kind in SPATIAL else shape.channels)[section]
    if max(unit.inputs, unit.offset + unit.outputs) > widest:
        raise ValueError(
            f"{unit.name}: {unit.inputs} to {unit.offset + unit.outputs} channels at {_at(shape, section)}; "
            f"at most {widest}"
        )
    own = unit_leaves(unit, shape.pixels(section))
    slots: Slots = {}
    for kind in dict.fromkeys(_kind(unit, name) for name in own):
        slots[kind] = used[kind]
        used[kind] += 1
        most = 1 if kind == "position" else shape.count(kind)
        if slots[kind] >= most:
            raise ValueError(
                f"{unit.name}: leaf {used[kind]} of kind {kind!r} at {_at(shape, section)}; "
                f"this space has room for {most}"
            )
    rows = []
    for name, leaf in own.items():
        group, index = _group_of(unit, name)
        slot = slots[_kind(unit, name)]
        rows.append(_row(shape, unit, name, leaf, f"r{section}/{group}", slot if index is None else 4 * slot + index))
    return Allocated(unit, tuple(rows), slots)


def _down(unit: Unit, shape: TapeShape, section: int, index: int) -> Allocated:
    """A unit that leads from a section to the next."""
    names = {"kernel": "depthwise" if unit.kind == "depthwise" else "conv", "bias": "bias"}
    if index == 1:
        names = {"kernel": "side", "bias": "side_bias"}
    rows = tuple(_row(shape, unit, name, leaf, f"down{section}/{names[name]}", 0) for name, leaf in _own(unit))
    return Allocated(unit, rows, {})


def _kind(unit: Unit, leaf: str) -> str:
    """Under which kind a leaf is counted: one slot a unit and kind."""
    if leaf.startswith("norm/"):
        return "norm"
    if leaf == "bias":
        return "bias"
    if unit.kind == "conv" and unit.kernel == 1:
        return "dense"
    if unit.kind == "conv" and unit.kernel > 3:
        return "large"
    return unit.kind


def _group_of(unit: Unit, leaf: str) -> tuple[str, int | None]:
    """The group of a leaf and, for attention, which of its four projections it is."""
    first, _, last = leaf.rpartition("/")
    if first == "norm":
        return f"norm_{last}", None
    if unit.kind == "attention":
        return ("attention" if last == "kernel" else "attention_bias"), ("query", "key", "value", "out").index(first)
    if unit.kind == "token_mix":
        return f"mix_{first}" + ("_bias" if last == "bias" else ""), None
    if unit.kind == "squeeze_excite":
        return first + ("_bias" if last == "bias" else ""), None
    return _kind(unit, leaf), None


def _row(shape: TapeShape, unit: Unit, name: str, leaf: Leaf, group: str, slot: int) -> Row:
    return _placed(shape, (*unit.name.split("/"), *name.split("/")), leaf, group, slot)


def _placed(shape: TapeShape, path: tuple[str, ...], leaf: Leaf, group: str, slot: int) -> Row:
    variants = shape.group_ids(group)
    if leaf not in variants:
        raise ValueError(
            f"{'/'.join(path)}: {leaf.shape} has no slot in {group!r}, whose largest is {shape.layout[group].shape}"
        )
    return Row(path, leaf, Place(group, slot, variants[leaf]))
