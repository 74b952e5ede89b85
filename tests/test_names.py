"""The house's words and limits, held by the syntax tree: no name from before, no large file, no long function."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "sanac"
FILES = sorted(SOURCE.rglob("*.py"))
GONE = {  # names that stood for several things; none is left
    "Wanted", "Asked", "Stage", "Plan", "Start", "Sampling", "Choice", "Verdict", "Step", "Surgery", "Writing",
    "Finish",
    "Talk", "Silence", "Misuse", "BadInput", "Lacking", "VerdictNo", "Given", "Packing", "Wish", "Chosen", "Watcher",
    "Measuring", "Analysis", "Journal", "Saved", "Searched", "Mending", "Tried", "Allocating", "Question", "Fitting",
    "Recovery", "Lessons", "Teaching", "Drawing", "Painting", "Tally", "Pair", "Watch", "Exported", "Side", "Gave",
    "Compared", "Figure", "Verified", "Watched", "Benched", "Ranked", "Ran", "Look", "Done", "Foreseen", "Painter",
    "foresee", "announce", "lying", "carry_out", "culprit", "apart", "paint", "open_painter", "sort_out",
    "stored_values",
}  # fmt: skip
MODULES = {  # file names that nobody outside would understand
    "given", "asked", "brought", "sides", "whole", "placing", "building", "references", "traced", "surroundings",
    "ends",
    "packed", "quantizable", "workfile", "adding", "fresh", "repacked", "descent", "eight", "drawing", "free", "parent",
    "pairs", "prepare", "sense", "forecast", "doubts", "widened", "parts", "pictures", "talk", "jsonfile", "choose",
}  # fmt: skip
ONE_OWNER = {"Task", "Engine", "Graph", "Captions", "Latents", "Runner", "Quantized", "Cost", "Moment", "Share"}


def defined(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_file_keeps_the_house_rules(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert not {name.lstrip("_") for name in defined(tree)} & GONE
    assert file.stem not in MODULES
    assert text.count("\n") <= 450
    long = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 60
    ]
    assert not long


def test_other_names_have_one_owner() -> None:
    owners: dict[str, list[str]] = {}
    for file in FILES:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name in ONE_OWNER:
                owners.setdefault(node.name, []).append(file.name)
    assert all(len(files) == 1 for files in owners.values()), owners
