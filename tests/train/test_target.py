"""Ground truth: one program for all architectures and seeds, reproducible, in tables that never mix protocols."""

import csv
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from architectures.spaces import Cell, NASBench201
from train import target_table
from train.cli import TargetConfig
from train.data import AugmentConfig, DataConfig, Splits, load
from train.database import DatabaseError
from train.run_store import Row, RunStore
from train.target import Outcome, Protocol, Trainer
from train.target_table import TargetTable, sample_classes

SPACE = NASBench201(channels=2, cells=1, input_shape=(6, 6, 1), classes=3, stages=1)
PROTOCOL = Protocol(
    epochs=6, batch=30, warmup=2, learning_rate=0.1, calibration=60, augment=AugmentConfig(crop=1, flip=True)
)
CELLS = (
    Cell(("nor_conv_3x3", "none", "nor_conv_3x3", "skip_connect", "none", "nor_conv_3x3")),
    Cell(("nor_conv_1x1", "avg_pool_3x3", "skip_connect", "nor_conv_1x1", "none", "avg_pool_3x3")),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Images whose brightness tells the class, under noise."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    rng = np.random.default_rng(0)
    labels = (np.arange(300) % 3).astype(np.uint8)
    images = (rng.integers(0, 100, (300, 12, 12)) + 70 * labels[:, None, None]).astype(np.uint8)
    np.savez(path, x_train=images[:240], y_train=labels[:240], x_test=images[240:], y_test=labels[240:])
    return DataConfig(source=str(path), image_size=6, score_images=60)


@pytest.fixture(scope="module")
def splits(data: DataConfig) -> Splits:
    return load(data)


@pytest.fixture(scope="module")
def trainer(splits: Splits) -> Trainer:
    return Trainer(SPACE, splits, PROTOCOL)


@pytest.fixture(scope="module")
def outcome(trainer: Trainer) -> Outcome:
    return trainer(CELLS[0], [0, 1])


def test_outcomes_are_per_seed_and_sound(outcome: Outcome) -> None:
    for values in outcome:
        assert values.shape == (2,) and np.isfinite(values).all()
    assert ((outcome.test_accuracy > 0.5) & (outcome.test_accuracy <= 1)).all()  # chance is a third
    assert (outcome.train_loss < np.log(3)).all()


def test_the_same_seed_gives_the_same_result(trainer: Trainer, outcome: Outcome) -> None:
    jax.tree.map(np.testing.assert_array_equal, trainer(CELLS[0], [0, 1]), outcome)


def test_seeds_differ(outcome: Outcome) -> None:
    assert outcome.train_loss[0] != outcome.train_loss[1]
    assert outcome.test_loss[0] != outcome.test_loss[1]


def test_seeds_side_by_side_are_those_one_after_the_other(splits: Splits, outcome: Outcome) -> None:
    together = Trainer(SPACE, splits, PROTOCOL, side_by_side=True)(CELLS[0], [0, 1])
    np.testing.assert_allclose(together.train_loss, outcome.train_loss, rtol=1e-3)
    np.testing.assert_allclose(together.test_accuracy, outcome.test_accuracy, atol=0.04)


def test_results_come_in_the_order_of_the_seeds(trainer: Trainer, outcome: Outcome) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[::-1]), trainer(CELLS[0], [1, 0]), outcome)
    mixed = trainer(CELLS[0], [7, 0])
    np.testing.assert_array_equal(mixed.test_loss[1], outcome.test_loss[0])


def test_one_compilation_for_all_architectures(trainer: Trainer, outcome: Outcome) -> None:
    other = trainer(CELLS[1], [0, 1])
    assert (other.train_loss != outcome.train_loss).all()
    assert trainer._run._cache_size() == 1


def test_a_batch_larger_than_the_train_split_is_refused(splits: Splits) -> None:
    with pytest.raises(ValueError, match=r"Protocol\.batch=500: the train split has only 180 images"):
        Trainer(SPACE, splits, Protocol(batch=500))


@pytest.mark.parametrize("protocol", [Protocol(batch=500), Protocol(augment=AugmentConfig(crop=6))])
def test_a_protocol_that_does_not_fit_leaves_no_table(
    tmp_path: Path, splits: Splits, data: DataConfig, protocol: Protocol
) -> None:
    with pytest.raises(ValueError, match=r"Protocol\.(batch=500|augment\.crop=6): "):
        make_table(tmp_path / "truth.csv", splits, data, protocol)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"batch": 0}, {"warmup": -1}, {"calibration": 0}, {"learning_rate": 0.0}, {"momentum": 1.0}],
)
def test_a_protocol_out_of_range_is_named(change: dict[str, Any]) -> None:
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=rf"Protocol\.{name}={value}: must be"):
        Protocol(**change)


@pytest.mark.parametrize("change", [{"count": 0}, {"count": -3}, {"seeds": 0}, {"held_out": 0.0}])
def test_a_table_of_nothing_is_refused(change: dict[str, Any]) -> None:
    ((name, value),) = change.items()
    with pytest.raises(ValueError, match=rf"TargetConfig\.{name}={value}: "):
        TargetConfig(**change)


def test_the_protocols_hash_covers_everything(splits: Splits, data: DataConfig) -> None:
    provenance = dict(splits.provenance)
    variants = [
        (PROTOCOL, SPACE, data, provenance),
        (Protocol(epochs=3), SPACE, data, provenance),
        (PROTOCOL, NASBench201(channels=4, cells=1, input_shape=(6, 6, 1), classes=3, stages=1), data, provenance),
        (PROTOCOL, SPACE, DataConfig(source=data.source, image_size=6, score_images=30), provenance),
        (PROTOCOL, SPACE, data, {**provenance, "train_images_sha256": "0"}),
    ]
    hashes = [protocol.hash(*rest) for protocol, *rest in variants]
    assert len(set(hashes)) == len(variants)
    assert PROTOCOL.hash(SPACE, data, provenance) == hashes[0]
    moved = DataConfig(source="elsewhere/" + data.source, image_size=data.image_size, score_images=data.score_images)
    assert PROTOCOL.hash(SPACE, moved, provenance) == hashes[0]  # what the images are is in their provenance


# ---------------------------------------------------------------------------------------------------- tables


class FakeTrainer:
    """Answers at once, and counts."""

    calls: list[tuple[Any, list[int]]]

    def __init__(self, *arguments: Any) -> None:
        pass

    def __call__(self, architecture: Any, seeds: list[int]) -> Outcome:
        self.calls.append((architecture, seeds))
        value = np.array([(sum(map(ord, str(architecture))) + seeds[0]) / 1e6], np.float32)
        return Outcome(value, value + 1, value + 2)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, list[int]]]:
    FakeTrainer.calls = []
    monkeypatch.setattr(target_table, "Trainer", FakeTrainer)
    return FakeTrainer.calls


def make_table(path: Path, splits: Splits, data: DataConfig, protocol: Protocol = PROTOCOL) -> TargetTable:
    return TargetTable(path, SPACE, splits, data, protocol)


def test_a_table_goes_on_where_it_stopped(tmp_path: Path, splits: Splits, data: DataConfig, calls: list[Any]) -> None:
    path = tmp_path / "sub" / "truth.csv"
    rows = make_table(path, splits, data).run(CELLS, [0, 1])
    first = [next(rows) for _ in range(3)]
    rows.close()
    assert calls == [(CELLS[0], [0]), (CELLS[1], [0]), (CELLS[0], [1])]  # seed by seed
    table = make_table(path, splits, data)
    assert table.rows() == first
    (last,) = list(table.run(CELLS, [0, 1]))
    assert calls[3:] == [(CELLS[1], [1])]
    assert table.rows() == [*first, last]
    assert list(make_table(path, splits, data).run(CELLS, [0, 1])) == [] and len(calls) == 4
    assert [row.seed for row in table.rows()] == [0, 0, 1, 1]
    assert [SPACE.from_string(row.architecture) for row in table.rows()] == [*CELLS, *CELLS]
    assert first[0].key == SPACE.canonical(CELLS[0])
    with path.open(newline="") as file:
        assert [float(row["test_loss"]) for row in csv.DictReader(file)] == [row.test_loss for row in table.rows()]


def test_a_table_of_another_protocol_is_refused(tmp_path: Path, splits: Splits, data: DataConfig) -> None:
    path = tmp_path / "truth.csv"
    before = make_table(path, splits, data)
    content = path.read_text(), path.with_suffix(".json").read_text()
    other = Protocol(epochs=3)
    with pytest.raises(ValueError, match=rf"truth.sqlite: made under protocol {before.protocol_hash}.*another --out"):
        make_table(path, splits, data, other)
    assert (path.read_text(), path.with_suffix(".json").read_text()) == content
    path.with_suffix(".sqlite").unlink()  # as written by an earlier version
    with pytest.raises(ValueError, match=rf"truth.csv: made under protocol {before.protocol_hash}.*another --out"):
        make_table(path, splits, data, other)


def test_a_table_of_an_earlier_version_is_taken_over(
    tmp_path: Path, splits: Splits, data: DataConfig, calls: list[Any]
) -> None:
    path = tmp_path / "truth.csv"
    whole = list(make_table(path, splits, data).run(CELLS, [0]))
    path.with_suffix(".sqlite").unlink()
    text = path.read_text()
    path.write_text(text[: text.rstrip().rindex(",")])  # a kill cut the last row short
    table = make_table(path, splits, data)
    assert table.rows() == whole[:1]
    assert [row.architecture for row in table.run(CELLS, [0])] == [whole[1].architecture]
    assert len(calls) == 3


def test_a_file_that_is_no_table_is_not_overwritten(tmp_path: Path, splits: Splits, data: DataConfig) -> None:
    path = tmp_path / "truth.csv"
    path.write_text("mine\n")
    with pytest.raises(ValueError, match=r"truth.csv: exists, but no truth.json"):
        make_table(path, splits, data)
    assert path.read_text() == "mine\n"
    path.with_suffix(".sqlite").write_text("no database, and long enough to be looked at as one" * 30)
    with pytest.raises(ValueError, match=r"truth.sqlite: file is not a database"):
        make_table(path, splits, data)


def test_the_card_tells_command_hours_classes_and_seeds(
    tmp_path: Path, splits: Splits, data: DataConfig, calls: list[Any]
) -> None:
    path = tmp_path / "truth.csv"
    for command in ("ghn-train target --seeds 1", "ghn-train target --seeds 2", "ghn-train target --seeds 2"):
        table = TargetTable(path, SPACE, splits, data, PROTOCOL, command)
    rows = list(table.run(CELLS, [0, 1]))
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["command"] == "ghn-train target --seeds 1; ghn-train target --seeds 2"
    assert card["classes"] == 2 and card["seeds"] == [0, 1]
    assert card["hours"] == pytest.approx(sum(row.seconds for row in rows) / 3600, abs=0.01)
    assert card["protocol_hash"] == table.protocol_hash and card["space"]["name"] == SPACE.name


def test_processes_that_share_a_table_divide_the_work(
    tmp_path: Path, splits: Splits, data: DataConfig, calls: list[Any]
) -> None:
    path = tmp_path / "truth.csv"
    one, other = make_table(path, splits, data).run(CELLS, [0, 1]), make_table(path, splits, data).run(CELLS, [0, 1])
    seen = [next(one), next(other), next(other), next(one)]
    assert len({(row.key, row.seed) for row in seen}) == 4
    assert list(one) == [] and list(other) == []
    assert len(calls) == 4 and len(make_table(path, splits, data).rows()) == 4


def test_a_run_that_a_killed_process_claimed_is_made_in_the_end(
    tmp_path: Path, splits: Splits, data: DataConfig, calls: list[Any]
) -> None:
    path = tmp_path / "truth.csv"
    table = make_table(path, splits, data)
    assert RunStore(path.with_suffix(".sqlite")).claim(table.protocol_hash, SPACE.canonical(CELLS[0]), 0)
    assert [row.key for row in table.run(CELLS, [0])] == [SPACE.canonical(cell) for cell in CELLS[::-1]]


# ----------------------------------------------------------------------------------------------- the database

ROW = Row("cell", "class", 0, 0.5, 1.0, 0.25, 2.0)


def _add_many(path: Path, first: int) -> None:
    for seed in range(first, first + 40, 2):
        RunStore(path).add("p", dataclasses.replace(ROW, seed=seed))


def test_a_run_is_stored_once_and_nan_comes_back(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs.sqlite")
    store.create("p", {})
    assert store.add("p", ROW) and not store.add("p", dataclasses.replace(ROW, test_accuracy=0.9))
    assert store.rows() == [ROW]
    store.add("p", dataclasses.replace(ROW, seed=1, train_loss=float("nan")))
    assert np.isnan(store.rows()[1].train_loss)
    assert store.has("p", "class", 1) and not store.has("p", "class", 2) and not store.has("q", "class", 1)
    assert not store.claim("p", "class", 1)  # it is finished


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "runs.sqlite"
    RunStore(path).create("p", {})
    with ThreadPoolExecutor(2) as pool:  # a connection each, as two processes have
        for future in [pool.submit(_add_many, path, first) for first in (0, 1)]:
            future.result()
    assert sorted(row.seed for row in RunStore(path).rows()) == list(range(40))


def test_a_missing_database_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match=r"nowhere.sqlite: no such file"):
        RunStore(tmp_path / "nowhere.sqlite").card()


# --------------------------------------------------------------------------------------------------- classes


def test_sampled_classes_are_distinct_and_connected() -> None:
    cells = sample_classes(SPACE, 100, seed=0)
    assert len({SPACE.canonical(cell) for cell in cells}) == len(cells) == 100
    assert all(SPACE.connected(cell) for cell in cells)


def test_sampled_classes_are_reproducible() -> None:
    first = sample_classes(SPACE, 40, seed=0)
    assert sample_classes(SPACE, 40, seed=0) == first
    assert sample_classes(SPACE, 20, seed=0) == first[:20]
    assert sample_classes(SPACE, 40, seed=1) != first


def test_sampled_classes_meet_the_condition() -> None:
    cells = sample_classes(SPACE, 30, 0, lambda cell: SPACE.held_out(cell, 0.1))
    assert len(cells) == 30 and all(SPACE.held_out(cell, 0.1) for cell in cells)


def test_rare_classes_are_found_too() -> None:
    rare = SPACE.canonical(CELLS[0])  # of one cell in 15,625
    assert [
        SPACE.canonical(cell) for cell in sample_classes(SPACE, 1, 0, lambda cell: SPACE.canonical(cell) == rare)
    ] == [rare]


def test_asking_for_more_classes_than_there_are_is_refused() -> None:
    wanted = {SPACE.canonical(cell) for cell in CELLS}
    with pytest.raises(ValueError, match="count=3: only 2 connected classes that fit were found; ask for fewer"):
        sample_classes(SPACE, 3, 0, lambda cell: SPACE.canonical(cell) in wanted)
