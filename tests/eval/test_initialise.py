"""`ghn-eval initialise`: the table of trainings, the rates that it chooses, and what both starts have in common."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from rich.console import Console

import ghn
from architectures.layers import Layers
from architectures.spaces import DeepNets, MLPSpace
from eval.initialise import InitialiseConfig, initialise, networks_of
from eval.starts import Curves, TrainingConfig, curves, train_all, win_rates
from ghn import GHNConfig, Hypernetwork
from train.data import DataConfig, Splits, batch_indices, load
from train.finetune import initial_weights

SPACE = MLPSpace(input_shape=(4, 4, 1), classes=4, widths=(4, 6), depths=(1, 2))
NETWORKS = {text: SPACE.from_string(text) for text in ("6", "4-6")}
TRAINING = TrainingConfig(steps=3, batch=8, rates=(1e-2, 1e-1), seeds=2, images=20)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "data.npz"
    images, labels = rng.integers(0, 256, (160, 4, 4), dtype=np.uint8), (np.arange(160) % 4).astype(np.uint8)
    np.savez(path, x_train=images[:120], y_train=labels[:120], x_test=images[120:], y_test=labels[120:])
    return DataConfig(source=str(path), image_size=None, score_images=40)


@pytest.fixture(scope="module")
def hypernetwork() -> Hypernetwork:
    return Hypernetwork.create(SPACE, GHNConfig(width=8, message_width=4, hidden=8, tile=8), seed=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, hypernetwork: Hypernetwork, data: DataConfig) -> Path:
    """The table of all trainings."""
    table = tmp_path_factory.mktemp("run") / "trainings.jsonl"
    assert sum(1 for _ in train(hypernetwork, load(data), table)) == 2 * 2 * 2 * 2
    return table


def train(hypernetwork: Hypernetwork, splits: Splits, table: Path) -> object:
    def generate(network: object) -> dict[str, jax.Array]:
        return hypernetwork(SPACE.graph(network)).arrays

    return train_all(SPACE, NETWORKS, generate, splits, TRAINING, table)


def rows_of(table: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in table.read_text().splitlines()]


def test_a_training_is_adam_on_its_own_program(run: Path, data: DataConfig) -> None:
    splits, network = load(data), NETWORKS["4-6"]
    weights, optimizer = initial_weights(SPACE, network, 1), optax.adam(1e-2)
    state = optimizer.init(weights)

    def logits(weights: dict[str, jax.Array], images: np.ndarray) -> jax.Array:
        return SPACE.forward_static(weights, network, images, Layers())

    @jax.jit
    @jax.grad
    def gradient(weights: dict[str, jax.Array], images: np.ndarray, labels: np.ndarray) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits(weights, images), labels).mean()

    for step in range(3):
        rows = batch_indices(len(splits.train.labels), 8, 1, step)
        grads = gradient(weights, splits.train.images[rows], splits.train.labels[rows])
        updates, state = optimizer.update(grads, state)
        weights = optax.apply_updates(weights, updates)
    [row] = [
        row
        for row in rows_of(run)
        if (row["network"], row["start"], row["seed"], row["rate"]) == ("4-6", "default", 1, 1e-2)
    ]
    expected = (np.asarray(logits(weights, splits.test.images[:20])).argmax(-1) == splits.test.labels[:20]).mean()
    assert row["test"][-1] == pytest.approx(expected)


def test_what_is_in_the_table_is_not_made_again(
    run: Path, hypernetwork: Hypernetwork, data: DataConfig, tmp_path: Path
) -> None:
    table, text = tmp_path / "trainings.jsonl", run.read_text()
    table.write_text(text[:-9])  # the last line was being written
    for _ in train(hypernetwork, load(data), table):
        pass
    assert table.read_text() == text


def test_the_rate_is_the_one_that_is_best_on_the_score_split(run: Path) -> None:
    rows = rows_of(run)
    for name, own in curves(rows, list(NETWORKS), TRAINING).items():
        for start, curve in own.items():
            scores = {
                rate: np.mean(
                    [r["score"] for r in rows if (r["network"], r["start"], r["rate"]) == (name, start, rate)]
                )
                for rate in TRAINING.rates
            }
            assert scores[curve.rate] == max(scores.values())
            assert curve.test_SK.shape == (2, len(TRAINING.stops)) and TRAINING.stops == (0, 3)


def test_win_rates_count_networks() -> None:
    def curve(*accuracies: float) -> Curves:
        return Curves(0.1, np.array([accuracies]))

    found = {
        "a": {"generated": curve(0.5, 0.6), "default": curve(0.4, 0.6)},
        "b": {"generated": curve(0.1, 0.7), "default": curve(0.4, 0.6)},
    }
    np.testing.assert_allclose(win_rates(found), [0.5, 0.75])


def test_the_command_writes_and_goes_on(tmp_path: Path) -> None:
    """On the packaged hypernetwork's own space, by text."""
    cell = "|nor_conv_1x1~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
    training = TrainingConfig(steps=1, batch=4, rates=(1e-3,), images=4)
    config = InitialiseConfig("demo", (cell,), training=training)
    out, console = tmp_path / "run", Console(quiet=True)
    found = initialise(config, out, console)
    saved = json.loads((out / "initialise.json").read_text())
    assert saved["models"][cell]["generated"]["1"] == pytest.approx(found[cell]["generated"].mean_K[-1])
    assert {"win_rate_0", "win_rate_1"} <= saved.keys()
    assert (out / "initialise.png").stat().st_size > 1000
    row = next(line for line in (out / "initialise.md").read_text().splitlines() if "nor_conv" in line)
    assert cell.replace("|", r"\|") in row and len(re.findall(r"(?<!\\)\|", row)) == 5  # bars of the table alone
    assert len((out / "trainings.jsonl").read_text().splitlines()) == 2
    with pytest.raises(ValueError, match="belongs to another run"):
        initialise(InitialiseConfig("demo", (cell,), count=7, training=training), out, console)


def test_unseen_architectures_are_drawn() -> None:
    space = DeepNets(kinds=("basic",), norm_kinds=("batch",))
    config = InitialiseConfig("here", count=3, drawn=True)
    hypernetwork = Hypernetwork.create(space, GHNConfig(network="open", width=8, message_width=4, hidden=8, tile=8))
    with pytest.raises(ValueError, match=r"InitialiseConfig.drawn: checkpoint 'here' held nothing out"):
        networks_of(config, hypernetwork)
    hypernetwork = dataclasses.replace(hypernetwork, held_out=(0.3, 0))
    drawn = networks_of(config, hypernetwork)
    assert len(drawn) == 3 and drawn == networks_of(config, hypernetwork)
    assert all(hypernetwork.unseen(space.from_string(text)) for text in drawn)
    assert networks_of(InitialiseConfig("here"), hypernetwork) == space.models()


def test_more_unseen_architectures_than_there_are_are_refused(hypernetwork: Hypernetwork) -> None:
    part = dataclasses.replace(hypernetwork, held_out=(0.5, 0))
    unseen = sum(part.unseen(SPACE.from_string(text)) for text in ("4", "6", "4-4", "4-6", "6-4", "6-6"))
    assert 0 < unseen < 6
    assert len(networks_of(InitialiseConfig(count=unseen), part)) == unseen
    with pytest.raises(ValueError, match=rf"InitialiseConfig.count=7: only {unseen} .*networks"):
        networks_of(InitialiseConfig(count=7), part)
    with pytest.raises(ValueError, match="count=0: must be at least 1"):
        InitialiseConfig(count=0)


def test_data_that_the_checkpoint_was_not_made_for_is_refused(tmp_path: Path) -> None:
    shape = ghn.load("demo").space.input_shape
    assert shape == (14, 14, 1)
    with pytest.raises(ValueError, match=r"InitialiseConfig.data: images of \(28, 28, 1\), checkpoint 'demo'"):
        initialise(InitialiseConfig("demo", data=DataConfig(image_size=28)), tmp_path, Console(quiet=True))
