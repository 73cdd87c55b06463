"""NAS-Bench-201: its counts, its strings, and the published costs."""

import csv
import gzip
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from architectures.spaces import Cell, NASBench201
from architectures.spaces.nasbench201 import ISOMORPHISM_CLASSES

SPACE = NASBench201()
TRUE_SIZE = NASBench201(channels=16, cells=5, input_shape=(32, 32, 3))
TABLES = Path(__file__).parents[3] / ".." / "shared" / "data" / "nas"
PUBLISHED = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"


def read(name: str) -> list[dict[str, str]]:
    path = TABLES / name
    if not path.exists():
        pytest.skip(f"the published table {name} is not here")
    with gzip.open(path, "rt") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return list(SPACE.all())


@pytest.fixture(scope="module")
def classes(cells: list[Cell]) -> dict[str, list[Cell]]:
    result: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        result[SPACE.canonical(cell)].append(cell)
    return result


def test_size(cells: list[Cell]) -> None:
    assert SPACE.size == len(cells) == len(set(cells)) == 15_625


def test_isomorphism_classes(classes: dict[str, list[Cell]]) -> None:
    assert len(classes) == ISOMORPHISM_CLASSES == 6_466


def test_disconnected_cells(cells: list[Cell]) -> None:
    disconnected = [cell for cell in cells if not SPACE.connected(cell)]
    assert len(disconnected) == 341
    assert len({SPACE.canonical(cell) for cell in disconnected}) == 5


def test_connection_belongs_to_the_class(classes: dict[str, list[Cell]]) -> None:
    assert all(len({SPACE.connected(cell) for cell in members}) == 1 for members in classes.values())


def test_strings_round_trip() -> None:
    for seed in range(200):
        cell = SPACE.sample(seed)
        assert SPACE.from_string(SPACE.to_string(cell)) == cell


def test_the_published_format_is_read_and_written() -> None:
    cell = SPACE.from_string(PUBLISHED)
    assert cell.edges == (
        "avg_pool_3x3",
        "nor_conv_1x1",
        "skip_connect",
        "nor_conv_1x1",
        "skip_connect",
        "skip_connect",
    )
    assert SPACE.to_string(cell) == str(cell) == PUBLISHED
    assert SPACE.from_string(f" {PUBLISHED}\n") == cell


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"1 nodes, expected 3"),
        ("|none~0|+|none~0|none~1|", r"2 nodes, expected 3, as in \|avg_pool_3x3~0\|\+\|avg_pool_3x3~0\|"),
        (f"{PUBLISHED}+|none~0|none~1|none~2|none~3|", r"4 nodes, expected 3"),
        (PUBLISHED.replace("+|nor_conv_1x1~0", "+nor_conv_1x1~0", 1), r"cannot read node 2"),
        (PUBLISHED.replace("skip_connect~2|", "skip_connect~2"), r"cannot read node 3"),
        (PUBLISHED.replace("skip_connect~2", "skip_connect"), r"cannot read node 3"),
        (PUBLISHED.replace("skip_connect~2", "~2"), r"cannot read node 3"),
        (PUBLISHED.replace("skip_connect~2", "skip_connect~x"), r"cannot read node 3"),
        (PUBLISHED.replace("skip_connect~2", "skip_connect~3"), r"node 3 must read nodes 0 to 2 in order"),
        (PUBLISHED.replace("skip_connect~2|", ""), r"node 3 must read nodes 0 to 2 in order"),
        (
            PUBLISHED.replace("|nor_conv_1x1~0|skip_connect~1|+", "|skip_connect~1|nor_conv_1x1~0|+"),
            r"node 2 must read",
        ),
        (
            PUBLISHED.replace("skip_connect~2", "max_pool~2"),
            r"unknown op 'max_pool' on the edge 2 -> 3; NASBench201 has none, skip_connect, nor_conv_1x1",
        ),
        (PUBLISHED.replace("avg_pool_3x3~0", "Avg_pool_3x3~0"), r"unknown op 'Avg_pool_3x3' on the edge 0 -> 1"),
    ],
)
def test_malformed_strings_are_explained(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        SPACE.from_string(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("edges", "parameters", "flops"),
    [
        (("skip_connect",) * 6, 73_306, 7_783_050),
        (("nor_conv_3x3",) * 6, 1_531_546, 220_119_690),
        (("none", "nor_conv_1x1", "none", "nor_conv_1x1", "skip_connect", "nor_conv_3x3"), 372_346, None),
    ],
)
def test_costs_equal_published_ones(edges: tuple[str, ...], parameters: int, flops: int | None) -> None:
    cost = TRUE_SIZE.cost(Cell(edges))
    assert cost.parameters == parameters
    if flops is not None:
        assert cost.macs == flops - 10  # the benchmark counts the classifier's 10 biases


def test_every_published_cost() -> None:
    """Published FLOPs are our multiply-accumulates and elementwise work, which that table counts alike for every cell.

    An output pixel costs 3 for the ReLU and batch normalisation around a convolution and 9 for an average pooling; 5
    cells in 3 stages have 143,360 output pixels (of one channel) an edge. The fixed parts add 160,830.
    """
    pixels = 5 * sum(16 * 2**stage * (32 // 2**stage) ** 2 for stage in range(3))
    rows = read("nasbench201_zero_cost_proxies_public.csv.gz")
    assert len(rows) == 533
    for row in rows:
        cell = SPACE.from_string(row["arch_str"])
        cost = TRUE_SIZE.cost(cell)
        assert f"{cost.parameters / 1e6:.6g}" == f"{float(row['params']):.6g}", row["arch_str"]
        per_pixel = sum({"nor_conv_1x1": 3, "nor_conv_3x3": 3, "avg_pool_3x3": 9}.get(op, 0) for op in cell.edges)
        flops = cost.macs + per_pixel * pixels + 160_830
        assert float(row["flops"]) * 1e6 == pytest.approx(flops, rel=5e-6, abs=5), row["arch_str"]  # 6 digits


def test_classes_equal_published_ones() -> None:
    pairs = set()
    for row in read("nasbench201_cifar10_public_half.csv.gz"):
        pairs.add((SPACE.canonical(SPACE.from_string(row["arch_str"])), row["isomorphism_key"]))
    ours, published = zip(*pairs, strict=True)
    assert len(pairs) == len(set(ours)) == len(set(published)) == 3_249


def test_mutate_and_neighbours_differ_in_one_edge() -> None:
    for seed in range(50):
        cell = SPACE.sample(seed)
        near = list(SPACE.neighbours(cell))
        assert len(set(near)) == len(near) == 6 * 4
        for other in [*near, SPACE.mutate(cell, seed)]:
            assert sum(a != b for a, b in zip(cell.edges, other.edges, strict=True)) == 1
        assert SPACE.mutate(cell, seed) in near
        assert SPACE.mutate(cell, seed) == SPACE.mutate(cell, seed)
    assert len({SPACE.mutate(cell, seed) for seed in range(400)}) == 24  # any neighbour can come


def test_sample_is_reproducible_and_uniform() -> None:
    assert [SPACE.sample(seed) for seed in range(10)] == [SPACE.sample(seed) for seed in range(10)]
    rng, again = np.random.default_rng(0), np.random.default_rng(0)
    first = [SPACE.sample(rng) for _ in range(500)]
    assert first == [SPACE.sample(again) for _ in range(500)]
    assert len(set(first)) > 450  # a generator moves on
    for edge in range(6):
        counts = [sum(cell.edges[edge] == op for cell in first) for op in SPACE.choices]
        assert min(counts) > 60 and max(counts) < 140  # 100 expected, standard deviation 9


def test_held_out_belongs_to_the_class(classes: dict[str, list[Cell]]) -> None:
    held = {key: SPACE.held_out(members[0], 0.2) for key, members in classes.items()}
    assert sum(held.values()) / len(held) == pytest.approx(0.2, abs=0.02)  # standard deviation 0.005
    several = [(key, members) for key, members in classes.items() if len(members) > 1]
    assert len(several) > 1_000
    for key, members in several:
        assert {SPACE.held_out(cell, 0.2) for cell in members[1:]} == {held[key]}
    # the same whatever the size of the networks, another with another seed, growing with the share
    sample = [members[0] for members in classes.values()][:1000]
    assert all(TRUE_SIZE.held_out(cell, 0.2) == SPACE.held_out(cell, 0.2) for cell in sample)
    assert any(SPACE.held_out(cell, 0.2, seed=1) != SPACE.held_out(cell, 0.2) for cell in sample)
    assert all(SPACE.held_out(cell, 0.5) for cell in sample if SPACE.held_out(cell, 0.2))
    assert not any(SPACE.held_out(cell, 0.0) for cell in sample)
    assert all(SPACE.held_out(cell, 1.0) for cell in sample)


def test_describe() -> None:
    text = SPACE.describe()
    assert "15,625" in text and "6,466" in text and "nasbench201" in text
