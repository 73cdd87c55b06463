"""Is it the hypernetwork that ranks, or would shared weights do? Three one-shot evaluators, trained and tuned alike.

    python benchmarks/supernets.py --cifar10 DIR --table nasbench201.csv.gz

The graph hypernetwork; the same without delta, whose weights are one shared set, normalised as the hypernetwork's are;
and a plain supernet: shared weights as the optimiser leaves them (one-shot NAS: Bender et al. 2018, Guo et al. 2020).
Each is trained at every rate of --rates, and at larger and smaller ones while the best lies at an edge; the rate is
chosen by the mean training loss of the candidates, which needs no labels, and all are shown. Data, classes and halves
are those of ranking.py, parts (a) and (b).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro
from common import console, context, finish
from ranking import Options as RankingOptions
from ranking import cifar10_config, embedded_config

from eval.ground_truth import GroundTruth, read_ground_truth
from eval.judging import BATCHED, Judged, over_draws, unlabelled
from eval.metrics import Interval, failures_last
from eval.ranking import PRIMARY, generated_methods, timed_scores
from eval.report import cell
from eval.scoring import ScoreConfig, Scorer
from ghn import GHNConfig
from train.config import TrainConfig
from train.data import load
from train.loop import train

OURS = "graph hypernetwork"
KINDS = {
    OURS: GHNConfig(),
    "supernet (delta = 0)": GHNConfig(delta=False),
    "plain supernet": GHNConfig(delta=False, normalise=False),
}
PARTS = ("embedded", "nasbench201")
STEP = 10**0.5  # between rates
SHOWN = ("spearman", "kendall", "kendall_top_half", "kendall_top10", "choose_1_of_100")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to run."""

    cifar10: Path | None = None  # folder of CIFAR-10 binaries, for NAS-Bench-201
    table: Path | None = None  # NAS-Bench-201 CSV with arch_str and 200-epoch accuracies
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)  # peak learning rates; 3e-3 is the default of training
    steps: int = 6000  # of each training
    images: int = 500  # training images on which a candidate is scored
    classes: int | None = None  # take only so many of each ground truth
    only: Literal["embedded", "nasbench201"] | None = None  # just that part
    runs: Path = Path("runs/benchmark-supernets")  # where runs are kept and found again
    seed: int = 0  # of each training
    quick: bool = False  # one rate, 25 classes, 40 steps, 200 resamples
    out: Path = Path("benchmarks/results")  # results

    @property
    def resamples(self) -> int:
        """Of every bootstrap."""
        return 200 if self.quick else 2000


class Trained(NamedTuple):
    """One kind at one rate.

    Attributes:
        judged: minus the training loss of every candidate.
        loss: its mean, in nats.
    """

    judged: Judged
    loss: float


class Part:
    """One ground truth, and the training of whatever ranks it."""

    def __init__(self, name: str, config: TrainConfig, options: Options) -> None:
        self.name, self.options = name, options
        self.config = dataclasses.replace(config, steps=options.steps, seed=options.seed)
        self.splits = load(config.data)
        self.space: Any = config.space.build(self.splits.train.images.shape[1:], self.splits.train.classes)
        self.truth = self._truth()

    def _truth(self) -> GroundTruth:
        config, own = self.config, RankingOptions()
        reported = self.name == "nasbench201"  # of the table in the package there is no development half
        source = self.options.table if reported else "embedded"
        assert source is not None

        def wanted(architecture: Any) -> bool:
            held_out = self.space.held_out(architecture, config.held_out, config.held_out_seed)
            return held_out and not (reported and self.space.held_out(architecture, 0.5, seed=1))

        column = (own.column,) if reported else ()
        truth = read_ground_truth(source, self.space, *column).select(wanted)
        kept = set(truth.classes[: self.options.classes].tolist())
        return truth.select(lambda architecture: self.space.canonical(architecture) in kept)

    def trained(self, kind: str, rate: float) -> Trained:
        """Trained, or found, and scored."""
        optimizer = dataclasses.replace(self.config.optimizer, learning_rate=rate)
        config = dataclasses.replace(self.config, ghn=KINDS[kind], optimizer=optimizer)
        hypernetwork = train(config, self.options.runs / f"{self.name}-{kind.split(' (')[0]}-{rate:g}")
        scorer = Scorer(hypernetwork, self.splits.train, self.splits.score, ScoreConfig(self.options.images))
        scores = generated_methods(*timed_scores(scorer, self.truth.architectures))[PRIMARY].scores
        loss = -float(np.mean(scores[np.isfinite(scores)]))
        asked = np.ones(len(scores), bool)
        return Trained(unlabelled(failures_last(scores)[0], asked), loss)


def best_rate(own: Mapping[float, Trained]) -> float:
    """That of the lowest loss."""
    return min(own, key=lambda rate: own[rate].loss)


def at_rates(part: Part, kind: str, rates: Sequence[float], wider: int = 2) -> dict[float, Trained]:
    """One kind at all rates, the grid widened so many times where its best lies at an edge."""
    own = {rate: part.trained(kind, rate) for rate in rates}
    for _ in range(wider if len(rates) > 1 else 0):
        best, ordered = best_rate(own), sorted(own)
        if best in (ordered[0], ordered[-1]):
            rate = float(f"{best * STEP if best == ordered[-1] else best / STEP:.0e}")
            own[rate] = part.trained(kind, rate)
    return dict(sorted(own.items()))


def judge(part: Part, options: Options) -> dict[str, Any]:
    """Results of one part, by kind."""
    accuracy, results = part.truth.accuracy, dict[str, Any]()
    console.print(f"{part.name}: {len(accuracy)} classes")
    everything = {kind: at_rates(part, kind, options.rates) for kind in KINDS}
    chosen = {kind: best_rate(own) for kind, own in everything.items()}
    ours = everything[OURS][chosen[OURS]].judged
    for kind, own in everything.items():
        results[kind] = {"rate": chosen[kind], "rates": {}}
        for rate, trained in own.items():
            values = {key: over_draws(key, trained.judged, accuracy, resamples=options.resamples) for key in BATCHED}
            results[kind]["rates"][f"{rate:g}"] = {"loss": trained.loss} | {
                key: value.as_list() for key, value in values.items()
            }
        if kind != OURS:
            gap = over_draws("kendall", own[chosen[kind]].judged, accuracy, ours, options.resamples)
            results[kind]["kendall_minus_hypernetwork"] = gap.as_list()
    return results


def rows(name: str, results: Mapping[str, Any]) -> list[list[str]]:
    """The table of one part."""
    body = []
    for kind, own in results.items():
        for rate, values in own["rates"].items():
            best = float(rate) == own["rate"]
            gap = own.get("kendall_minus_hypernetwork") if best else None
            shown = [cell(key, Interval(*values[key])) for key in SHOWN]
            label = f"{kind}, rate {rate}" + (" (chosen)" if best and len(own["rates"]) > 1 else "")
            body.append([name, label, f"{values['loss']:.3f}", *shown, str(Interval(*gap)) if gap else ""])
    return body


def main(options: Options) -> None:
    """The parts that are asked for and whose data are at hand; the results of others stay."""
    if options.quick:
        options = dataclasses.replace(options, rates=(3e-3,), classes=25, steps=40, runs=options.runs / "quick")
    shared = RankingOptions(options.cifar10, options.table, steps=options.steps)
    parts = {"embedded": embedded_config(shared)}
    if options.cifar10 is not None and options.table is not None:
        parts["nasbench201"] = cifar10_config(shared)
    file = options.out / "supernets.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for name, config in parts.items():
        if options.only not in (None, name):
            continue
        part = Part(name, config, options)
        results[name] = judge(part, options)
        results.setdefault("notes", {})[name] = (
            f"{name}: {len(part.truth.accuracy)} classes, {options.steps} steps each; score: minus the loss on "
            f"{options.images} training images. Commit {context(options.seed)['commit']}."
        )
    header = ["data", "evaluator", "training loss", *(name.replace("_", " ") for name in SHOWN), "Kendall minus ours"]
    body = [row for name in PARTS if name in results for row in rows(name, results[name])]
    notes = [note for name, note in results["notes"].items() if name in results]
    finish("supernets", results, header, body, notes, options.seed, options.out)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
