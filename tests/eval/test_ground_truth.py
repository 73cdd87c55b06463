"""Reading tables of accuracies."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from architectures.spaces import NASBench201
from eval.ground_truth import GroundTruthError, read_ground_truth
from eval.metrics import reliability

SPACE = NASBench201()
CONV = "|skip_connect~0|+|none~0|none~1|+|none~0|nor_conv_3x3~1|none~2|"
CONV_AGAIN = "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"  # isomorphic to CONV
POOL = "|avg_pool_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|"
SKIP = "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
BROKEN = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


def table(path: Path, rows: list[str], header: str = "architecture,seed,test_accuracy") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_classes_are_merged_seeds_are_columns_and_the_disconnected_are_counted(tmp_path: Path) -> None:
    rows = [f"{CONV},0,.8", f"{CONV_AGAIN},0,.6", f"{CONV},1,.9", f"{POOL},0,.5", f"{POOL},1,.6", f"{SKIP},0,.3"]
    truth = read_ground_truth(table(tmp_path / "t.csv", [*rows, f"{SKIP},1,.2", f"{BROKEN},0,.1"]), SPACE)
    assert len(truth.architectures) == 3
    np.testing.assert_allclose(truth.runs, [[0.7, 0.9], [0.5, 0.6], [0.3, 0.2]])
    np.testing.assert_allclose(truth.accuracy, [0.8, 0.55, 0.25])
    assert truth.left_out["disconnected"] == 1


def test_seeds_that_some_class_lacks_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [f"{CONV},0,.8", f"{CONV},1,.9", f"{POOL},0,.5", f"{SKIP},0,.3"]
    truth = read_ground_truth(table(tmp_path / "t.csv", rows), SPACE)
    assert truth.runs.shape == (3, 1)
    assert truth.left_out["runs of seeds that not all classes have"] == 1


def test_a_published_layout_in_per_cent_and_gzip_is_read(tmp_path: Path) -> None:
    text = "index,arch_str,cifar10\n" + "".join(
        f"{i},{a},{v}\n" for i, (a, v) in enumerate([(CONV, 93), (POOL, 85), (SKIP, 80)])
    )
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    np.testing.assert_allclose(read_ground_truth(path, SPACE, "cifar10").accuracy, [0.93, 0.85, 0.80])


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        ([f"{CONV},0,high"], "architecture,seed,test_accuracy", ("line 2", "high")),
        (["|conv_9x9~0|,0,.5"], "architecture,seed,test_accuracy", ("line 2", "nodes")),
        ([f"{CONV},0,.5"], "cell,seed,test_accuracy", ("columns", "architecture")),
        ([f"{CONV},0,.5"], "architecture,seed,test_accuracy", ("only 1 connected",)),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, rows: list[str], header: str, words: tuple[str, ...]) -> None:
    path = table(tmp_path / "bad.csv", rows, header)
    with pytest.raises(GroundTruthError) as caught:
        read_ground_truth(path, SPACE)
    assert all(word in str(caught.value) for word in ("bad.csv", *words))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GroundTruthError, match=r"nowhere\.csv.*embedded"):
        read_ground_truth(tmp_path / "nowhere.csv", SPACE)


def test_the_packaged_table_is_as_stated() -> None:
    truth = read_ground_truth("embedded", SPACE)
    assert len(truth.architectures) >= 200
    assert reliability(truth.runs) >= 0.8
    assert all(SPACE.held_out(architecture, 0.1) for architecture in truth.architectures)
    assert len(set(truth.classes)) == len(truth.classes)
