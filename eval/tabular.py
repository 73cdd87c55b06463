"""Tables of accuracies from files: one record a training, whatever the file's layout.

- CSV (plain or .gz): a column `architecture` or `arch_str`, a column of accuracies, and, where there are several
  trainings of one architecture, a column `seed`.
- SQLite: what `ghn-train target` keeps.
- JSON (plain or .gz), in two layouts of NAS-Bench-201 and NATS-Bench without pickles:
  * per architecture what the API's `get_more_info` returns, `{arch_str: {data set: {"test-accuracy": ...}}}`, with a
    list in place of the inner dictionary where there are several trainings;
  * the API's own state, `{"meta_archs": [...], "arch2infos": {index: {"full": {"all_results": {...}}}}}`, whose tuple
    keys (data set, seed) are written as text.
  The column is then `data set/metric`, "cifar10/test-accuracy" for example.

Shape letters: A architectures.
"""

from __future__ import annotations

import ast
import csv
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from architectures.spaces import SearchSpace
from train.database import DatabaseError
from train.run_store import RunStore

ARCHITECTURE_COLUMNS = ("architecture", "arch_str")
DEFAULT_COLUMN = "test_accuracy"
JSON_COLUMN = "cifar10/test-accuracy"  # what the default means in a JSON file
PACKAGED = {  # name -> space -> file
    "embedded": {"nasbench201": "nasbench201_fashion_mnist_5k.csv", "smash": "smash_fashion_mnist_5k.csv"}
}


class GroundTruthError(ValueError):
    """A table that is missing or cannot be read; the message names file, line and the way out."""


class Record(NamedTuple):
    """One training of one architecture.

    Attributes:
        where: the line or entry of the file, for messages.
        architecture: its string.
        seed: names the training among those of one architecture.
        accuracy: as the file has it, a share of 1 or a percentage.
        seconds: that the training took; nan where the file does not say.
    """

    where: str
    architecture: str
    seed: str
    accuracy: float
    seconds: float


class Records(NamedTuple):
    """All trainings of a file.

    Attributes:
        rows: the trainings.
        card: what is known beside them (protocol, command, hours), empty where nothing is.
        uneven: architectures have different numbers of trainings by design, not because the table is unfinished.
    """

    rows: list[Record]
    card: Mapping[str, Any]
    uneven: bool


def read_records(source: str | Path, space: SearchSpace[Any], column: str = DEFAULT_COLUMN) -> Records:
    """The trainings in a file.

    Args:
        source: a file, or the name of a table in the package ("embedded").
        space: which of the packaged tables.
        column: name of the accuracy column.

    Raises:
        GroundTruthError: a file, column or value that cannot be read, or a value that is no accuracy.
    """
    records = _read(source, space, column)
    for record in records.rows:
        if math.isfinite(record.accuracy) and not 0 <= record.accuracy <= 100:
            raise GroundTruthError(
                f"{record.where}: {column} is {record.accuracy:g}, no accuracy (a share of 1 or a percentage); "
                "name the column of accuracies with --column"
            )
    return records


def _read(source: str | Path, space: SearchSpace[Any], column: str) -> Records:
    if source in PACKAGED:
        tables = PACKAGED[str(source)]
        if space.name not in tables:
            raise GroundTruthError(
                f"ground truth {source!r}: there is none of {space.name}, only of {', '.join(tables)}"
            )
        with resources.as_file(resources.files("eval") / "tables") as folder:
            return _read_csv(folder / tables[space.name], column, str(source))
    path = Path(source)
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind in ("sqlite", "db"):
        return _read_sqlite(path, column)
    return _read_json(path, column) if kind == "json" else _read_csv(path, column, str(source))


def _text(path: Path, source: str) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")  # Excel begins with a mark
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise GroundTruthError(
            f"ground truth {source!r}: cannot be read ({error}); give a CSV, JSON or SQLite file, or "
            f"{', '.join(PACKAGED)}"
        ) from error


# --------------------------------------------------------------------------------------------------- CSV and SQLite


def _read_csv(path: Path, column: str, source: str) -> Records:
    text = _text(path, source)
    try:
        rows = _csv_rows(text, column, source)
    except csv.Error as error:
        raise GroundTruthError(f"{source}: no CSV ({error})") from error
    return Records(rows, read_card(path), False)


def _csv_rows(text: str, column: str, source: str) -> list[Record]:
    reader = csv.DictReader(text.splitlines())
    columns = reader.fieldnames or []
    architecture = next((name for name in ARCHITECTURE_COLUMNS if name in columns), None)
    if architecture is None or column not in columns:
        raise GroundTruthError(
            f"{source}: columns {', '.join(columns)}; needs {column!r} and one of {', '.join(ARCHITECTURE_COLUMNS)}"
        )
    rows = []
    for row in reader:
        where = f"{source}, line {reader.line_num}"
        seconds = _number(row.get("seconds") or "nan", where)
        rows.append(
            Record(where, row[architecture] or "", row.get("seed") or "0", _number(row[column], where), seconds)
        )
    return rows


def read_card(path: Path) -> dict[str, Any]:
    """What lies beside a CSV as .json and tells of it; empty where nothing does.

    Raises:
        GroundTruthError: a file that cannot be read, or that is no card.
    """
    card = path.with_suffix(".json")
    if path.suffix != ".csv" or not card.exists():
        return {}
    try:
        content = json.loads(card.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise GroundTruthError(f"{card}: cannot be read as the card of {path.name} ({error}); move it away") from error
    if not isinstance(content, dict):
        raise GroundTruthError(f"{card}: lies where the card of {path.name} would, but is no JSON object; move it away")
    return content


def _number(text: Any, where: str) -> float:
    """The text as a float; nothing is nan."""
    if text in ("", None):
        return math.nan
    try:
        return float(text)
    except (TypeError, ValueError) as error:
        raise GroundTruthError(f"{where}: {text!r} is no number ({error})") from error


def _read_sqlite(path: Path, column: str) -> Records:
    if column != DEFAULT_COLUMN:
        raise GroundTruthError(f"{path}: a database of trainings has the column {DEFAULT_COLUMN!r}, not {column!r}")
    store = RunStore(path)
    try:
        card, runs = store.card(), store.rows()
    except DatabaseError as error:
        raise GroundTruthError(str(error)) from error
    where = f"{path}, class "
    rows = [Record(where + run.key, run.architecture, str(run.seed), run.test_accuracy, run.seconds) for run in runs]
    return Records(rows, card, False)


# -------------------------------------------------------------------------------------------- NAS-Bench-201's JSON


def _read_json(path: Path, column: str) -> Records:
    name = JSON_COLUMN if column == DEFAULT_COLUMN else column
    data, _, metric = name.partition("/")
    if not metric:
        raise GroundTruthError(f"{path}: in a JSON file the column is 'data set/metric', {JSON_COLUMN!r} for example")
    try:
        content = json.loads(_text(path, str(path)))
    except json.JSONDecodeError as error:
        raise GroundTruthError(f"{path}: no JSON ({error})") from error
    if not isinstance(content, dict) or not content:
        raise GroundTruthError(f"{path}: expected an object with an entry an architecture")
    entries = _api_state if "arch2infos" in content else _api_infos
    try:
        rows = list(entries(str(path), content, data, metric))
    except GroundTruthError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError, SyntaxError) as error:
        raise GroundTruthError(f"{path}: is in none of the known layouts ({error!r}); see eval/tabular.py") from error
    if not rows:
        raise GroundTruthError(f"{path}: has no {name!r} for any architecture")
    return Records(rows, {}, True)


def _api_infos(path: str, content: Mapping[str, Any], data: str, metric: str) -> Iterator[Record]:
    """{arch_str: {data set: info or list of infos}}."""
    for architecture, by_data in content.items():
        infos = by_data.get(data, [])
        for seed, info in enumerate(infos if isinstance(infos, list) else [infos]):
            where = f"{path}, {architecture}"
            if metric in info:
                yield Record(where, architecture, str(seed), _number(info[metric], where), _seconds(info))


def _seconds(info: Mapping[str, Any]) -> float:
    seconds = info.get("train-all-time")
    return math.nan if seconds is None else float(seconds)


def _api_state(path: str, content: Mapping[str, Any], data: str, metric: str) -> Iterator[Record]:
    """The state of the API: 200 epochs are "full" or "200"."""
    prefix = _evaluation(data, metric)
    for index, information in content["arch2infos"].items():
        result = information["full"] if "full" in information else information["200"]
        architecture = result.get("arch_str") or content["meta_archs"][int(index)]
        trainings = [(_tuple_key(key), run) for key, run in result["all_results"].items()]
        # Seeds differ from one architecture to the next: they are numbered.
        own = sorted((int(key[1]), run) for key, run in trainings if key[0] == data)
        for number, (_, run) in enumerate(own):
            accuracies = run["eval_acc1es"]
            last = max((k for k in accuracies if k.startswith(f"{prefix}@")), key=_epoch, default=None)
            if last is not None:
                where = f"{path}, {architecture}"
                yield Record(where, architecture, str(number), _number(accuracies[last], where), math.nan)


def _evaluation(data: str, metric: str) -> str:
    """Which of the API's evaluations `get_more_info` calls by this name, for a data set."""
    if metric == "valid-accuracy":
        return "x-valid"
    if metric == "test-accuracy":
        return "ori-test" if data in ("cifar10", "cifar10-valid") else "x-test"
    raise GroundTruthError(f"metric {metric!r}: the API's state has valid-accuracy and test-accuracy")


def _tuple_key(text: str) -> tuple[str, ...]:
    """("cifar10", 777) from its Python text, or from "cifar10,777" and the like."""
    parts = ast.literal_eval(text) if text.startswith("(") else re.split(r"[,|/@ ]+", text)
    return tuple(str(part) for part in parts)


def _epoch(key: str) -> int:
    return int(key.rpartition("@")[2])
