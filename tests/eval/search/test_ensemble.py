"""Ensembles: chosen as the definition says, and worth what averaging says."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from toy_search import SPACE

from eval.search.ensemble import EnsembleConfig, choose, compare, disagreement, predictions, quality
from eval.search.ensemble_command import EnsemblesConfig, ensemble
from ghn import GHNConfig, Hypernetwork
from train.data import Dataset

RNG = np.random.default_rng(0)
LABELS = RNG.integers(3, size=40)


def members(count: int, seed: int) -> np.ndarray:
    logits = 1.5 * np.eye(3)[LABELS] + np.random.default_rng(seed).normal(size=(count, 40, 3)) * 1.5
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def test_quality_is_that_of_the_mean_probability() -> None:
    own = members(4, 0)
    found = quality(own, LABELS, [0, 2])
    mean = (own[0] + own[2]) / 2
    assert found.loss == pytest.approx(-np.log(mean[np.arange(40), LABELS]).mean())
    assert found.accuracy == (mean.argmax(-1) == LABELS).mean()
    assert found.disagreement == pytest.approx(np.abs(own[0] - own[2]).sum(-1).mean() / 2)
    assert disagreement(own[:1]) == 0 == disagreement(own[[1, 1]])


def test_members_are_chosen_greedily_for_the_ensemble() -> None:
    own = members(8, 1)
    chosen = choose(own, LABELS, EnsembleConfig(3, 0.0))
    for place in range(3):
        losses = {
            row: quality(own, LABELS, [*chosen[:place], row]).loss for row in range(8) if row not in chosen[:place]
        }
        assert chosen[place] == min(losses, key=losses.__getitem__)
    best = min(quality(own, LABELS, own3).loss for own3 in itertools.combinations(range(8), 3))
    assert quality(own, LABELS, chosen).loss <= best + 0.05
    diverse = choose(own, LABELS, EnsembleConfig(3, 5.0))
    assert quality(own, LABELS, diverse).disagreement > quality(own, LABELS, chosen).disagreement
    with pytest.raises(ValueError, match="size=9: there are 8"):
        choose(own, LABELS, EnsembleConfig(9))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"candidates": 4}, "candidates=4: must be at least 5"),
        ({"candidates": -1, "ensemble": EnsembleConfig(1)}, "candidates=-1: must be at least 1"),
        ({"images": 0}, "images=0: must be at least 1"),
    ],
)
def test_numbers_that_make_no_ensemble_are_refused(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=rf"EnsemblesConfig\.{match}"):
        EnsemblesConfig(**fields)


def test_too_few_results_are_told_before_anything_is_computed(tmp_path: Path) -> None:
    header, row = "architecture,repeats,score,fidelity", "a,,0.5,0"
    (tmp_path / "evaluations.csv").write_text(f"{header}\n{row}\n")
    with pytest.raises(ValueError, match=r"EnsembleConfig\.size=5: .* holds 1 scored architectures"):
        ensemble(EnsemblesConfig(), tmp_path, Console())


def test_ways_of_choosing_are_judged_on_other_images() -> None:
    chosen_on, judged_on = (members(8, 2), LABELS), (members(8, 3), LABELS)
    ways = compare(chosen_on, judged_on, EnsembleConfig(3))
    assert [len(rows) for rows, _ in ways.values()] == [1, 3, 3, 3]
    assert ways["best single"][0][0] == ways["best 3 singles"][0][0]
    for rows, own in ways.values():
        assert own == quality(*judged_on, rows)
    assert ways["chosen together"][1].loss < ways["best single"][1].loss


def test_predictions_are_those_of_generated_weights() -> None:
    hypernetwork = Hypernetwork.create(SPACE, GHNConfig(width=8, message_width=4, hidden=8, tile=4))
    images = RNG.normal(size=(6, 4, 4, 1)).astype(np.float32)
    data = Dataset("made up", images, LABELS[:6].astype(np.int32), 3, (0.0,), (1.0,), ("a", "b", "c"))
    cells = [SPACE.sample(seed) for seed in range(2)]
    found = predictions(hypernetwork, cells, data, 5)
    assert found.shape == (2, 5, 3)
    logits = np.asarray(SPACE.apply(hypernetwork(SPACE.graph(cells[1])), cells[1], images[:5]))
    np.testing.assert_allclose(found[1], np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), rtol=1e-4)
