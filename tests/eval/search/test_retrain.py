"""Retraining: the band, the pairing, the interval, and the command from end to end at a tiny size."""

import csv
import dataclasses
import io
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from toy_search import SPACE, ToyScorer

from architectures.spaces import MLPSpace, SearchSpace
from eval import cli
from eval.search import retrain_command
from eval.search.algorithms import RandomSearch
from eval.search.config import SearchConfig
from eval.search.driver import Budget, search
from eval.search.folder import retrain_command as retrain_command_of
from eval.search.html import write_page
from eval.search.problem import Problem
from eval.search.report import Result, write_result
from eval.search.retrain import compare, from_generated, pairs, random_band
from eval.search.retrain_command import RetrainConfig, retrain
from eval.search.store import SearchStore
from ghn import GHNConfig, Hypernetwork
from train.data import AugmentConfig, DataConfig, load
from train.target import Protocol
from train.target_table import sample_classes


def test_random_ones_are_of_the_same_size_and_not_the_found_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(SPACE)
    found = sample_classes(SPACE, 3, 0)
    sizes = [problem.costs(a).parameters for a in found]
    random = random_band(problem, found, 12)
    assert len({problem.key(a) for a in random}) == 12
    assert not {problem.key(a) for a in random} & {problem.key(a) for a in found}
    assert all(min(sizes) / 1.051 <= problem.costs(a).parameters <= max(sizes) * 1.051 for a in random)
    groups = pairs(problem, found, random)
    assert sorted(row for group in groups for row in group) == list(range(12))
    assert [len(group) for group in groups] == [4, 4, 4]
    near = [np.mean([problem.costs(random[row]).parameters for row in group]) for group in groups]
    assert np.argmax(near) == np.argmax(sizes)
    monkeypatch.setattr("eval.search.retrain.DRAWS", 100)
    with pytest.raises(ValueError, match="ask for fewer"):
        random_band(problem, found[:1], 100)


@pytest.mark.parametrize("seed", range(6))
def test_every_found_one_has_partners_and_groups_differ_by_one(seed: int) -> None:
    problem = Problem(SPACE)
    found = sample_classes(SPACE, 6, seed)
    groups = pairs(problem, found, random_band(problem, found, 20, seed))
    assert sorted(row for group in groups for row in group) == list(range(20))
    assert sorted(map(len, groups)) == [3, 3, 3, 3, 4, 4]


def test_found_ones_without_partners_are_refused() -> None:
    problem = Problem(SPACE)
    found = sample_classes(SPACE, 6, 0)
    with pytest.raises(ValueError, match=r"random=5: each of the 6 architectures .* at least 6, or for 0"):
        pairs(problem, found, found[:5])
    for groups in ([[0], [1]], [[0], [1], []]):  # found rows are not to be paired with what belongs to another
        with pytest.raises(ValueError, match="give partners for each of the 3"):
            compare(np.ones((3, 2)), np.ones((2, 2)), groups)


def test_intervals_hold_what_they_say() -> None:
    rng = np.random.default_rng(0)
    groups = [[4 * i + j for j in range(4)] for i in range(5)]
    covered, found_better = 0, 0
    for _ in range(40):
        size = rng.normal(0, 0.02, 5)  # what a pair shares
        random = 0.8 + np.repeat(size, 4)[:, None] + rng.normal(0, 0.01, (20, 3))
        found = 0.82 + size[:, None] + rng.normal(0, 0.005, (5, 3))
        compared = compare(found, random, groups, 150)
        covered += compared.difference.low <= 0.02 <= compared.difference.high
        found_better += compared.relative_improvement.low > 0
    assert covered >= 32 and found_better >= 35
    same = compare(random[:5], random, [[i] for i in range(5)], 300)
    assert same.difference.value == pytest.approx(0) and "not reliably different" in same.verdict


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    rng = np.random.default_rng(0)
    labels = np.arange(60, dtype=np.uint8) % 10
    images = {f"x_{part}": rng.integers(0, 256, (60, 4, 4), np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "tiny.npz", **images, y_train=labels, y_test=labels)
    return DataConfig(source=str(tmp_path / "tiny.npz"), image_size=4, score_images=20)


PROTOCOL = Protocol(epochs=1, batch=20, warmup=1, calibration=8, augment=AugmentConfig(crop=0, flip=False))


class Widths(ToyScorer):
    """For multi-layer perceptrons."""

    def __call__(self, architectures: Sequence[Any], fidelity: int) -> list[float]:
        return [float(sum(a.widths)) for a in architectures]


def searched(out: Path, space: SearchSpace[Any], data: DataConfig, scorer: ToyScorer, count: int = 20) -> Path:
    """The folder of a finished search."""
    out.mkdir()
    store, problem = SearchStore(out / "search.sqlite", Problem(space), "toy"), Problem(space)
    why = search(RandomSearch(problem), scorer, store, Budget(count))
    config = SearchConfig(algorithm="random", data=data)
    write_result(Result(config, problem, "points", store.evaluations(), [], why), out)
    recorded = {"config": dataclasses.asdict(config), "provenance": load(data).provenance}
    (out / "config.json").write_text(json.dumps(recorded))
    return out


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """What would have been trained; nothing is."""
    asked: list[list[Any]] = []

    class Free:
        path = Path("retrained-none.csv")

        def __init__(self, *_: object) -> None:
            pass

        def train(self, architectures: Sequence[Any], seeds: Sequence[int]) -> Iterator[None]:
            asked.append(list(architectures))
            yield from ()

        def accuracies(self, architectures: Sequence[Any], seeds: Sequence[int]) -> Any:
            return np.random.default_rng(len(architectures)).uniform(0.4, 0.6, (len(architectures), len(seeds)))

    monkeypatch.setattr(retrain_command, "Retrainer", Free)
    return asked


def test_the_best_of_a_search_are_trained_once_and_compared(data: DataConfig, tmp_path: Path) -> None:
    space = dataclasses.replace(SPACE, classes=10)
    out = searched(tmp_path / "run", space, data, ToyScorer())
    config = RetrainConfig(top=1, random=3, seeds=2, data=data, protocol=PROTOCOL, resamples=50)
    mistyped = dataclasses.replace(config, protocol=dataclasses.replace(PROTOCOL, batch=10**6))
    with pytest.raises(ValueError, match="the train split has only"):
        retrain(mistyped, out, Console(quiet=True))
    assert not list(out.glob("retrained-*")) and write_page(out).exists()
    compared = retrain(config, out, Console(quiet=True))
    assert compared is not None and compared == retrain(config, out, Console(quiet=True))
    values = json.loads((out / "comparison.json").read_text())
    with pytest.raises(ValueError, match="the train split has only"):
        retrain(mistyped, out, Console(quiet=True))
    assert json.loads((out / "comparison.json").read_text()) == values
    assert "Retrained" in write_page(out).read_text()
    table = (out / values["table"]).read_text()
    assert len(table.splitlines()) == 1 + 4 * 2
    runs: dict[str, list[float]] = {}
    for row in csv.DictReader(table.splitlines()):
        runs.setdefault(row["architecture"], []).append(float(row["test_accuracy"]))
    means = [float(np.mean(own)) for own in runs.values()]
    assert values["accuracy"]["found"] == pytest.approx(means[0])
    assert values["accuracy"]["random"] == pytest.approx(float(np.mean(means[1:])))
    assert values["interval"][0] <= values["relative_improvement"] <= values["interval"][1]


def test_as_many_are_trained_as_are_asked_for(data: DataConfig, tmp_path: Path, trained: list[list[Any]]) -> None:
    space = dataclasses.replace(SPACE, classes=10)
    out = searched(tmp_path / "run", space, data, ToyScorer(), 20)
    retrain(RetrainConfig(top=15, random=0, data=data), out, Console(quiet=True))
    scores = ToyScorer()(trained[0], 0)
    assert len(trained[0]) == 15 and scores == sorted(scores, reverse=True)
    told = io.StringIO()
    with pytest.raises(ValueError, match=r"random=10: each of the 15 architectures"):
        retrain(RetrainConfig(top=15, random=10, data=data), out, Console(quiet=True))
    retrain(RetrainConfig(top=30, random=0, data=data), out, Console(file=told))
    assert len(trained[1]) == 20 and "top=30: the search has only 20" in told.getvalue()


def test_the_command_on_the_page_works_in_any_space(
    data: DataConfig, tmp_path: Path, trained: list[list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    space = MLPSpace(input_shape=(4, 4, 1), classes=10, widths=(2, 3), depths=(1, 2))
    out = searched(tmp_path / "my run", space, data, Widths(), 6)
    best = "3-3"
    command = f"{retrain_command_of(out)} {best}"
    assert command in write_page(out).read_text().replace("&#x27;", "'")
    monkeypatch.setattr("sys.argv", shlex.split(command))
    cli.main()
    assert trained == [[space.from_string(best)]]
    with pytest.raises(ValueError, match=r"checkpoint 'demo': made for .* the search in .* for"):
        retrain(RetrainConfig(architectures=(best,), generated=True, data=data), out, Console(quiet=True))


def test_data_of_another_search_are_refused(data: DataConfig, tmp_path: Path, trained: list[list[Any]]) -> None:
    out = searched(tmp_path / "run", dataclasses.replace(SPACE, classes=10), data, ToyScorer())
    for other in (dataclasses.replace(data, seed=1), DataConfig()):
        with pytest.raises(ValueError, match=r"run holds a search on other data; give --data.source .*tiny.npz"):
            retrain(RetrainConfig(data=other), out, Console(quiet=True))
    assert not trained


def test_generated_weights_are_a_start_too(data: DataConfig) -> None:
    space = dataclasses.replace(SPACE, classes=10)
    hypernetwork = Hypernetwork.create(space, GHNConfig(width=8, message_width=4, hidden=8, tile=4))
    (accuracies,) = from_generated(hypernetwork, load(data), PROTOCOL, [space.sample(1)], [0])
    assert len(accuracies) == 1 and 0 <= accuracies[0] <= 1


def test_what_cannot_be_retrained_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished search"):
        retrain(RetrainConfig(), tmp_path / "nothing", Console(quiet=True))
    bad = "|conv_9x9~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    with pytest.raises(ValueError, match="unknown op 'conv_9x9'"):
        retrain(RetrainConfig(architectures=(bad,)), tmp_path, Console(quiet=True))
    with pytest.raises(ValueError, match="seeds=0"):
        RetrainConfig(seeds=0)
