"""The rank command, on a tiny hypernetwork and tiny data."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import ghn
from eval.checks import SHUFFLED, SILENT, SMALL, WRONG
from eval.ground_truth import GroundTruth
from eval.html_report import read_saved
from eval.rank import RankConfig, rank, rank_against
from eval.ranking import COMBINED, PRIMARY, Method, compare
from eval.report import ranking_json, ranking_notes, ranking_rows
from eval.scoring import ScoreConfig, Scorer
from tests.eval.rank.tiny import SPACE, TINY, TUNED, tiny
from train.cli import run_command
from train.config import SpaceConfig, TrainConfig
from train.data import DataConfig, DataError, Splits
from train.loop import train
from train.target_table import sample_classes


def test_rank_writes_everything_that_it_promises(
    data: DataConfig, splits: Splits, checkpoints: Path, tmp_path: Path
) -> None:
    hypernetwork = tiny(splits)
    cells = sample_classes(SPACE, 15, 5, hypernetwork.unseen)
    rng = np.random.default_rng(0)
    table = tmp_path / "truth.csv"
    lines = [f"{cell},{seed},{0.3 + 0.6 * rng.random():.4f}" for cell in cells for seed in (0, 1)]
    table.write_text("\n".join(["architecture,seed,test_accuracy", *lines]) + "\n")
    config = RankConfig(
        checkpoint=str(checkpoints / "ghn.safetensors"),
        supernet=str(checkpoints / "supernet.safetensors"),
        ensemble=(str(checkpoints / "other.safetensors"),),
        small=str(checkpoints / "other.safetensors"),
        fidelities=(2,),
        data=data,
        candidates="12",
        ground_truth=str(table),
        score=TUNED,
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
        f"{PRIMARY}, tempered",
        f"{PRIMARY}, 2 steps on",
        f"{PRIMARY}, mean of 2 seeds",
    }
    assert f"{PRIMARY}, mean of 2 seeds" in ranking.nested
    with (tmp_path / "out" / "candidates.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["train_loss"]) for row in rows]
    assert len(rows) == 12
    assert losses == sorted(losses)
    assert all(hypernetwork.unseen(SPACE.from_string(row["architecture"])) for row in rows)
    written = json.loads((tmp_path / "out" / "ranking.json").read_text())
    assert written["n"] == 15
    assert set(written["checks"]) == {WRONG, SHUFFLED, SILENT, SMALL}
    for name in ("ranking.md", "scatter.png", "scatter.svg"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    saved = read_saved(tmp_path / "out")
    np.testing.assert_allclose(saved.accuracy, ranking.truth.accuracy)
    np.testing.assert_allclose(saved.scores[PRIMARY], ranking.methods[PRIMARY].scores, rtol=1e-6)


def test_earlier_points_of_training_are_rows(data: DataConfig, splits: Splits, tmp_path: Path) -> None:
    space = SpaceConfig(channels=2)
    run = TrainConfig(space, data, ghn=TINY, steps=4, batch=8, meta_batch=1, held_out=0.5, checkpoint_every=2)
    trained = train(run, tmp_path / "run", show=False)
    cells = sample_classes(trained.space, 12, 5, trained.unseen)
    lines = [f"{cell},0,{0.3 + 0.01 * row}" for row, cell in enumerate(cells)]
    (tmp_path / "truth.csv").write_text("\n".join(["architecture,seed,test_accuracy", *lines]) + "\n")
    score = ScoreConfig(images=30)
    config = RankConfig(
        str(tmp_path / "run"),
        data=data,
        ground_truth=str(tmp_path / "truth.csv"),
        points=(2,),
        score=score,
        resamples=20,
        checks=False,
    )
    scorer = Scorer(trained, splits.train, splits.score, score)
    ranking = rank_against(config, trained, splits, scorer).ranking
    early = ghn.load(tmp_path / "run", step=2)
    expected = Scorer(early, splits.train, splits.score, score)(ranking.truth.architectures).train_loss
    row = ranking.methods[f"{PRIMARY}, step 2"]
    np.testing.assert_allclose(row.scores, -expected, rtol=1e-6)
    assert not np.allclose(row.scores, ranking.methods[PRIMARY].scores)
    with pytest.raises(ghn.CheckpointError, match="no checkpoint of step 3; there are 2, 4"):
        rank_against(dataclasses.replace(config, points=(3,)), trained, splits, scorer)


def test_a_perfect_and_an_inverted_score_are_seen_as_such() -> None:
    cells = tuple(sample_classes(SPACE, 40, 1))
    accuracy = np.linspace(0.5, 0.9, 40)
    truth = GroundTruth(cells, np.array([SPACE.canonical(cell) for cell in cells]), accuracy[:, None], {})
    ranking = compare(truth, {"good": Method(accuracy, 0.0), "bad": Method(-accuracy, 0.0)}, resamples=100)
    assert ranking.table["good"]["kendall"].value == pytest.approx(1)
    assert ranking.table["bad"]["kendall"].value == pytest.approx(-1)
    holed = np.where(np.arange(40) == 39, np.nan, accuracy)  # fails on the very best one
    failing = compare(truth, {"nan": Method(holed, 0.0)}, resamples=100)
    assert failing.failures == {"nan": 1}
    assert failing.table["nan"]["kendall"].value == pytest.approx(1 - 4 * 39 / (40 * 39))  # the best one ranks last
    assert ranking_rows(failing)[0][-1] == "failures" and ranking_rows(failing)[1][-1] == "1"
    assert any("1 of 40 scores are not finite" in note for note in ranking_notes(failing))
    assert ranking_json(failing)["methods"]["nan"]["failures"] == 1


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
    config = dataclasses.replace(
        RankConfig(checkpoint=own, data=data, candidates="3", score=ScoreConfig(images=30)), **change
    )  # type: ignore[arg-type]
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
