"""The training loop of the command line: a caller of `train_step` with checkpoints, metrics and a progress display."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from architectures.layers import Layers
from ghn.api import Hypernetwork, Parameters, Preprocessing
from ghn.checkpoint import load_training, save_run, steps_of
from train.batches import BatchStream
from train.config import TrainConfig
from train.data import Splits, load
from train.metrics import MetricsWriter, TrainingProgress
from train.objectives import objective_of, startup_loss
from train.optimizer import averaged, make_optimizer
from train.parallel import keep, make_step, mesh_of, wait_for_all
from train.retreats import Retreats
from train.run_folder import RunError, claim
from train.step import TrainState, init_state
from train.warm_start import warm_started


def train(config: TrainConfig, run: Path, tensorboard: bool = False, show: bool = True) -> Hypernetwork:
    """Trains a hypernetwork into the folder `run`, continuing at its last checkpoint if there is one.

    Files: config.json, metrics.jsonl, checkpoints/<step>/; retreats.jsonl where the loss stopped being finite and the
    run went on from its last good state with other batches, of which a warning tells too. With several processes
    (`jax.distributed`), each calls this with the same arguments, the folder is on a disk that they share, and process 0
    writes configuration and metrics.

    Args:
        config: the run.
        run: its folder.
        tensorboard: also write TensorBoard events.
        show: a live progress display on the terminal.

    Raises:
        RunError: the folder belongs to another run or cannot be written; the loss stopped being finite more
            than `config.retreats` times (the last good checkpoint is kept).
        DataError: the data cannot be read.
        ValueError: there are fewer devices than the configuration asks for, or its parts do not fit each other or the
            data; the folder is left as it was.
    """
    mesh = mesh_of(config.devices)
    splits = load(config.data)
    hypernetwork = make_hypernetwork(config, splits)
    finished, retreats = steps_of(run), Retreats(run)
    if config.start is not None and not finished:
        hypernetwork = warm_started(hypernetwork, config.start)
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = init_state(hypernetwork, optimizer)
    stream = BatchStream(config, hypernetwork, splits.train, retreats)
    if not finished:
        stream[0]  # what cannot be drawn is told before the folder belongs to a configuration that never ran
    _claim_in_turn(run, config, splits)
    if finished:
        state = _restore(run, finished[-1], state, config)
    start, first = int(state.step), jax.process_index() == 0
    common = (mesh, hypernetwork.definition, optimizer, Layers(precision=config.precision))
    step_fn, place = make_step(*common, objective_of(config))
    startup_fn, _ = make_step(*common, startup_loss)
    state = place(state)
    good, pending, done = keep(state), [], start
    with (
        MetricsWriter(run, start, tensorboard) if first else contextlib.nullcontext() as writer,
        TrainingProgress(start, config.steps, show and first) as progress,
    ):
        while done < config.steps:
            state, metrics = (startup_fn if done < config.startup else step_fn)(state, stream[done])
            pending.append(metrics)
            done += 1
            saves = done % config.checkpoint_every == 0 or done == config.steps
            if saves or done % config.log_every == 0 or done == config.startup:
                means = {name: float(np.mean([metrics[name] for metrics in pending])) for name in pending[0]}
                pending = []
                if not all(math.isfinite(value) for value in means.values()):
                    _save(run, hypernetwork, good, config)
                    _retreat(run, retreats, int(good.step), done, means, config)
                    state, done = keep(good), int(good.step)
                    continue
                good = keep(state)
                if writer is not None:
                    writer.write(done, means)
                progress.update(done, means)
            if saves:
                _save(run, hypernetwork, state, config)
    parameters = jax.tree.map(lambda leaf: leaf.addressable_data(0), _result(state, config))  # on one device
    return dataclasses.replace(hypernetwork, parameters=parameters, step=int(state.step))


def make_hypernetwork(config: TrainConfig, splits: Splits) -> Hypernetwork:
    """The untrained hypernetwork of a configuration on its data."""
    train_split = splits.train
    space = config.space.build(train_split.images.shape[1:], train_split.classes)
    preprocessing = Preprocessing(train_split.mean, train_split.std, train_split.class_names)
    return dataclasses.replace(
        Hypernetwork.create(space, config.ghn, config.seed),
        preprocessing=preprocessing,
        held_out=(config.held_out, config.held_out_seed),
    )


def _claim_in_turn(run: Path, config: TrainConfig, splits: Splits) -> None:
    """`_claim` by process 0, then by the others, so that all of them end with the same error or with none."""
    first = jax.process_index() == 0
    try:
        if first:
            _claim(run, config, splits)
    finally:
        wait_for_all("claim")
    if not first:
        if not (run / "config.json").exists():
            raise RunError(f"{run}: process {jax.process_index()} does not see it; use a folder that all hosts share")
        _claim(run, config, splits)


def _claim(run: Path, config: TrainConfig, splits: Splits) -> None:
    """Devices are no part of what is computed: a run goes on with more or fewer of them."""
    claim(run, dataclasses.asdict(config), dataclasses.asdict(TrainConfig()), dict(splits.provenance), ("devices",))


def _retreat(
    run: Path, retreats: Retreats, good: int, found: int, means: dict[str, float], config: TrainConfig
) -> None:
    """Records and tells that the run goes back to its last good state; raises RunError when it did so often enough."""
    found_so = f"the loss is not finite between steps {good} and {found} ({means})"
    if len(retreats) >= config.retreats:
        after = f" after {len(retreats)} retreats" if retreats else ""
        raise RunError(
            f"{run}: {found_so}{after}; checkpoint {good} holds the last good state. Lower optimizer.learning-rate "
            f"(now {config.optimizer.learning_rate:g}) or optimizer.clip and start a new run"
        )
    retreats.add(good, found, write=jax.process_index() == 0)
    warnings.warn(
        f"{run}: {found_so}; goes back to step {good} and on with other batches "
        f"(retreat {len(retreats)} of at most {config.retreats})",
        RuntimeWarning,
        stacklevel=3,
    )


def _result(state: TrainState, config: TrainConfig) -> Parameters:
    """What checkpoints hold as the hypernetwork: its parameters or their moving average."""
    return averaged(state.parameters, state.optimizer_state) if config.optimizer.ema else state.parameters


def _training_tree(state: TrainState, config: TrainConfig) -> dict[str, Any]:
    """What a checkpoint holds beside the hypernetwork."""
    own = {"parameters": jax.jit(lambda tree: ravel_pytree(tree)[0])(state.parameters)} if config.optimizer.ema else {}
    return {"optimizer_state": state.optimizer_state, "step": state.step, **own}


def _save(run: Path, hypernetwork: Hypernetwork, state: TrainState, config: TrainConfig) -> None:
    current = dataclasses.replace(hypernetwork, parameters=_result(state, config), step=int(state.step))
    if current.step in steps_of(run):
        return
    try:
        save_run(run, current, _training_tree(state, config))
    except (OSError, ValueError) as error:  # tensorstore reports a full disk as a ValueError
        kept = steps_of(run)
        raise RunError(
            f"{run}: checkpoint {current.step} cannot be written ({error}); "
            f"{f'checkpoint {kept[-1]} is kept' if kept else 'there is none yet'}. "
            "Make room and run the same command again"
        ) from error


def _restore(run: Path, step: int, state: TrainState, config: TrainConfig) -> TrainState:
    parameters, training = load_training(run, step, state.parameters, _training_tree(state, config))
    if config.optimizer.ema:
        parameters = ravel_pytree(parameters)[1](training["parameters"])
    return TrainState(parameters, training["optimizer_state"], training["step"])
