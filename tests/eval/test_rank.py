"""Scoring and the rank command, on a tiny hypernetwork and tiny data."""

import csv
import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import optax
import pytest
from rich.console import Console

import ghn
from architectures.layers import Layers
from architectures.spaces import NASBench201
from eval.charts import Axis, Chart
from eval.checks import SHUFFLED, SILENT, SMALL, WRONG, judge, no_messages, shuffled_edges, spoilt_scores
from eval.ground_truth import GroundTruth
from eval.html_report import read_saved, write_html
from eval.rank import RankConfig, rank, rank_against
from eval.ranking import COMBINED, PRIMARY, Method, compare
from eval.report import ranking_json, ranking_notes, ranking_rows, write_ranking_files
from eval.scoring import ScoreConfig, Scorer, Scores, _score, ensemble, inverse_temperature, tempered_loss
from ghn import GHNConfig, Hypernetwork, Preprocessing
from train.cli import run_command
from train.config import SpaceConfig, TrainConfig
from train.data import DataConfig, DataError, Splits, load
from train.finetune import FinetuneConfig
from train.loop import train
from train.target_table import sample_classes

SPACE = NASBench201(channels=2, stages=1, input_shape=(6, 6, 1), classes=10)
TUNED = ScoreConfig(images=30, finetune=FinetuneConfig(learning_rate=0.05, batch=20))
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


def tiny(splits: Splits, config: GHNConfig = TINY, seed: int = 0) -> Hypernetwork:
    train = splits.train
    known = Preprocessing(train.mean, train.std, train.class_names)
    created = Hypernetwork.create(SPACE, config, seed)
    return dataclasses.replace(created, preprocessing=known, held_out=(0.5, 0))


@pytest.fixture(scope="module")
def checkpoints(splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    ghn.save_file(tiny(splits), folder / "ghn.safetensors")
    ghn.save_file(tiny(splits, dataclasses.replace(TINY, delta=False)), folder / "supernet.safetensors")
    ghn.save_file(tiny(splits, seed=1), folder / "other.safetensors")
    return folder


def test_scores_equal_a_plain_evaluation_of_each_architecture(splits: Splits) -> None:
    hypernetwork = tiny(splits)
    cells = [SPACE.sample(seed) for seed in range(18)]  # more than one chunk
    scores = Scorer(hypernetwork, splits.train, splits.score, ScoreConfig(images=30))(cells)
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


class Page(HTMLParser):
    """Collects what a page asks for from elsewhere, and checks that its elements are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.tags: dict[str, int] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.outside += [f"{tag} {name}" for name, _ in attributes if name in ("src", "href", "srcset", "xlink:href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def saved_ranking(folder: Path, seeds: int, failing: bool = False, seconds: float = 5.0) -> Path:
    """A folder as `ghn-eval rank` leaves it, of 40 classes and made-up scores."""
    rng = np.random.default_rng(0)
    cells = tuple(sample_classes(SPACE, 40, 1))
    runs = np.linspace(0.5, 0.9, 40)[:, None] + 0.02 * rng.normal(size=(40, seeds))
    truth = GroundTruth(cells, np.array([SPACE.canonical(cell) for cell in cells]), runs, {"disconnected": 2}, seconds)
    scores = runs.mean(1) + 0.1 * rng.normal(size=40)
    scores[0] = np.nan if failing else scores[0]
    methods = {PRIMARY: Method(scores, 0.1, 50.0), "parameters": Method(rng.normal(size=40), 1e-5)}
    ranking = compare(truth, {"generated <weights>": methods[PRIMARY], **methods}, resamples=100)
    write_ranking_files(ranking, {}, ["a & b"], {"ground_truth": "x", "steps": 5}, SPACE, folder)
    return folder


@pytest.mark.parametrize(("seeds", "failing"), [(1, False), (3, True)])
def test_the_html_report_is_one_sound_file_that_needs_nothing_else(tmp_path: Path, seeds: int, failing: bool) -> None:
    text = write_html(saved_ranking(tmp_path, seeds, failing)).read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and page.outside == []
    assert "@import" not in text and "url(" not in text and "script" not in page.tags
    assert page.tags["svg"] == 3 and page.tags["table"] == 1
    assert page.tags["tr"] == 1 + 3
    assert page.tags["circle"] == (40 - failing) + (20 + 2) + (3 + (seeds > 1))  # scatter, groups and legend, cost
    assert "generated &lt;weights&gt;" in text and "a &amp; b" in text
    assert ("failures" in text) == failing
    assert "nan" not in text.replace("nanmean", "")
    values = json.loads((tmp_path / "ranking.json").read_text())
    values["calibrated"] = {"coverage_curve": [[0.5, 0.4], [0.9, 0.88]]}
    (tmp_path / "ranking.json").write_text(json.dumps(values))
    assert Page(write_html(tmp_path).read_text(encoding="utf-8")).tags["svg"] == 4


def test_a_truth_that_took_no_time_has_a_report_too(tmp_path: Path) -> None:
    text = write_html(saved_ranking(tmp_path, 3, seconds=0.0)).read_text(encoding="utf-8")
    assert Page(text).tags["svg"] == 3 and "training from scratch: " not in text


def test_charts_leave_out_what_a_logarithmic_axis_does_not_show() -> None:
    chart = Chart("cost", Axis.over("seconds", [0.0, 1.0, 10.0], log=True), Axis("Kendall", 0, 1))
    for seconds in (0.0, -1.0, 1.0):
        chart.point(seconds, 0.5)
    chart.line([(0.0, 0.1), (1.0, 0.5), (10.0, 0.9)])
    assert chart.svg().count("<circle") == 1 and chart.svg().count(",") == 2


def test_training_is_shared_among_candidates_in_the_cost(tmp_path: Path) -> None:
    values = json.loads((saved_ranking(tmp_path, 1) / "ranking.json").read_text())
    assert values["methods"][PRIMARY]["amortised_seconds_per_candidate"] == pytest.approx(0.1 + 50 / 40)


def test_a_folder_without_a_ranking_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{tmp_path}: holds no finished ranking .*ghn-eval rank"):
        write_html(tmp_path)


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


# --------------------------------------------------------------------------------------------- ways of scoring


def test_statistics_of_training_images_normalise_every_score(splits: Splits) -> None:
    hypernetwork, cell = tiny(splits), SPACE.sample(3)
    scores = Scorer(hypernetwork, splits.train, splits.score, ScoreConfig(images=30, calibration=20))([cell])
    layers = Layers(statistics_rows=20)
    images = np.concatenate([splits.train.images[:20], splits.score.images[:30]])
    logits = SPACE.forward_static(hypernetwork(SPACE.graph(cell)).arrays, cell, images, layers)[20:]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, splits.score.labels[:30]).mean()
    np.testing.assert_allclose(scores.score_loss, loss, rtol=1e-4)


def test_one_split_alone_scores_as_beside_the_other(splits: Splits) -> None:
    hypernetwork, cells = tiny(splits), [SPACE.sample(seed) for seed in range(3)]
    both, alone = (
        Scorer(hypernetwork, splits.train, splits.score, ScoreConfig(images=30, unseen=unseen))(cells)
        for unseen in (True, False)
    )
    np.testing.assert_allclose(alone.train_loss, both.train_loss, rtol=1e-5)
    np.testing.assert_allclose(alone.train_tempered, both.train_tempered, rtol=1e-5)
    assert np.isnan(alone.score_loss).all() and np.isfinite(both.score_loss).all()


def test_the_best_temperature_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(400, 5)).astype(np.float32)
    labels = np.array([rng.choice(5, p=np.exp(row) / np.exp(row).sum()) for row in logits])  # right at factor 1
    for scale in (0.1, 1.0, 30.0):
        found = float(inverse_temperature(logits * scale, labels))
        grid = np.geomspace(found / 2, found * 2, 41)
        losses = [optax.softmax_cross_entropy_with_integer_labels(f * scale * logits, labels).mean() for f in grid]
        assert abs(int(np.argmin(losses)) - 20) <= 1
        assert found * scale == pytest.approx(1, abs=0.2)
    overconfident = optax.softmax_cross_entropy_with_integer_labels(30 * logits, labels).mean()
    right = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    assert right < overconfident - 1
    assert float(tempered_loss(30 * logits, labels)) == pytest.approx(float(right), abs=0.02)


def test_fine_tuning_starts_from_the_generated_weights_and_any_length_is_one_program(splits: Splits) -> None:
    hypernetwork, cells = tiny(splits), [SPACE.sample(seed) for seed in range(2)]
    plain, short, long = (
        Scorer(hypernetwork, splits.train, splits.score, dataclasses.replace(TUNED, steps=steps))(cells)
        for steps in (0, 1, 25)
    )
    before = _score._cache_size()
    Scorer(hypernetwork, splits.train, splits.score, dataclasses.replace(TUNED, steps=3))(cells)
    assert _score._cache_size() == before
    assert (np.abs(short.train_loss - plain.train_loss) > 0).all()
    assert (long.train_loss < plain.train_loss - 0.02).all()
    assert (np.abs(short.train_loss - plain.train_loss) < np.abs(long.train_loss - plain.train_loss)).all()


def test_an_ensemble_is_the_mean_of_its_members(splits: Splits) -> None:
    rng = np.random.default_rng(0)
    members = [Scores(*rng.random((len(Scores._fields), 4))) for _ in range(3)]
    np.testing.assert_allclose(ensemble(members).score_loss, np.mean([member.score_loss for member in members], axis=0))


@pytest.mark.parametrize("change", [{"images": 1}, {"draws": 0}, {"calibration": -1}, {"steps": -1}])
def test_bad_ways_of_scoring_are_named(change: dict[str, int]) -> None:
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=f"ScoreConfig.{name}={value}"):
        ScoreConfig(**change)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- checks


def test_spoilt_graphs_keep_their_nodes_and_lose_their_edges(splits: Splits) -> None:
    inputs = tiny(splits).inputs(SPACE.graph(SPACE.sample(1)))
    silent, shuffled = no_messages(inputs), shuffled_edges(np.random.default_rng(0))(inputs)
    assert not silent.distances_NN.any() and inputs.distances_NN.any()
    assert (shuffled.distances_NN != inputs.distances_NN).any()
    np.testing.assert_array_equal(np.sort(shuffled.distances_NN, None), np.sort(inputs.distances_NN, None))
    for spoilt in (silent, shuffled):
        np.testing.assert_array_equal(spoilt.op_N, inputs.op_N)
        np.testing.assert_array_equal(spoilt.features_NF, inputs.features_NF)


def test_checks_tell_a_hypernetwork_that_reads_from_one_that_does_not(splits: Splits) -> None:
    cells = sample_classes(SPACE, 18, 2)
    reading = tiny(splits)
    scorer = Scorer(reading, splits.train, splits.score, ScoreConfig(images=30))
    right = scorer(cells).train_loss
    losses = spoilt_scores(scorer, reading, cells)
    assert set(losses) == {WRONG, SHUFFLED, SILENT}
    assert all(np.abs(loss - right).max() > 1e-5 for loss in losses.values())
    supernet = tiny(splits, dataclasses.replace(TINY, delta=False))
    assert spoilt_scores(scorer, supernet, cells) == {}
    truth, keys = -right, np.array([SPACE.canonical(cell) for cell in cells])
    noise = right + np.random.default_rng(0).normal(size=18)
    checks = judge({WRONG: noise, SMALL: right}, Method(-right, 0.0), truth, keys, 100)
    assert checks[SMALL].kendall.value == 1 and checks[SMALL].gap.as_list() == [0, 0, 0]
    assert checks[WRONG].difference.low > 0
    assert checks[WRONG].gap.value == pytest.approx((noise - right).mean())
