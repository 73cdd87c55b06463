"""The examples of the README and of the pages in docs run as they stand."""

import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = {
    name: code
    for page in PAGES
    for name, code in re.findall(r"<!-- test: ([\w ]+) -->\n```python\n(.*?)```", page.read_text(), re.DOTALL)
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)]*)\)", page.read_text()):
        file, _, anchor = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"(?m)^#+ (.*)$", there.read_text())
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, target


@pytest.mark.parametrize("name", ["api", "own space", "exits"])
def test_example_runs(name: str) -> None:
    namespace = {"images": np.zeros((2, 14, 14, 1), np.float32), "__name__": "readme"}
    exec(compile(EXAMPLES[name], f"README.md: {name}", "exec", dont_inherit=True), namespace)
    logits = np.asarray(namespace["logits"])
    assert logits.shape == (2, 10)
    assert np.isfinite(logits).all()


def test_own_space_and_op_take_about_thirty_lines() -> None:
    lines = [line for line in EXAMPLES["own space"].splitlines() if line.strip()]
    assert len(lines) <= 32


def test_smash_example_runs() -> None:
    namespace: dict[str, object] = {"__name__": "readme"}
    exec(compile(EXAMPLES["smash"], "README.md: smash", "exec", dont_inherit=True), namespace)
    assert np.shape(namespace["params"]) == (1, 1, 8, 8)
    assert str(namespace["text"]).startswith("4x4[0>1:4:k3d1g1;0,1>2:4:k3d1g1;")


def test_ground_truth_example_runs() -> None:
    namespace: dict[str, object] = {"__name__": "readme"}
    exec(compile(EXAMPLES["ground truth"], "README.md: ground truth", "exec", dont_inherit=True), namespace)
    accuracy, better = namespace["accuracy"], namespace["better"]
    assert isinstance(accuracy, float) and 0.5 < accuracy < 1
    assert isinstance(better, list)


def test_any_model_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "readme"}
    exec(compile(EXAMPLES["any model"], "README.md: any model", "exec", dont_inherit=True), namespace)
    assert np.isfinite(np.asarray(namespace["logits"])).all()
    assert "whose size only the model knows" in capsys.readouterr().out
    assert (tmp_path / "net.svg").exists()


def test_search_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "readme"}
    exec(compile(EXAMPLES["search"], "README.md: search", "exec", dont_inherit=True), namespace)
    best = namespace["best"]
    assert best.score == 0 and best.costs.parameters <= 40_000  # type: ignore[attr-defined]


def test_proxies_example_runs() -> None:
    namespace: dict[str, object] = {"__name__": "readme"}
    exec(compile(EXAMPLES["proxies"], "README.md: proxies", "exec", dont_inherit=True), namespace)
    low, high = (np.asarray(getattr(namespace["predicted"], end)) for end in ("low", "high"))
    assert low.shape == (30,) and (low <= high).all()


def test_continual_example_runs() -> None:
    namespace: dict[str, object] = {"__name__": "readme"}
    code = EXAMPLES["continual"].replace("train_images=1000", "train_images=200").replace("steps=100", "steps=2")
    exec(compile(code, "README.md: continual", "exec", dont_inherit=True), namespace)
    matrix = namespace["result"].matrix  # type: ignore[attr-defined]
    assert np.isfinite(matrix[np.tril_indices(2)]).all()


def test_deepnets_example_runs() -> None:
    namespace: dict[str, object] = {"__name__": "readme"}
    exec(compile(EXAMPLES["deepnets"], "README.md: deepnets", "exec", dont_inherit=True), namespace)
    assert "attend" in namespace["graph"].ops  # type: ignore[attr-defined]
    assert namespace["deep"].depth > namespace["space"].blocks  # type: ignore[attr-defined]


def test_darts_example_runs() -> None:
    namespace: dict[str, object] = {"__name__": "readme"}
    exec(compile(EXAMPLES["darts"], "README.md: darts", "exec", dont_inherit=True), namespace)
    assert namespace["same"] == namespace["genotype"]
    assert str(namespace["text"]).startswith(
        "sep3@0 sep3@1 | sep3@0 sep3@1 | skip@0 sep3@1 | skip@0 dil3@2 ; max3@0 max3@1 | "
    )


def test_grammar_example_runs() -> None:
    namespace: dict[str, object] = {"__name__": "readme"}
    exec(compile(EXAMPLES["grammar"], "README.md: grammar", "exec", dont_inherit=True), namespace)
    assert {"attend", "conv", "position"} <= set(namespace["graph"].ops)  # type: ignore[attr-defined]
    assert namespace["child"] != namespace["network"]
