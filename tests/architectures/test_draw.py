"""Drawings."""

from pathlib import Path

from architectures.draw import layout
from architectures.spaces import NASBench201


def test_every_node_is_drawn_in_its_layer(tmp_path: Path) -> None:
    space = NASBench201(channels=8, cells=1)
    graph = space.graph(space.sample(0))
    graph.draw(tmp_path / "graph.svg")
    assert "<svg" in (tmp_path / "graph.svg").read_text()
    places = layout(graph)
    assert [layer for _, layer in places] == graph.levels.tolist()
    assert len({(round(x, 6), layer) for x, layer in places}) == graph.nodes  # no two in one place
