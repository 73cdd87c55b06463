"""Runs that fail: divergence and full disks. What is good is kept."""

import dataclasses
import json
import re
import resource
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from loop_runs import assert_same_run, metrics_of, quick_loss, without_time

import ghn
from ghn.checkpoint import steps_of
from train import loop
from train.batches import BatchStream
from train.config import OptimizerConfig, TrainConfig
from train.data import load as load_data
from train.loop import RunError, make_hypernetwork
from train.retreats import Retreats

# ---------------------------------------------------------------------------------------------------- divergence


def exploding(config: TrainConfig, **changes: Any) -> TrainConfig:
    optimizer = OptimizerConfig(name="sgd", learning_rate=1e30, clip=1e30)
    return dataclasses.replace(config, optimizer=optimizer, retreats=0, **changes)


@pytest.mark.usefixtures("quick")
def test_a_diverging_run_stops_and_names_the_last_good_checkpoint(light: TrainConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError, match=r"the loss is not finite.*learning-rate.*1e\+30") as caught:
        loop.train(exploding(light, log_every=1, checkpoint_every=100), run)
    named = re.search(r"checkpoint (\d+) holds the last good state", str(caught.value))
    assert named and steps_of(run) == [int(named[1])]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ghn.load(run).parameters))
    assert all(np.isfinite(line["loss"]) for line in metrics_of(run))


@pytest.mark.usefixtures("quick")
def test_the_last_good_checkpoint_has_a_finite_loss(light: TrainConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError, match="not finite"):
        loop.train(exploding(light, log_every=1, checkpoint_every=1), run)
    splits = load_data(light.data)
    batch = BatchStream(light, make_hypernetwork(light, splits), splits.train)[0]
    assert np.isfinite(quick_loss(None, ghn.load(run).parameters, batch)[0])


@pytest.mark.usefixtures("quick")
def test_a_run_that_diverges_before_its_first_check_keeps_its_start(light: TrainConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RunError, match=r"between steps 0 and 6 .*checkpoint 0 holds the last good state"):
        loop.train(exploding(light, log_every=100, checkpoint_every=100), run)
    start = make_hypernetwork(light, load_data(light.data)).parameters
    jax.tree.map(np.testing.assert_array_equal, ghn.load(run).parameters, start)


# --------------------------------------------------------------------------------------------------------- retreats


def poison(monkeypatch: pytest.MonkeyPatch, step: int, draws: int) -> None:
    """The batch of `step` makes the loss NaN, as it is drawn at first and anew after each retreat: `draws` times."""
    original = BatchStream.__getitem__

    def getitem(self: BatchStream, index: int) -> Any:
        batch = original(self, index)
        retreats = self._retreats.before(index) if self._retreats is not None else 0
        bad = index == step and retreats < draws
        return batch._replace(images=np.full_like(batch.images, np.nan)) if bad else batch

    monkeypatch.setattr(BatchStream, "__getitem__", getitem)


@pytest.mark.usefixtures("quick")
def test_a_bad_batch_sends_a_run_back_and_on_with_others(
    light: TrainConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    poison(monkeypatch, 4, draws=2)
    with pytest.warns(RuntimeWarning, match=r"between steps 4 and 6.*goes back to step 4 and on with other") as told:
        trained = loop.train(light, run)
    assert [str(line.message)[-24:] for line in told] == ["(retreat 1 of at most 3)", "(retreat 2 of at most 3)"]
    recorded = [json.loads(line) for line in (run / "retreats.jsonl").read_text().splitlines()]
    assert recorded == [{"to": 4, "from": 6}] * 2
    assert trained.step == 6 and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained.parameters))
    lines, calm = without_time(metrics_of(run)), without_time(metrics_of(whole))
    assert [line["step"] for line in lines] == [2, 3, 4, 6]
    assert lines[:3] == calm[:3] and lines[3] != calm[3]  # the same batches until then, others since
    assert steps_of(run) == [2, 4, 6]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("checkpoint_every", [2, 100])
def test_a_run_that_is_stopped_after_a_retreat_goes_on_exactly(
    light: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint_every: int
) -> None:
    config = dataclasses.replace(light, checkpoint_every=checkpoint_every)
    poison(monkeypatch, 4, draws=1)
    with pytest.warns(RuntimeWarning, match="goes back"):
        loop.train(config, tmp_path / "unbroken")
    add = Retreats.add

    def stop(self: Retreats, *args: Any, **kwargs: Any) -> None:
        add(self, *args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Retreats, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            loop.train(config, tmp_path / "stopped")
    loop.train(config, tmp_path / "stopped")  # no warning: it takes the turn that is recorded
    assert_same_run(tmp_path / "stopped", tmp_path / "unbroken", config)


@pytest.mark.usefixtures("quick")
def test_a_run_that_retreated_often_enough_stops(
    light: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 4, draws=100)
    config = dataclasses.replace(light, retreats=1)
    stops = pytest.raises(RunError, match=r"not finite.*after 1 retreats; checkpoint 4 holds the last good state")
    with pytest.warns(RuntimeWarning, match="retreat 1 of at most 1"), stops:
        loop.train(config, tmp_path / "run")
    assert ghn.load(tmp_path / "run").step == 4


@pytest.mark.usefixtures("quick")
def test_a_damaged_record_of_retreats_is_named(light: TrainConfig, tmp_path: Path) -> None:
    loop.train(light, tmp_path / "run")
    (tmp_path / "run" / "retreats.jsonl").write_text("{")
    with pytest.raises(ValueError, match=r"retreats\.jsonl: is damaged .*another folder"):
        loop.train(light, tmp_path / "run")


# ------------------------------------------------------------------------------------------------------- full disks


def no_room(monkeypatch: pytest.MonkeyPatch, step: int, how: str) -> None:
    """Saving checkpoint `step` fails: because it says so, or because no file may grow beyond a few bytes."""
    original = loop.save_run

    def save(run: Path, hypernetwork: Any, training: Any) -> None:
        if hypernetwork.step != step:
            return original(run, hypernetwork, training)
        if how == "error":
            raise OSError(28, "No space left on device")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
        try:
            return original(run, hypernetwork, training)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(loop, "save_run", save)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax drops writes that failed too
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("how", ["error", "limit"])
def test_a_save_that_fails_keeps_the_last_checkpoint(
    light: TrainConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    run = tmp_path / "run"
    no_room(monkeypatch, 4, how)
    with pytest.raises(RunError, match=r"checkpoint 4 cannot be written.*checkpoint 2 is kept.*Make room and run"):
        loop.train(light, run)
    assert steps_of(run) == [2] and ghn.load(run).step == 2
    monkeypatch.undo()
    loop.train(light, run)
    assert_same_run(run, whole, light)


@pytest.mark.usefixtures("quick")
def test_a_first_save_that_fails_says_that_there_is_no_checkpoint(
    light: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_room(monkeypatch, 2, "error")
    with pytest.raises(RunError, match=r"checkpoint 2 cannot be written \(.*No space left.*\); there is none yet"):
        loop.train(light, tmp_path / "run")
    assert steps_of(tmp_path / "run") == []
