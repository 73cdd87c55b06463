"""Drawings of graphs: nodes in layers from top to bottom, as SVG."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from architectures.graph import ArchGraph

KERNELS = ("conv", "conv_transpose", "dense", "embedding", "nor_conv_3x3", "nor_conv_1x1", "stem_conv_3x3", "linear")
COLOURS = {"kernel": "#bcd7ee", "parameter": "#d9ead3", "join": "#fce5cd", "other": "#f3f3f3"}
WIDTH, HEIGHT = 1.75, 0.55  # inches that a node takes
SWEEPS = 8  # of the barycentre heuristic


def draw(graph: ArchGraph, path: str | Path) -> None:
    """Writes a picture of the graph; the suffix decides the format (.svg, .pdf, .png).

    Nodes lie in layers, those of one layer in the order that crosses few edges (barycentres, Sugiyama et al. 1981). An
    edge that skips layers bends around what lies between.

    Raises:
        ValueError: a graph without nodes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch

    if graph.nodes == 0:
        raise ValueError("graph: nothing to draw, it has no nodes")
    places = layout(graph)
    wide = max(x for x, _ in places) - min(x for x, _ in places) + 1
    deep = max(y for _, y in places) + 1
    figure = Figure(figsize=(WIDTH * wide + 0.4, HEIGHT * deep + 0.4))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(min(x for x, _ in places) - 0.6, max(x for x, _ in places) + 0.6)
    axes.set_ylim(-deep + 0.3, 0.7)
    for source, target in dict.fromkeys(map(tuple, graph.edges.tolist())):
        (x0, y0), (x1, y1) = places[source], places[target]
        bend = 0.3 if y1 - y0 > 1 and abs(x1 - x0) < 0.6 else 0.0
        arrow = FancyArrowPatch(
            (x0, -y0 - 0.26),
            (x1, -y1 + 0.26),
            arrowstyle="-|>",
            mutation_scale=7,
            linewidth=0.7,
            color="#777777",
            connectionstyle=f"arc3,rad={bend}",
            shrinkA=0,
            shrinkB=0,
            zorder=1,
        )
        axes.add_patch(arrow)
    owners = {row.node for row in graph.parameters}
    for node, (x, y) in enumerate(places):
        op = graph.ops[node]
        kind = "kernel" if op in KERNELS else "parameter" if node in owners else "other"
        if op in ("sum", "concat", "product", "mix"):
            kind = "join"
        box = {"boxstyle": "round,pad=0.25", "facecolor": COLOURS[kind], "edgecolor": "#555555", "linewidth": 0.6}
        axes.text(x, -y, label(graph, node), ha="center", va="center", fontsize=7, bbox=box, zorder=2)
    figure.savefig(path)


def label(graph: ArchGraph, node: int) -> str:
    """What is written on a node: its op and its sizes."""
    value = {name: float(values[node]) for name, values in graph.attributes.items()}
    parts = [graph.ops[node]]
    if value["kernel"] > 1:
        parts.append(f"{value['kernel']:.3g}x{value['kernel']:.3g}")
    if graph.ops[node] in KERNELS:
        parts.append(f"{value['channels_in']:.0f}>{value['channels_out']:.0f}")
    if value["stride"] > 1:
        parts.append(f"/{value['stride']:.2g}")
    return " ".join(parts)


def layout(graph: ArchGraph) -> list[tuple[float, int]]:
    """(x, layer) of every node: layers are levels, places within a layer follow the mean place of neighbours."""
    layers: dict[int, list[int]] = defaultdict(list)
    for node, level in enumerate(graph.levels.tolist()):
        layers[level].append(node)
    near: dict[int, list[int]] = defaultdict(list)
    for source, target in graph.edges.tolist():
        near[source].append(target)
        near[target].append(source)
    x = {node: place - (len(nodes) - 1) / 2 for nodes in layers.values() for place, node in enumerate(nodes)}
    for sweep in range(SWEEPS):
        for level in sorted(layers, reverse=bool(sweep % 2)):
            nodes = layers[level]
            wanted = {n: sum(x[m] for m in near[n]) / len(near[n]) if near[n] else x[n] for n in nodes}
            nodes.sort(key=lambda n: wanted[n])
            centre = sum(wanted.values()) / len(nodes)
            for place, node in enumerate(nodes):
                x[node] = centre + place - (len(nodes) - 1) / 2
    return [(x[node], int(graph.levels[node])) for node in range(graph.nodes)]
