"""The wheel holds what it must, and works from a folder whose own train.py and eval.py shadow ours."""

import configparser
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = ("architectures", "ghn", "train", "eval")
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")

IMPORT_ALL = """
import importlib, pkgutil, sys
import architectures, ghn

for package in (architectures, ghn):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
    print(package.__file__)
print(sorted({name.partition(".")[0] for name in sys.modules} & {"train", "eval"}))
"""


def _run(*command: str, cwd: Path, path: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{command}:\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources with the installed setuptools (so without a network)."""
    try:
        version = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("setuptools is not installed: it builds the wheel")
    if int(version.split(".")[0]) < 77:
        pytest.skip(f"setuptools {version} cannot read this pyproject.toml: 77 or later builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    sources = folder / "sources"
    sources.mkdir()
    for package in PACKAGES:
        shutil.copytree(ROOT / package, sources / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "NOTICE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, sources)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder))
    _run(*PIP, "wheel", *options, str(sources), cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder into which the wheel is installed."""
    target = wheel.parent / "installed"
    _run(*PIP, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel), cwd=wheel.parent)
    return target


@pytest.fixture
def user_folder(tmp_path: Path) -> Path:
    """A user's folder with a train.py and an eval.py that must not be imported."""
    for name in ("train", "eval"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('the user\\'s own {name}.py was imported')\n")
    return tmp_path


def test_every_package_is_listed() -> None:
    present = {file.parent.relative_to(ROOT) for package in PACKAGES for file in (ROOT / package).rglob("__init__.py")}
    assert {".".join(folder.parts) for folder in present} == set(CONFIG["tool"]["setuptools"]["packages"])


def test_wheel_holds_every_module_and_the_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    patterns = ["**/*.py", "py.typed", "data/*.npz", "checkpoints/*", "tables/*", "report.css"]
    files = {file for package in PACKAGES for pattern in patterns for file in (ROOT / package).glob(pattern)}
    expected = {file.relative_to(ROOT).as_posix() for file in files if file.is_file()}
    assert {f"{package}/py.typed" for package in PACKAGES} | {"train/data/fashion_mnist_5k_1k.npz"} <= expected
    metadata = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
    assert names - metadata == expected
    assert {"LICENSE", "NOTICE"} <= {Path(name).name for name in metadata}


def test_entry_points_name_modules_of_the_wheel(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
    parser = configparser.ConfigParser()
    parser.read_string(archive.read(name).decode())
    scripts = dict(parser["console_scripts"])
    assert scripts == {"ghn-train": "train.cli:main", "ghn-eval": "eval.cli:main"}
    assert {f"{target.partition(':')[0].replace('.', '/')}.py" for target in scripts.values()} <= set(
        archive.namelist()
    )


def test_libraries_import_beside_a_users_own_train_and_eval(installed: Path, user_folder: Path) -> None:
    script = user_folder / "script.py"
    script.write_text(IMPORT_ALL)
    *files, imported = _run(sys.executable, str(script), cwd=user_folder, path=installed).splitlines()
    assert files == [str(installed / package / "__init__.py") for package in ("architectures", "ghn")]
    assert imported == "[]"


@pytest.mark.parametrize("script", ["ghn-train", "ghn-eval"])
def test_console_scripts_start_beside_a_users_own_train_and_eval(
    installed: Path, user_folder: Path, script: str
) -> None:
    assert "usage" in _run(str(installed / "bin" / script), "--help", cwd=user_folder, path=installed).lower()
