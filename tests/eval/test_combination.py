"""Evidence on candidates: what is gathered, combined, and held against what lacks the hypernetwork."""

import numpy as np
import pytest

from eval.combination import GENERATED, LABEL_FREE, SCORE_SPLIT, Evidence, combination_report

RNG = np.random.default_rng(0)
QUALITY = RNG.normal(size=400)
ACCURACY = 0.8 + 0.03 * QUALITY
ONE_HOT = (RNG.random((400, 12)) < 0.3).astype(float)


def noisy(scale: float) -> np.ndarray:
    return QUALITY + scale * RNG.normal(size=400)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    columns = {GENERATED: noisy(0.5), SCORE_SPLIT: noisy(0.5), "params": noisy(1), "jacov": noisy(1)}
    return Evidence({**columns, "swap_regularised": noisy(1)}, (RNG.normal(size=(400, 6)),), ONE_HOT)


def test_a_missing_value_ranks_last_and_names_are_checked(evidence: Evidence) -> None:
    lacking = {**evidence.columns, "jacov": np.where(np.arange(400) == 7, np.nan, evidence.columns["jacov"])}
    combined = Evidence(lacking, (), ONE_HOT).combined(["jacov"])
    assert combined.argmin() == 7
    with pytest.raises(ValueError, match="'nwot'"):
        evidence.combined(["nwot"])


def test_features_hold_scores_components_and_encodings(evidence: Evidence) -> None:
    assert evidence.features(components=2).shape == (400, 5 + 2 + 12)
    blind = evidence.without_hypernetworks()
    assert set(LABEL_FREE) - set(blind.columns) == {GENERATED, SCORE_SPLIT}
    assert blind.features(components=2).shape == (400, 3 + 12)


def test_the_report_shows_what_hypernetworks_add(evidence: Evidence) -> None:
    asked = np.arange(400) < 250
    told = combination_report(evidence, ACCURACY, asked, ~asked, labels=(40,), draws=2, resamples=60)
    assert set(told) == {"label_free", "calibrated_40"}
    free, calibrated = told["label_free"], told["calibrated_40"]
    assert free["minus the same without hypernetwork"]["kendall"][1] > 0
    assert free["minus parameters"]["kendall"][1] > 0
    assert free["kendall_minus_single"]["params"] == free["minus parameters"]["kendall"]
    assert set(free["kendall_minus_single"]) == set(evidence.columns)
    assert calibrated["labels"] == 40 and 0.7 < calibrated["coverage_90"] <= 1
    assert calibrated["minus ridge-40"]["kendall"][1] > 0
    assert calibrated["minus parameters"]["kendall"][1] > 0
    assert calibrated["minus the same without hypernetwork"]["kendall"][0] > 0
    assert set(calibrated["rivals"]) == {"ridge-40", "the same without hypernetwork"}
