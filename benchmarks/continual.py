"""Continual learning: does one hypernetwork hold a stream of tasks, for any target, and what do its weights start?

    python benchmarks/continual.py --mnist path/to/mnist [--cifar path/to/cifar-10] [--quick] [--parts ...]

Parts:
- reduced: three permutations of MNIST (4,000 / 1,000 images), MLP 100-100, 300 steps of 128 a task, CL1, beta .05
  and 0; seed 0 in a fresh process whose CPU seconds are counted from its start, imports and compilation included.
  Reference figures (another implementation, one seed): mean 89.57 with forgetting about 0, 44.27 with beta 0, 23 CPU
  seconds, a hypernetwork of 121,819 parameters for a target of 91,630.
- split: Split-MNIST in CL1 and CL3; split_cl1, split_cl3: its baselines; strengths of penalties are chosen on score
  images of a seed that is not reported.
- long: the hypernetwork with 2,000 steps a task, the published number for Split-MNIST, instead of 600 (Split) and 1,000
  (Permuted); one seed.
- permuted, cifar: the same for Permuted-MNIST-10 and, with --cifar, Split-CIFAR-10 on a convolutional target; one seed.
- dependency: message passing, an RNN over layers and neither, at equal size.
- initialization: baselines from weights that a hypernetwork generates (trained on the Fashion-MNIST images in the
  package, targets unseen) and from an ordinary initialiser.
- change: after two of three tasks the target is replaced by one that was never emitted.
- cost: CPU milliseconds a step against the number of tasks, drawing one or four earlier tasks a step or summing over
  all; and what the draws cost in accuracy, on the same seeds.

Single runs are kept in --runs: a killed benchmark goes on, and the same code runs nothing twice. Parts that are not
asked for stay in the results as they are. `--quick` takes some ten minutes on two CPU cores: one seed, few steps.
"""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import common
import jax
import numpy as np
import tyro
from continual_picture import picture
from continual_settings import Config, Rows, average, forgetting, mean_matrix, reduced_config, seeded, summaries
from continual_streams import cifar, long, permuted, split, split_cl1, split_cl3
from continual_targets import change, dependency, initialization
from kept import Kept

from architectures.spaces import MLPSpace
from eval.continual import estimate
from ghn.api import Hypernetwork
from train.continual import ContinualConfig, Heads, HypernetworkLearner, RegulariserConfig, learn
from train.continual.build import make_learner
from train.continual.learner import Chunk
from train.continual.metrics import summarise

# ----------------------------------------------------------------------------------------------------------- reduced


def timed(setting: ContinualConfig) -> dict[str, float]:
    """A run and its CPU seconds, in a process of its own."""
    result: dict[str, float] = common.in_fresh_process(_timed, setting)
    return result


def _timed(setting: ContinualConfig) -> dict[str, float]:
    stream = setting.stream.build()
    learner = make_learner(setting, stream)
    assert isinstance(learner, HypernetworkLearner)
    summary = summarise(learn(stream, learner, setting.schedule).matrix)
    return {
        "mean": summary.average,
        "forgetting": summary.forgetting,
        "cpu_s": time.process_time(),
        "hypernetwork_parameters": learner.hypernetwork.parameter_count,
        "target_parameters": learner.space.cost(learner.architectures[0]).parameters,
    }


def reduced(config: Config, kept: Kept, rows: Rows) -> dict[str, Any]:
    """The reduced permuted run, with and without protection."""
    setting = reduced_config(config)
    first, held = kept(timed, setting), seeded(kept, setting, config.each)
    loose = seeded(kept, dataclasses.replace(setting, regulariser=RegulariserConfig(beta=0.0)), config.each)
    sizes = f"{first['hypernetwork_parameters']:,} parameters for {first['target_parameters']:,}"
    for name, found in (("beta 0.05", held), ("beta 0", loose)):
        besides = f"forgetting {100 * forgetting(found):.2f}"
        rows.append(["reduced", name, average(found).percent(), besides, str(len(found))])
    rows.append(
        ["reduced", "seed 0, own process", f"{100 * first['mean']:.2f}", f"{first['cpu_s']:.1f} CPU s; {sizes}", "1"]
    )
    protected = {"mean": average(held).mean, "interval": average(held)[1:], "forgetting": forgetting(held)}
    matrices = {"matrix": mean_matrix(held), "matrix_beta0": mean_matrix(loose)}
    return {**first, **protected, "mean_beta0": average(loose).mean, **matrices}


# -------------------------------------------------------------------------------------------------------------- cost


DRAWN = {"one drawn": 1, "four drawn": 4, "all": None}  # earlier tasks in a step


def cost(config: Config, kept: Kept, rows: Rows) -> dict[str, Any]:
    """Milliseconds a step at the last of T tasks; and accuracy at ten tasks, some drawn a step against all."""
    counts = (2, 10) if config.quick else (2, 10, 30, 100)
    milliseconds: dict[str, dict[int, float]] = {}
    for kind, subset in DRAWN.items():
        milliseconds[kind] = {tasks: kept(step_milliseconds, tasks, subset) for tasks in counts}
        for tasks, value in milliseconds[kind].items():
            rows.append(["cost", f"{tasks} tasks, {kind}", f"{value:.1f} CPU ms a step", "", ""])
    found = {}
    for kind, subset in DRAWN.items():
        setting = reduced_config(config, heads="shared", regulariser=RegulariserConfig(0.05, subset))
        stream = dataclasses.replace(setting.stream, tasks=3 if config.quick else 10)
        found[kind] = seeded(kept, dataclasses.replace(setting, stream=stream), config.each)
    means = {kind: [one.average for one in summaries(own)] for kind, own in found.items()}
    accuracies: dict[str, Any] = {}
    for kind, own in found.items():
        lost = estimate([every - some for every, some in zip(means["all"], means[kind], strict=True)])
        accuracies[kind] = {**average(own)._asdict(), "forgetting": forgetting(own), "below_all": lost._asdict()}
        besides = f"forgetting {100 * forgetting(own):.2f}"
        besides += "" if kind == "all" else f"; below all by {lost.percent()}, paired"
        rows.append(["cost", f"accuracy at 10 tasks, {kind}", average(own).percent(), besides, str(len(own))])
    return {"milliseconds": milliseconds, "accuracy": accuracies}


def step_milliseconds(tasks: int, subset: int | None, steps: int = 20) -> float:
    """CPU milliseconds of a step on the last task, the least of a few calls: other programs may use the machine."""
    space = MLPSpace(classes=10, widths=(100,), depths=(2,))
    learner = HypernetworkLearner(
        Hypernetwork.create(space, dataclasses.replace(ContinualConfig().ghn, tasks=tasks)),
        [space.from_string("100-100")],
        Heads("CL1", tasks, 10, own=False),
        RegulariserConfig(subset=subset),
    )
    rng, task = np.random.default_rng(0), tasks - 1
    images = rng.standard_normal((steps, 128, *space.input_shape), np.float32)
    labels = rng.integers(0, 10, (steps, 128)).astype(np.int32)
    chunk = Chunk(images, labels, np.full((steps, 128), task, np.int32), np.arange(steps, dtype=np.int32))
    state = learner.begin(learner.init(), task)

    seconds = []
    for _ in range(5):
        start = time.process_time()
        jax.block_until_ready(learner.update(state, task, chunk)[0].parameters)
        seconds.append(time.process_time() - start)
    return 1000 * min(seconds) / steps


# -------------------------------------------------------------------------------------------------------------- main

FUNCTIONS = {
    "reduced": reduced,
    "split": split,
    "split_cl1": split_cl1,
    "split_cl3": split_cl3,
    "long": long,
    "permuted": permuted,
    "cifar": cifar,
    "dependency": dependency,
    "initialization": initialization,
    "change": change,
    "cost": cost,
}
KEYS = {"reduced": "reduced_permuted", "change": "change_of_target"} | dict.fromkeys(
    ("split", "split_cl1", "split_cl3", "long", "permuted", "cifar"), "streams"
)


def main(config: Config) -> None:
    """Runs the parts that are asked for, and puts each beside those that are there."""
    jax.config.update("jax_compilation_cache_dir", str(config.runs / "compiled"))  # not in `timed`, a fresh process
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    results: dict[str, Any] = {}
    for part in config.parts:
        kept, rows = Kept(config.runs), list[list[str]]()
        found = FUNCTIONS[part](config, kept, rows)
        results = earlier(config)
        key = KEYS.get(part, part)
        results[key] = results.get(key, {}) | found
        context = common.context(list(config.each))
        told = {name: context[name] for name in ("command", "commit", "cpu")}
        results["parts"][part] = {"rows": rows, "cpu_hours": kept.cpu_s / 3600, **told}
        report(config, results)
        jax.clear_caches()


def earlier(config: Config) -> dict[str, Any]:
    """The results that are there, if they are of the same kind."""
    file = config.out / "continual.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return results if results.get("quick") == config.quick else {"quick": config.quick, "parts": {}}


def report(config: Config, results: dict[str, Any]) -> None:
    """Writes the files of all parts so far."""
    parts = {part: results["parts"][part] for part in FUNCTIONS if part in results["parts"]}
    header = ("part", "what", "result, % [95% interval]", "besides", "seeds")
    rows = [row for part in parts.values() for row in part["rows"]]
    notes = [
        f"{name}: {part['cpu_hours']:.2f} CPU hours, commit {part['commit']}, `{part['command']}`"
        for name, part in parts.items()
    ]
    if missing := [name for name in FUNCTIONS if name not in parts]:
        notes.append(f"not run: {', '.join(missing)}")
    common.finish("continual", results, header, rows, notes, list(config.each), config.out)
    picture(results, config.out / "continual")


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
