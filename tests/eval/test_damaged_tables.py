"""Tables that are damaged, odd, or beside files that are not theirs: one line that names the file and the way out."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from architectures.spaces import NASBench201
from eval.ground_truth import read_ground_truth
from eval.tabular import GroundTruthError
from eval.truth_report import TruthConfig, ground_truth

SPACE = NASBench201()
CONV = "|skip_connect~0|+|none~0|none~1|+|none~0|nor_conv_3x3~1|none~2|"
POOL = "|avg_pool_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|"
SKIP = "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
TEXT = f"architecture,test_accuracy\n{CONV},.8\n{POOL},.5\n{SKIP},.3\n"


def test_a_compressed_table_that_is_damaged_is_named(tmp_path: Path) -> None:
    whole = gzip.compress(TEXT.encode())
    path = tmp_path / "t.csv.gz"
    path.write_bytes(whole[:10] + b"\xff" * 8 + whole[18:])
    with pytest.raises(GroundTruthError, match=r"t\.csv\.gz': cannot be read \(Error -3"):
        read_ground_truth(path, SPACE)


def test_a_table_that_a_spreadsheet_saved_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(TEXT.encode("utf-8-sig"))
    np.testing.assert_allclose(read_ground_truth(path, SPACE).accuracy, [0.8, 0.5, 0.3])


def test_a_field_without_an_end_is_no_csv(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(TEXT + "x" * 200_000)
    with pytest.raises(GroundTruthError, match=r"t\.csv: no CSV \(field larger"):
        read_ground_truth(path, SPACE)


@pytest.mark.parametrize("value", ["8604.8", "-0.1", "100.5"])
def test_what_is_no_accuracy_is_refused_with_line_and_column(tmp_path: Path, value: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(TEXT.replace("test_accuracy", "seconds_all") + f"\n{CONV},{value}\n")
    with pytest.raises(GroundTruthError, match=rf"t\.csv, line 6: seconds_all is {value}, .*--column"):
        read_ground_truth(path, SPACE, "seconds_all")


def test_what_is_no_accuracy_is_refused_in_json_too(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps({CONV: {"cifar10": {"train-all-time": 8604.8}}}))
    with pytest.raises(GroundTruthError, match=r"t\.json, \|skip_connect.*cifar10/train-all-time is 8604\.8"):
        read_ground_truth(path, SPACE, "cifar10/train-all-time")


@pytest.mark.parametrize(
    "content", [{"arch2infos": {"x": {"full": {"all_results": {}}}}}, {CONV: {"cifar10": {"test-accuracy": 50.0}}}]
)
def test_json_with_odd_values_is_named(tmp_path: Path, content: dict[str, Any]) -> None:
    if CONV in content:
        content[CONV]["cifar10"]["train-all-time"] = "long"
    path = tmp_path / "t.json"
    path.write_text(json.dumps(content))
    with pytest.raises(GroundTruthError, match=r"t\.json: is in none of the known layouts"):
        read_ground_truth(path, SPACE)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("[1, 2]", r"t\.json: lies where the card of t\.csv would, but is no JSON object; move it away"),
        ("{", r"t\.json: cannot be read as the card of t\.csv \(Expecting.*move it away"),
        (
            '{"space": "nasbench201"}',
            r"t\.json: the table's card names its space wrongly \(space 'nasbench201': expected",
        ),
        ('{"space": {"name": "nasbench201", "channels": "8"}}', r"t\.json: the table's card names its space wrongly"),
    ],
)
def test_a_file_that_is_no_card_is_named(tmp_path: Path, card: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(TEXT)
    path.with_suffix(".json").write_text(card)
    with pytest.raises(GroundTruthError, match=message):
        ground_truth(TruthConfig(source=str(path)), None, Console(quiet=True))
    if "space" not in card:  # of which rank asks its checkpoint
        with pytest.raises(GroundTruthError, match=message):
            read_ground_truth(path, SPACE)


def test_an_export_ends_in_csv(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"out\.json: names the CSV.*end in \.csv"):
        ground_truth(TruthConfig(), tmp_path / "out.json", Console(quiet=True))
