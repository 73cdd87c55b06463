"""Noise between the seeds of a ground truth: how reliable its means are, and what any ranking could show against it.

Runs [A, S] are accuracies, nan where a class lacks a run. Agreement between seeds is read from the classes that have at
least two runs, each cut to as many as all of those have; fewer than three such classes give nan.

Shape letters: A architectures, S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from eval.intervals import packed_runs
from eval.resampling import Floats
from eval.statistics import kendall, kendall_top10, positive, spearman


def reliability(runs: ArrayLike, ranks: bool = False) -> float:
    """Reliability of the mean over seeds: S r / (1 + (S - 1) r), r the mean correlation between two seeds and S the
    mean number of runs of a class.

    Spearman 1910 and Brown 1910 (British Journal of Psychology 3). r is Pearson's, or with `ranks` Spearman's. nan when
    a seed is constant; a negative r gives a negative value without a meaning beyond "no agreement"."""
    table, complete = _checked(runs)
    if len(complete) < 3 or np.any(np.ptp(complete, axis=0) == 0):
        return math.nan
    columns = stats.rankdata(complete, axis=0) if ranks else complete
    r = float(np.asarray(np.corrcoef(columns.T))[np.triu_indices(columns.shape[1], 1)].mean())
    count = float((~np.isnan(table)).sum(axis=1).mean())
    below = 1 + (count - 1) * r
    return count * r / below if below > 0 else math.nan


def split_half_kendall(runs: ArrayLike, splits: int = 100, seed: int = 0) -> float:
    """The noise ceiling in Kendall's tau-b: its mean between the means of two disjoint random halves of the seeds (an
    odd S leaves one out in each split). A low estimate, since a half is noisier than the whole."""
    return _split_half(kendall, runs, splits, seed)


def split_half_spearman(runs: ArrayLike, splits: int = 100, seed: int = 0) -> float:
    """The same in Spearman's rank correlation."""
    return _split_half(spearman, runs, splits, seed)


def split_half_kendall_top10(runs: ArrayLike, splits: int = 100, seed: int = 0) -> float:
    """The same within the top 10 percent of one half: what another training of the same length would reach there."""
    return _split_half(kendall_top10, runs, splits, seed)


def disattenuated_spearman(scores: ArrayLike, truth: ArrayLike, runs: ArrayLike) -> float:
    """Spearman's correlation of scores [A] with what the truth [A], the mean of the runs [A, S], measures without its
    noise: the observed one over the root of the means' reliability by ranks (Spearman 1904, American Journal of
    Psychology 15). It may exceed 1 by chance; nan where the seeds do not agree at all."""
    share = reliability(runs, ranks=True)
    return spearman(scores, truth) / math.sqrt(share) if share > 0 else math.nan


def _split_half(statistic: Callable[[ArrayLike, ArrayLike], float], runs: ArrayLike, splits: int, seed: int) -> float:
    _, table = _checked(runs)
    if len(table) < 3:
        return math.nan
    half = table.shape[1] // 2
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(table.shape[1]) for _ in range(positive("splits", splits))]
    halves = [(table[:, o[:half]].mean(axis=1), table[:, o[half : 2 * half]].mean(axis=1)) for o in orders]
    return float(np.mean([statistic(a, b) for a, b in halves]))


def _checked(runs: ArrayLike) -> tuple[Floats, Floats]:
    """The runs as float64, and those of the classes with at least two, cut to as many as all of these have."""
    table = np.asarray(runs, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] < 2:
        raise ValueError(f"runs: expected [A, S] with S >= 2, got shape {table.shape}")
    if np.isinf(table).any():
        raise ValueError(f"runs: {int(np.isinf(table).sum())} infinite values; accuracies are finite, or nan for none")
    packed, count = packed_runs(table)
    several = count >= 2
    return table, packed[several, : int(count[several].min(initial=table.shape[1]))]
