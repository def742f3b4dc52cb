"""What pyproject.toml says of the package is so: its folders, what it imports, its version."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hfft

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
# What a package is called that is imported under another name, or always comes with another one.
PACKAGE_OF = {
    "PIL": "pillow",
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "markupsafe": "jinja2",
    "tokenizers": "transformers",
    "torchvision": "timm",
}


def folders() -> dict[str, Path]:
    """Return every package by name; tasks are installed as hfft.tasks."""
    found = [
        path.parent for path in (ROOT / "hfft").rglob("__init__.py") if not path.is_relative_to(ROOT / "hfft/tasks")
    ]
    found += [path.parent for path in (ROOT / "tasks").rglob("__init__.py")]
    names = {folder: ".".join(folder.relative_to(ROOT).parts) for folder in found}
    return {name if name.startswith("hfft") else f"hfft.{name}": folder for folder, name in names.items()}


def test_every_folder_of_the_package_is_in_the_wheel():
    assert sorted(PYPROJECT["tool"]["setuptools"]["packages"]) == sorted(folders())


def test_every_import_is_a_declared_dependency():
    project = PYPROJECT["project"]
    extras = [
        name for extra in ("onnx", "quantize", "search", "track") for name in project["optional-dependencies"][extra]
    ]
    declared = {re.split(r"[\[>=<]", name)[0] for name in [*project["dependencies"], *extras]}
    imported = set()
    for folder in folders().values():
        for path in folder.glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    imported.add(node.module.split(".")[0])
    third_party = imported - {*sys.stdlib_module_names, "hfft"}
    assert {"torch", "numpy"} <= third_party
    assert {PACKAGE_OF.get(name, name) for name in third_party} <= declared


def test_every_dependency_has_a_lower_bound_that_can_be_tested():
    project = PYPROJECT["project"]
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["test"]]:
        assert re.fullmatch(r"[\w.-]+>=[\d.]+(,<\d+)?", requirement), requirement


@pytest.mark.parametrize(
    "command", [["-m", "hfft", "--version"], ["-c", "import hfft; print('hfft', hfft.__version__)"]]
)
def test_the_version_is_one(command: list[str], tmp_path: Path):
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == f"hfft {hfft.__version__}\n"
    assert "version" in PYPROJECT["project"]["dynamic"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "hfft.__version__"}
