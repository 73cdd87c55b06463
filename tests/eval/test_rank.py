"""Scoring and the rank command, on a tiny hypernetwork and tiny data."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import optax
import pytest
from rich.console import Console

import ghn
from architectures.layers import Layers
from architectures.spaces import NASBench201
from eval.ground_truth import GroundTruth
from eval.rank import RankConfig, rank
from eval.ranking import COMBINED, PRIMARY, Method, compare
from eval.scoring import Scorer
from ghn import GHNConfig, Hypernetwork, Preprocessing
from train.cli import run_command
from train.data import DataConfig, DataError, Splits, load
from train.target_table import sample_classes

SPACE = NASBench201(channels=2, stages=2, input_shape=(6, 6, 1), classes=10)
TINY = GHNConfig(width=8, message_width=4, hidden=8, tile=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    labels = np.arange(120, dtype=np.uint8) % 10
    arrays = {
        "x_train": rng.integers(0, 256, (120, 6, 6), np.uint8),
        "y_train": labels,
        "x_test": rng.integers(0, 256, (40, 6, 6), np.uint8),
        "y_test": labels[:40],
    }
    np.savez(path, **arrays)
    return DataConfig(source=str(path), image_size=6, score_images=40)


@pytest.fixture(scope="module")
def splits(data: DataConfig) -> Splits:
    return load(data)


def tiny(splits: Splits, config: GHNConfig = TINY) -> Hypernetwork:
    train = splits.train
    known = Preprocessing(train.mean, train.std, train.class_names)
    created = Hypernetwork.create(SPACE, config)
    return dataclasses.replace(created, preprocessing=known, held_out=(0.5, 0))


@pytest.fixture(scope="module")
def checkpoints(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    ghn.save_file(tiny(splits), folder / "ghn.safetensors")
    ghn.save_file(tiny(splits, dataclasses.replace(TINY, delta=False)), folder / "supernet.safetensors")
    return folder


def test_scores_equal_a_plain_evaluation_of_each_architecture(splits: Splits) -> None:
    hypernetwork = tiny(splits)
    cells = [SPACE.sample(seed) for seed in range(18)]  # more than one chunk
    scores = Scorer(hypernetwork, splits.train, splits.score, images=30)(cells)
    for row in (0, 17):
        weights = hypernetwork(SPACE.graph(cells[row]))
        logits = SPACE.forward_static(weights.arrays, cells[row], splits.score.images[:30], Layers())
        labels = splits.score.labels[:30]
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        np.testing.assert_allclose(scores.score_loss[row], loss, rtol=1e-4)
        np.testing.assert_allclose(scores.score_accuracy[row], (logits.argmax(-1) == labels).mean(), atol=1e-6)


def test_scorer_refuses_images_of_another_shape(splits: Splits) -> None:
    other = dataclasses.replace(splits.train, images=np.zeros((20, 5, 5, 1), np.float32))
    with pytest.raises(DataError, match="train images"):
        Scorer(tiny(splits), other, splits.score)


def test_rank_writes_everything_that_it_promises(
    data: DataConfig, splits: Splits, checkpoints: Path, tmp_path: Path
) -> None:
    hypernetwork = tiny(splits)
    cells = sample_classes(SPACE, 15, 5, hypernetwork.unseen)
    rng = np.random.default_rng(0)
    table = tmp_path / "truth.csv"
    lines = [f"{cell},{seed},{rng.random():.4f}" for cell in cells for seed in (0, 1)]
    table.write_text("\n".join(["architecture,seed,test_accuracy", *lines]) + "\n")
    config = RankConfig(
        checkpoint=str(checkpoints / "ghn.safetensors"),
        supernet=str(checkpoints / "supernet.safetensors"),
        data=data,
        candidates="12",
        ground_truth=str(table),
        images=30,
        resamples=100,
    )
    ranking = rank(config, tmp_path / "out", Console(quiet=True))
    assert ranking is not None
    assert set(ranking.methods) >= {
        PRIMARY,
        COMBINED,
        "parameters",
        "FLOPs",
        "NWOT",
        "random",
        "delta = 0, training loss",
    }
    with (tmp_path / "out" / "candidates.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train_loss"]) for row in rows]
    assert len(rows) == 12
    assert losses == sorted(losses)
    assert all(hypernetwork.unseen(SPACE.from_string(row["architecture"])) for row in rows)
    written = json.loads((tmp_path / "out" / "ranking.json").read_text())
    assert written["n"] == 15
    for name in ("ranking.md", "scatter.png", "scatter.svg"):
        assert (tmp_path / "out" / name).stat().st_size > 100


def test_a_perfect_and_an_inverted_score_are_seen_as_such() -> None:
    cells = tuple(sample_classes(SPACE, 40, 1))
    accuracy = np.linspace(0.5, 0.9, 40)
    truth = GroundTruth(cells, np.array([SPACE.canonical(cell) for cell in cells]), accuracy[:, None], {})
    ranking = compare(truth, {"good": Method(accuracy, 0.0), "bad": Method(-accuracy, 0.0)}, resamples=100)
    assert ranking.table["good"]["kendall"].value == pytest.approx(1)
    assert ranking.table["bad"]["kendall"].value == pytest.approx(-1)
    with pytest.raises(ValueError, match=r"'nan'.*1 of 40"):
        compare(truth, {"nan": Method(np.where(np.arange(40) == 3, np.nan, accuracy), 0.0)}, resamples=100)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"candidates": "nofile.txt"}, ("nofile.txt",)),
        ({"checkpoint": "nothing"}, ("nothing", "ghn-train")),
        ({"ground_truth": "nowhere.csv"}, ("nowhere.csv",)),
        ({"supernet": "SAME", "ground_truth": "embedded", "seen": True}, ("supernet", "delta")),
    ],
)
def test_bad_input_ends_with_one_line_and_exit_code_2(
    change: dict[str, object],
    words: tuple[str, ...],
    data: DataConfig,
    checkpoints: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = str(checkpoints / "ghn.safetensors")
    change = {key: own if value == "SAME" else value for key, value in change.items()}
    config = dataclasses.replace(RankConfig(checkpoint=own, data=data, candidates="3", images=30), **change)  # type: ignore[arg-type]
    monkeypatch.setattr("sys.argv", ["ghn-eval", "rank"])

    def command() -> None:
        rank(config, tmp_path, Console(quiet=True))

    with pytest.raises(SystemExit) as caught:
        run_command({"rank": command, "other": command}, "")
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message


def test_an_unknown_op_in_a_file_of_candidates_is_named(data: DataConfig, checkpoints: Path, tmp_path: Path) -> None:
    file = tmp_path / "cells.txt"
    file.write_text("|conv_9x9~0|+|none~0|none~1|+|none~0|none~1|none~2|\n")
    config = RankConfig(checkpoint=str(checkpoints / "ghn.safetensors"), data=data, candidates=str(file))
    with pytest.raises(ValueError, match="conv_9x9"):
        rank(config, tmp_path, Console(quiet=True))


def test_other_data_than_in_training_are_refused(data: DataConfig, checkpoints: Path, tmp_path: Path) -> None:
    config = RankConfig(checkpoint=str(checkpoints / "ghn.safetensors"), data=DataConfig(image_size=7))
    with pytest.raises(DataError, match="classes"):
        rank(config, tmp_path, Console(quiet=True))
