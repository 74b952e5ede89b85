"""The repository keeps its own promises: size limits of the house, no stray copies of the version list."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "sanac").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno + 1 <= 60, node.name


def test_tracked_files_are_small() -> None:
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    sizes = [(ROOT / name).stat().st_size for name in names if name and (ROOT / name).is_file()]
    assert max(sizes) < 16e6
    assert sum(sizes) < 60e6


def test_the_constraints_are_one_file() -> None:
    assert (ROOT / "constraints.txt").samefile(ROOT / "sanac" / "data" / "constraints.txt")
