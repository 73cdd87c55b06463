"""Features of the paths through a cell, counted by hand."""

import numpy as np

from architectures.spaces import NASBench201
from eval.paths import FEATURES, path_features, paths

SPACE = NASBench201(channels=2, stages=1, input_shape=(6, 6, 1))


def test_features_are_those_counted_by_hand() -> None:
    cell = SPACE.from_string(
        "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_3x3~2|"
    )
    named = [tuple(op.name[-3:] for op in path) for path in paths(SPACE, cell)]
    # 0-3, 0-1-3, 0-2-3, 0-1-2-3
    assert named == [(), ("3x3", "3x3"), ("3x3", "3x3"), ("3x3", "1x1", "3x3")]
    row = dict(zip(FEATURES, path_features(SPACE, [cell])[0], strict=True))
    assert row == {
        "paths": 4,
        "most ops": 3,
        "least ops": 0,
        "mean ops": 7 / 4,
        "most kernels": 3,
        "least kernels": 0,
        "mean kernels": 5 / 4,
        "most spatial kernels": 2,
        "least spatial kernels": 0,
        "mean spatial kernels": 1,
        "most pools": 1,
        "least pools": 0,
        "mean pools": 1 / 2,
        "empty paths": 1,
        "paths of pools": 0,
        "mixed paths": 2,
    }


def test_a_cell_without_a_path_has_zeros() -> None:
    cell = SPACE.from_string("|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|")
    assert not path_features(SPACE, [cell]).any()


def test_isomorphic_cells_have_equal_features() -> None:
    cells = [SPACE.sample(seed) for seed in range(400)]
    rows: dict[str, set[tuple[float, ...]]] = {}
    for cell, row in zip(cells, np.round(path_features(SPACE, cells), 9), strict=True):
        rows.setdefault(SPACE.canonical(cell), set()).add(tuple(row))
    assert len(rows) < 390  # some classes were met more than once
    assert all(len(features) == 1 for features in rows.values())
