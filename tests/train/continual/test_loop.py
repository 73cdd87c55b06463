"""Streams learned to their end: what is kept, what is lost, resumption, the command, errors that keep what is good."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import ghn
from train import cli
from train.continual import ContinualConfig, Heads, HypernetworkLearner, Result, learn, run
from train.continual.build import make_learner
from train.continual.learner import Chunk
from train.continual.metrics import summarise
from train.data import DataError
from train.run_folder import RunError


def go(config: ContinualConfig) -> Result:
    stream = config.stream.build()
    return learn(stream, make_learner(config, stream), config.schedule)


@pytest.fixture(scope="module")
def unbroken(config: ContinualConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    return folder, run(config, folder, show=False)


def test_holding_earlier_tasks_keeps_them(config: ContinualConfig, unbroken: tuple[Path, Result]) -> None:
    held = summarise(unbroken[1].matrix)
    loose = summarise(
        go(dataclasses.replace(config, regulariser=dataclasses.replace(config.regulariser, beta=0.0))).matrix
    )
    assert held.during > 0.7
    assert held.forgetting < 0.1
    assert loose.forgetting > held.forgetting + 0.1


def test_the_run_is_a_hypernetwork_that_knows_its_tasks(config: ContinualConfig, unbroken: tuple[Path, Result]) -> None:
    folder, result = unbroken
    loaded = ghn.load(folder)
    assert loaded.tasks == ("0", "1", "2")
    space, stream = loaded.space, config.stream.build()
    target = space.from_string(config.target)
    task = stream.checked(1)
    logits = space.apply(loaded(space.graph(target), task="1"), target, task.test.images)[:, 4:8]
    assert (np.asarray(logits).argmax(-1) == task.test.labels).mean() == pytest.approx(result.matrix[2, 1])
    found = json.loads((folder / "result.json").read_text())
    assert found["average"] == pytest.approx(result.matrix[2].mean())
    assert found["learner_parameters"] == loaded.parameter_count


@pytest.mark.parametrize("stop", [70, 80])
def test_a_stopped_run_ends_as_an_unbroken_one(
    config: ContinualConfig, unbroken: tuple[Path, Result], tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = HypernetworkLearner.update

    def stopping(self: HypernetworkLearner, state: object, task: int, chunk: Chunk) -> object:
        if chunk.steps[0] >= stop:
            raise KeyboardInterrupt
        return whole(self, state, task, chunk)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(HypernetworkLearner, "update", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "run", show=False)
    result = run(config, tmp_path / "run", show=False)
    np.testing.assert_array_equal(result.matrix, unbroken[1].matrix)
    for a, b in zip(jax.tree.leaves(result.state), jax.tree.leaves(unbroken[1].state), strict=True):
        np.testing.assert_array_equal(a, b)
    lines = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == list(range(10, 121, 10))


def test_another_stream_does_not_continue_a_run(config: ContinualConfig, unbroken: tuple[Path, Result]) -> None:
    folder, _ = unbroken
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    other = dataclasses.replace(config, stream=dataclasses.replace(config.stream, seed=1))
    with pytest.raises(RunError, match=r"stream.seed was 0, is 1.*another --out"):
        run(other, folder, show=False)
    assert files == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("scenario", "inference"), [("CL2", "entropy"), ("CL3", "entropy"), ("CL3", "classifier")])
def test_tasks_are_inferred_where_they_are_not_told(split: ContinualConfig, scenario: str, inference: str) -> None:
    schedule = dataclasses.replace(split.schedule, inference=inference)
    config = dataclasses.replace(split, scenario=scenario, schedule=schedule)
    summary = summarise(go(config).matrix)
    assert summary.average > (0.5 if scenario == "CL2" else 0.4)  # chance: 0.5 and 0.25


def test_tasks_are_trained_alike_whether_they_will_be_told_or_not(split: ContinualConfig) -> None:
    told, blind = (go(dataclasses.replace(split, scenario=scenario)) for scenario in ("CL1", "CL3"))
    jax.tree.map(np.testing.assert_array_equal, told.state.parameters, blind.state.parameters)
    assert told.matrix[1].mean() > blind.matrix[1].mean()


@pytest.mark.parametrize("others", [0, 3])
def test_every_architecture_of_the_pool_is_held(config: ContinualConfig, others: int) -> None:
    config = dataclasses.replace(config, others=others)
    stream = config.stream.build()
    learner = make_learner(config, stream)
    assert isinstance(learner, HypernetworkLearner)
    assert len(learner.architectures) == 1 + others
    assert learner.space.to_string(learner.architectures[0]) == config.target
    if others:
        result = learn(stream, learner, config.schedule)
        assert summarise(result.matrix).forgetting < 0.15


def test_bad_input_of_the_command_ends_with_one_line(
    config: ContinualConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = config.stream.data.source
    arguments = ["ghn-train", "continual", "--out", str(tmp_path / "run"), "--stream.data.source", source]
    arguments += ["--stream.data.score-images", "40"]
    monkeypatch.setattr("sys.argv", [*arguments, "--stream.name", "split", "--stream.tasks", "3", "--target", "100"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "1 hidden layers; MLPSpace.depths=(2,)" in capsys.readouterr().err


def test_a_stream_that_cannot_be_learned_leaves_no_folder(
    config: ContinualConfig, split: ContinualConfig, tmp_path: Path
) -> None:
    long = dataclasses.replace(split, stream=dataclasses.replace(split.stream, tasks=3))
    wide = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, batch=1000))
    for wrong, message in (
        (long, r"tasks=3: task 2 wants classes 4 to 5"),
        (wide, r"ScheduleConfig\.batch=1000: task 0 has only \d+ training images"),
    ):
        with pytest.raises(ValueError, match=message):
            run(wrong, tmp_path / "run", show=False)
        assert not (tmp_path / "run").exists()


def test_learners_for_other_streams_are_refused(config: ContinualConfig, split: ContinualConfig) -> None:
    stream = config.stream.build()
    with pytest.raises(ValueError, match=r"for 3 tasks of 4 classes, the stream has 2 of 2"):
        learn(split.stream.build(), make_learner(config, stream), config.schedule)
    learner = make_learner(config, stream)
    assert isinstance(learner, HypernetworkLearner)
    with pytest.raises(ValueError, match=r"GHNConfig.tasks=3: the stream has 12 tasks"):
        HypernetworkLearner(learner.hypernetwork, learner.architectures, Heads("CL1", 12, 1, own=True))
    with pytest.raises(DataError, match="batch_size"):
        go(dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, batch=1000)))
