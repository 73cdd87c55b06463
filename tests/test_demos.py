"""The notebooks run, at a tiny size, in the environment of the tests."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DEMOS = Path(__file__).parent.parent / "demos"
SHOWN = {
    "continual.ipynb": "continual.md",
    "quickstart.ipynb": "report.md",
    "search.ipynb": "report.html",
    "any_model.ipynb": "accuracy without any training of this network: 8",
}


@pytest.mark.parametrize("name", sorted(path.name for path in DEMOS.glob("*.ipynb")))
def test_notebook_runs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GHN_DEMO_SIZE", "tiny")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    notebook = nbformat.read(DEMOS / name, as_version=4)
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    text = "".join(output.get("text", "") for output in outputs)
    assert SHOWN[name] in text
