"""Retraining: the band, the pairing, the interval, and the command from end to end at a tiny size."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from toy_search import SPACE

from architectures.spaces import settings
from eval.search.problem import Problem
from eval.search.retrain import compare, from_generated, pairs, random_band
from eval.search.retrain_command import RetrainConfig, retrain
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


def test_the_best_of_a_search_are_trained_once_and_compared(data: DataConfig, tmp_path: Path) -> None:
    space = dataclasses.replace(SPACE, classes=10)
    best = [{"architecture": str(a)} for a in sample_classes(space, 3, 0)]
    out = tmp_path / "run"
    out.mkdir()
    (out / "search.json").write_text(json.dumps({"about": {"settings": settings(space)}, "best": best}))
    config = RetrainConfig(top=1, random=3, seeds=2, data=data, protocol=PROTOCOL, resamples=50)
    compared = retrain(config, out, Console(quiet=True))
    assert compared is not None and compared == retrain(config, out, Console(quiet=True))
    values = json.loads((out / "retrained.json").read_text())
    table = (out / "retrained.csv").read_text()
    assert len(table.splitlines()) == 1 + 4 * 2
    runs: dict[str, list[float]] = {}
    for row in csv.DictReader(table.splitlines()):
        runs.setdefault(row["architecture"], []).append(float(row["test_accuracy"]))
    means = [float(np.mean(own)) for own in runs.values()]
    assert values["accuracy"]["found"] == pytest.approx(means[0])
    assert values["accuracy"]["random"] == pytest.approx(float(np.mean(means[1:])))
    assert values["interval"][0] <= values["relative_improvement"] <= values["interval"][1]


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
