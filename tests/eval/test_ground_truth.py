"""Reading tables of accuracies."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from architectures.spaces import NASBench201
from eval.ground_truth import GroundTruth, Tabulated, read_ground_truth
from eval.metrics import reliability
from eval.tabular import GroundTruthError
from eval.truth_report import TruthConfig, card_rows, ground_truth, truth_card
from train.run_store import Row, RunStore

SPACE = NASBench201()
CONV = "|skip_connect~0|+|none~0|none~1|+|none~0|nor_conv_3x3~1|none~2|"
CONV_AGAIN = "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"  # isomorphic to CONV
POOL = "|avg_pool_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|"
SKIP = "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
BROKEN = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


def table(path: Path, rows: list[str], header: str = "architecture,seed,test_accuracy") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_classes_are_merged_seeds_are_columns_and_the_disconnected_are_counted(tmp_path: Path) -> None:
    rows = [f"{CONV},0,.8", f"{CONV_AGAIN},0,.6", f"{CONV},1,.9", f"{POOL},0,.5", f"{POOL},1,.6", f"{SKIP},0,.3"]
    truth = read_ground_truth(table(tmp_path / "t.csv", [*rows, f"{SKIP},1,.2", f"{BROKEN},0,.1"]), SPACE)
    assert len(truth.architectures) == 3
    np.testing.assert_allclose(truth.runs, [[0.7, 0.9], [0.5, 0.6], [0.3, 0.2]])
    np.testing.assert_allclose(truth.accuracy, [0.8, 0.55, 0.25])
    assert truth.left_out["disconnected"] == 1


def test_seeds_that_some_class_lacks_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [f"{CONV},0,.8", f"{CONV},1,.9", f"{POOL},0,.5", f"{SKIP},0,.3"]
    truth = read_ground_truth(table(tmp_path / "t.csv", rows), SPACE)
    assert truth.runs.shape == (3, 1)
    assert truth.left_out["runs of seeds that not all classes have"] == 1


def test_a_published_layout_in_per_cent_and_gzip_is_read(tmp_path: Path) -> None:
    text = "index,arch_str,cifar10\n" + "".join(
        f"{i},{a},{v}\n" for i, (a, v) in enumerate([(CONV, 93), (POOL, 85), (SKIP, 80)])
    )
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    np.testing.assert_allclose(read_ground_truth(path, SPACE, "cifar10").accuracy, [0.93, 0.85, 0.80])


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        ([f"{CONV},0,high"], "architecture,seed,test_accuracy", ("line 2", "high")),
        (["|conv_9x9~0|,0,.5"], "architecture,seed,test_accuracy", ("line 2", "nodes")),
        ([f"{CONV},0,.5"], "cell,seed,test_accuracy", ("columns", "architecture")),
        ([f"{CONV},0,.5"], "architecture,seed,test_accuracy", ("only 1 connected",)),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, rows: list[str], header: str, words: tuple[str, ...]) -> None:
    path = table(tmp_path / "bad.csv", rows, header)
    with pytest.raises(GroundTruthError) as caught:
        read_ground_truth(path, SPACE)
    assert all(word in str(caught.value) for word in ("bad.csv", *words))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GroundTruthError, match=r"nowhere\.csv.*embedded"):
        read_ground_truth(tmp_path / "nowhere.csv", SPACE)


def test_the_packaged_table_is_as_stated() -> None:
    truth = read_ground_truth("embedded", SPACE)
    assert len(truth.architectures) >= 200
    assert reliability(truth.runs) >= 0.8
    assert all(SPACE.held_out(architecture, 0.1) for architecture in truth.architectures)
    assert len(set(truth.classes)) == len(truth.classes)


def test_the_collapsed_and_the_failed_are_left_out_and_counted(tmp_path: Path) -> None:
    other = "|nor_conv_1x1~0|+|none~0|none~1|+|none~0|nor_conv_3x3~1|none~2|"
    rows = [f"{CONV},.8", f"{POOL},.5", f"{SKIP},.3", f"{other},.12", f"{other},nan"]
    truth = read_ground_truth(table(tmp_path / "t.csv", rows, "architecture,test_accuracy"), SPACE)
    assert len(truth.architectures) == 3
    assert truth.left_out["collapsed"] == 1  # .12 where chance is .10
    assert truth.left_out["runs without a finite accuracy"] == 1
    with pytest.raises(GroundTruthError, match="only 2 classes learnt anything"):
        read_ground_truth(table(tmp_path / "t.csv", [*rows[:2], f"{SKIP},.1"], "architecture,test_accuracy"), SPACE)


# ---------------------------------------------------------------------------------------------- other layouts


def api_state() -> dict[str, object]:
    """Three cells in the API's own state: trained three times, once, twice; beside CIFAR-10 another data set."""
    values = {CONV: {777: 93.0, 888: 92.0, 999: 94.0}, POOL: {888: 85.0}, SKIP: {777: 70.0, 999: 72.0}}
    infos = {}
    for index, (cell, by_seed) in enumerate(values.items()):
        results = {
            f"('cifar10', {seed})": {"eval_acc1es": {"ori-test@100": 1.0, "ori-test@199": accuracy}}
            for seed, accuracy in by_seed.items()
        }
        results["('cifar100', 777)"] = {"eval_acc1es": {"x-test@199": 50.0 + index, "x-valid@199": 40.0 + index}}
        infos[str(index)] = {"full": {"arch_str": cell, "all_results": results}, "less": {}}
    return {"meta_archs": list(values), "arch2infos": infos, "evaluated_indexes": [0, 1, 2]}


def test_the_apis_state_is_read_with_its_uneven_seeds(tmp_path: Path) -> None:
    path = tmp_path / "nasbench.json"
    path.write_text(json.dumps(api_state()))
    truth = read_ground_truth(path, SPACE)
    np.testing.assert_allclose(truth.accuracy, [0.93, 0.85, 0.71])
    assert np.isnan(truth.runs).tolist() == [[False] * 3, [False, True, True], [False, False, True]]
    assert truth.error is not None
    np.testing.assert_allclose(truth.error[[0, 2]], [0.01 / 3**0.5, 0.01])
    assert np.isnan(truth.error[1])
    np.testing.assert_allclose(read_ground_truth(path, SPACE, "cifar100/test-accuracy").accuracy, [0.5, 0.51, 0.52])
    np.testing.assert_allclose(read_ground_truth(path, SPACE, "cifar100/valid-accuracy").accuracy, [0.4, 0.41, 0.42])


def test_what_the_api_tells_of_each_architecture_is_read(tmp_path: Path) -> None:
    path = tmp_path / "nasbench.json.gz"
    infos = {
        cell: {"cifar10": [{"test-accuracy": value + seed, "train-all-time": 100.0} for seed in range(2)]}
        for cell, value in ((CONV, 93.0), (POOL, 85.0), (BROKEN, 10.0))
    }
    infos[SKIP] = {"cifar10": {"test-accuracy": 71.0}}  # type: ignore[dict-item]
    path.write_bytes(gzip.compress(json.dumps(infos).encode()))
    truth = read_ground_truth(path, SPACE)
    np.testing.assert_allclose(truth.accuracy, [0.935, 0.855, 0.71])
    assert truth.seconds == 100
    assert truth.left_out["disconnected"] == 1


@pytest.mark.parametrize(
    ("content", "column", "words"),
    [
        ("{", "test_accuracy", ("no JSON",)),
        ("[1]", "test_accuracy", ("an entry an architecture",)),
        ("{}", "accuracy", ("cifar10/test-accuracy",)),
        (f'{{"{CONV}": {{"svhn": {{}}}}}}', "test_accuracy", ("has no 'cifar10/test-accuracy'",)),
        (f'{{"{CONV}": 3}}', "test_accuracy", ("none of the known layouts",)),
    ],
)
def test_bad_json_is_named(tmp_path: Path, content: str, column: str, words: tuple[str, ...]) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(GroundTruthError) as caught:
        read_ground_truth(path, SPACE, column)
    assert all(word in str(caught.value) for word in ("bad.json", *words))


def test_a_database_of_trainings_reads_like_its_csv(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs.sqlite")
    store.create("p", {"protocol_hash": "p"})
    rows = []
    for seed in (0, 1):
        for cell, accuracy in ((CONV, 0.8), (POOL, 0.5), (SKIP, 0.3)):
            key = SPACE.canonical(SPACE.from_string(cell))
            store.add("p", Row(cell, key, seed, accuracy + seed / 10, 1.0, 1.0, 2.0))
            rows.append(f"{cell},{seed},{accuracy + seed / 10}")
    kept = read_ground_truth(store.path, SPACE)
    np.testing.assert_array_equal(kept.runs, read_ground_truth(table(tmp_path / "t.csv", rows), SPACE).runs)
    assert kept.card["seeds"] == [0, 1] and kept.seconds == 2
    with pytest.raises(GroundTruthError, match=r"nowhere\.sqlite"):
        read_ground_truth(tmp_path / "nowhere.sqlite", SPACE)


def test_a_partial_table_restricts_what_may_be_asked(tmp_path: Path) -> None:
    rows = [f"{CONV},0,.8", f"{POOL},0,.5", f"{SKIP},0,.3"]
    part = Tabulated(read_ground_truth(table(tmp_path / "t.csv", rows), SPACE), SPACE)
    twin, stranger = SPACE.from_string(CONV_AGAIN), SPACE.from_string(CONV.replace("conv_3x3", "conv_1x1"))
    assert len(part) == 3 and twin in part and stranger not in part
    assert part.accuracy(twin) == 0.8
    with pytest.raises(GroundTruthError, match="restricted to the 3 tabulated classes of nasbench201"):
        part.accuracy(stranger)
    assert all(part.sample(seed) in part for seed in range(10))
    neighbours = list(part.neighbours(SPACE.from_string(CONV)))
    assert 0 < len(neighbours) < len(list(SPACE.neighbours(SPACE.from_string(CONV))))
    assert all(cell in part for cell in neighbours)


def test_the_card_tells_reliability_and_what_was_left_out(tmp_path: Path) -> None:
    rows = [f"{CONV},0,.8", f"{CONV},1,.9", f"{POOL},0,.5", f"{POOL},1,.6", f"{SKIP},0,.3", f"{SKIP},1,.2"]
    source = table(tmp_path / "t.csv", [*rows, f"{BROKEN},0,.1", f"{BROKEN},1,.1"])
    out = tmp_path / "out" / "truth.csv"
    card = ground_truth(TruthConfig(source=str(source)), out, Console(quiet=True))
    assert card["left_out"] == {"disconnected": 1}
    assert card["runs"] == 6 and card["seeds_per_class"] == [2, 2]
    assert card["reliability_of_the_mean"]["pearson, Spearman-Brown"] == pytest.approx(0.98, abs=0.02)
    assert card["agreement_between_seeds"]["kendall"] == 1
    again = read_ground_truth(out, SPACE)
    np.testing.assert_array_equal(again.runs, read_ground_truth(source, SPACE).runs)
    assert again.card["left_out"] == {"disconnected": 1}


def test_the_card_of_a_single_seed_says_that_its_noise_is_unknown() -> None:
    cells = [SPACE.sample(seed) for seed in range(12)]
    keys = np.array([SPACE.canonical(cell) for cell in cells])
    truth = GroundTruth(tuple(cells), keys, np.linspace(0.5, 0.9, 12)[:, None], {})
    assert truth_card(truth, SPACE)["agreement_between_seeds"]["kendall"] is None
    assert any("unknown" in text for _, text in card_rows(truth_card(truth, SPACE)))
