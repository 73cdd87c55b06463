"""Imports run one way, architectures <- ghn <- train <- eval, by the contract in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("architectures", "ghn", "train", "eval")


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the packages in `folder`, by our contract, in a process of its own."""
    command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    options = ["--no-cache", "--config", str(ROOT / "pyproject.toml")]
    return subprocess.run([sys.executable, "-c", command, *options], cwd=folder, capture_output=True, text=True)


def test_imports_run_one_way() -> None:
    result = _lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(("lower", "higher"), [("ghn", "train"), ("architectures", "eval")])
def test_an_import_against_the_layers_is_found(tmp_path: Path, lower: str, higher: str) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / lower / "helper.py").write_text(f"def late():\n    import {higher}\n")
    result = _lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{lower} is not allowed to import {higher}" in result.stdout
