"""Statistics of a ranking on many bootstrap resamples at once.

A resample is held as the number of copies of each row, [R, A] for R resamples of A rows, and stands for the rows
repeated so often in their original order. Ranks, tops and pair counts follow from the copies without building the rows:
the concordance sum of a resample w, for example, is w' S w with S = sign(dx) * sign(dy), so that Kendall's tau of all
resamples is one matrix product.

Every statistic here takes scores [A], truth [A] and copies [R, A], all float64, and returns [R], nan where it is
undefined; what it means is told at its namesake in `eval.metrics`. Inputs are not checked: that is done there.

Shape letters: A rows, R resamples, G groups of rows with tied values.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BLOCK = 1 << 22  # entries of one [resamples, rows] or [rows, rows] work array, so 32 MiB as float64


def fraction_count(rows: Floats, fraction: float, least: int) -> Floats:
    """Rows in a top fraction, rounded up; the small term keeps 0.1 * 30 from becoming 4 through rounding."""
    return np.minimum(rows, np.maximum(least, np.ceil(fraction * rows - 1e-9)))


def _positions(values: Floats, copies: Floats) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Tie groups of `values` from the highest down: group of each row [A], resampled rows before a group and in it
    [R, G]."""
    _, group = np.unique(-values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    inside = copies[:, order] if len(starts) == len(values) else np.add.reduceat(copies[:, order], starts, axis=1)
    return group, np.cumsum(inside, axis=1) - inside, inside


def top(truth: Floats, copies: Floats, count: Floats) -> Floats:
    """The copies [R, A] that belong to the true top `count` [R] of each resample; ties go to the earlier row."""
    order = np.argsort(-truth, kind="stable")
    ordered = copies[:, order]
    kept = np.empty_like(copies)
    kept[:, order] = np.clip(count[:, None] - (np.cumsum(ordered, axis=1) - ordered), 0, ordered)
    return kept


def _none_chosen(total: Floats, first: Floats, chosen: Floats) -> Floats:
    """Probability that `chosen` of `total` rows, drawn without replacement, include none of `first` given ones:
    C(total - first, chosen) / C(total, chosen). Arguments broadcast and hold whole numbers, chosen <= total."""
    table = np.array([math.lgamma(i + 1.0) for i in range(int(np.max(total, initial=0)) + 1)])
    left = (total - first).astype(np.intp)
    whole, drawn = total.astype(np.intp), chosen.astype(np.intp)
    log = table[left] - table[np.maximum(left - drawn, 0)] - (table[whole] - table[whole - drawn])
    return np.where(left >= drawn, np.exp(log), 0.0)


def spearman(scores: Floats, truth: Floats, copies: Floats) -> Floats:
    """Spearman's rank correlation, ties by average rank."""
    centred = []
    for values in (scores, truth):
        group, before, inside = _positions(values, copies)
        ranks = (before + inside / 2)[:, group]  # average ranks up to a constant
        centred.append(ranks - ((copies * ranks).sum(axis=1) / copies.sum(axis=1))[:, None])
    x, y = centred
    with np.errstate(invalid="ignore", divide="ignore"):
        norm = np.sqrt((copies * x * x).sum(axis=1)) * np.sqrt((copies * y * y).sum(axis=1))
        return np.asarray((copies * x * y).sum(axis=1) / norm)


def kendall(scores: Floats, truth: Floats, copies: Floats) -> Floats:
    """Kendall's tau-b."""
    used = copies.any(axis=0)
    scores, truth, copies = scores[used], truth[used], copies[:, used]
    # Every entry of the product below is a whole number under 2**24 in size, so float32 is exact.
    single = copies.astype(np.float32)
    concordance = np.zeros(len(copies))
    step = max(1, BLOCK // len(scores))
    for start in range(0, len(scores), step):
        block = slice(start, start + step)
        signs = np.ones((len(scores), len(scores[block])), dtype=np.int8)
        for values in (scores, truth):
            a, b = values[:, None], values[None, block]
            signs *= (a > b).view(np.int8) - (a < b).view(np.int8)
        concordance += ((single @ signs.astype(np.float32)) * copies[:, block]).sum(axis=1)
    untied = [copies.sum(axis=1) ** 2 - (_positions(values, copies)[2] ** 2).sum(axis=1) for values in (scores, truth)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(concordance / (np.sqrt(untied[0]) * np.sqrt(untied[1])))


def within_top(inner: Callable[..., Floats], fraction: float, scores: Floats, truth: Floats, copies: Floats) -> Floats:
    """`inner` within the top fraction of each resample, the top being that of the resample itself."""
    return inner(scores, truth, top(truth, copies, fraction_count(copies.sum(axis=1), fraction, 3)))


def precision(scores: Floats, truth: Floats, copies: Floats, k: int = 10, fraction: float | None = None) -> Floats:
    """Expected share of the predicted top that is in the true top: k rows, or a fraction of them."""
    rows = copies.sum(axis=1)
    count = np.minimum(k, rows) if fraction is None else fraction_count(rows, fraction, 1)
    group, before, inside = _positions(scores, copies)
    chosen = np.clip((count[:, None] - before) / np.maximum(inside, 1), 0, 1)[:, group]  # probability for each copy
    return np.asarray((chosen * top(truth, copies, count)).sum(axis=1) / count)


def regret(scores: Floats, truth: Floats, copies: Floats, k: int = 10) -> Floats:
    """Best truth overall minus the expected best truth among the predicted top k."""
    best = np.where(copies > 0, truth, -np.inf).max(axis=1)
    return np.asarray(best - _best_found(scores, truth, np.broadcast_to(truth, copies.shape), copies, k))


def best_rank(scores: Floats, truth: Floats, copies: Floats, k: int = 10) -> Floats:
    """Expected true rank, from 1, of the best row among the predicted top k."""
    group, before, _ = _positions(truth, copies)
    return 1 - _best_found(scores, truth, -before[:, group], copies, k)


def _best_found(scores: Floats, truth: Floats, values: Floats, copies: Floats, k: int) -> Floats:
    """Expected highest value [R] among the predicted top k, for values [R, A] in the order of the truth."""
    order = np.lexsort((-truth, -scores))
    scores, values, copies = scores[order], values[:, order], copies[:, order]
    group, before, inside = _positions(scores, copies)
    count = np.minimum(k, copies.sum(axis=1))[:, None]
    sure = ((before + inside <= count)[:, group]) & (copies > 0)
    best = np.where(sure, values, -np.inf).max(axis=1)
    # The tie group at the boundary gives a random `need` of its rows; the best of them is the first one drawn.
    r, a = np.nonzero(((before < count) & (before + inside > count))[:, group] & (copies > 0))
    size, need = inside[r, group[a]], count[r, 0] - before[r, group[a]]
    ahead = (np.cumsum(copies, axis=1) - copies)[r, a] - before[r, group[a]]
    is_best = _none_chosen(size, ahead, need) - _none_chosen(size, ahead + copies[r, a], need)
    partly = np.bincount(r, is_best * np.maximum(values[r, a], best[r]), minlength=len(copies))
    return np.asarray(np.where(np.bincount(r, minlength=len(copies)) > 0, partly, best))


def choose_one_of(scores: Floats, truth: Floats, copies: Floats, n: int = 100) -> Floats:
    """Expected truth of the best-scored row of a random subset of n rows."""
    total = copies.sum(axis=1, keepdims=True)
    group, before, inside = _positions(scores, copies)
    ahead = _none_chosen(total, np.concatenate([before, total], axis=1), np.minimum(n, total))
    each = ((ahead[:, :-1] - ahead[:, 1:]) / np.maximum(inside, 1))[:, group]  # probability for each copy
    return np.asarray((each * copies) @ truth)


def relative_improvement(scores: Floats, truth: Floats, copies: Floats, n: int = 100) -> Floats:
    """100 (a - r) / r: a the expected truth of choosing 1 of n, r that of a random row."""
    random = (copies @ truth) / copies.sum(axis=1)
    gain = choose_one_of(scores, truth, copies, n) - random
    return np.asarray(np.where(random > 0, 100 * gain / np.where(random > 0, random, 1.0), np.nan))


def once(batched: Callable[..., Floats], scores: Floats, truth: Floats, **arguments: Any) -> float:
    """A statistic of this module on the rows themselves: one resample that holds each row once."""
    return float(batched(scores, truth, np.ones((1, len(scores))), **arguments)[0])
