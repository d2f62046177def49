"""How the packages are built: who may import whom, and that each module says what it is and stays small."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for package in ("streaming", "models") for path in (ROOT / package).rglob("*.py"))

# Lines that no module may hold, the module that is given one, and the contract that must break.
BAD_IMPORTS = {
    "models/trainer.py": ("import streaming.events", "models know tensors only"),
    "streaming/events.py": ("import streaming.join", "the stream runs one way"),
    "streaming/label.py": ("import time", "the core asks no client, clock or command line"),
    "streaming/log_file.py": ("import torch", "no torch before the batch"),
    "streaming/outputs.py": ("import pickle", "nothing unsafe is loaded"),
    "streaming/cli_join.py": ("import faust", "Faust stays in its adapters"),
    "streaming/readiness.py": ("import models.trainer", "the scorer cannot learn"),
    "streaming/lab/verify.py": ("import streaming.join", "verify shares nothing with the join"),
}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    return subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("streaming", "models"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_the_packages_import_from_upstream_alone(copy: Path) -> None:
    linted = lint_imports(copy)
    assert linted.returncode == 0, linted.stdout
    assert " 0 broken" in linted.stdout


def test_the_guard_sees_a_bad_import(copy: Path) -> None:
    for module, (line, _) in BAD_IMPORTS.items():
        with (copy / module).open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")
    linted = lint_imports(copy)
    assert linted.returncode == 1
    for module, (line, contract) in BAD_IMPORTS.items():
        told = [text for text in linted.stdout.splitlines() if text.startswith(contract)]
        assert any("BROKEN" in text for text in told), f"{line} in {module}:\n{linted.stdout}"


def test_the_guard_asks_for_a_layer_for_every_new_module(copy: Path) -> None:
    (copy / "streaming" / "newcomer.py").write_text('"""A module that no layer knows."""\n', encoding="utf-8")
    linted = lint_imports(copy)
    assert linted.returncode == 1
    assert "newcomer" in linted.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_module_opens_with_its_door_sign_and_fits_on_a_few_screens(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    door_sign = ast.get_docstring(ast.parse(text))
    assert door_sign, "the first thing in a module says what it is and what it must not know"
    assert len(door_sign.partition("\n\n")[0].splitlines()) <= 2
    assert door_sign.splitlines()[0][0].isupper()
    assert door_sign.partition("\n\n")[0].endswith((".", ":")), "a door sign is a sentence"
    assert text.count("\n") < 400, "split it by nouns"
