"""What a shell offers at the Tab key, asked as bash asks, and what is imported for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sanac.run.bundled import names
from sanac.verbs import VERBS

SCHEMES = ("int8-wo", "int4-wo", "fp8-wo")


def complete(folder: Path, *words: str) -> list[str]:
    """'type,value' of everything that is offered for the last word."""
    asked = {"_SANAC_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    command = [sys.executable, "-m", "sanac"]
    done = subprocess.run(command, cwd=folder, env=os.environ | asked, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model, a recipe and a hidden file."""
    for name in ("small", "other"):
        (tmp_path / name).mkdir()
    for name in ("recipe.toml", ".hidden", "notes.txt"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    "words", [("convert",), ("prune",), ("verify", "a", "--against"), ("compare", "a"), ("finetune", "--teacher")]
)
def test_models(words: tuple[str, ...], folder: Path) -> None:
    offered = complete(folder, "sanac", *words, "")
    assert offered == [
        "plain,sanac:tiny",
        *(f"plain,{name}" for name in ("notes.txt", "other/", "recipe.toml", "small/")),
    ]
    assert complete(folder, "sanac", *words, "s") == ["plain,sanac:tiny", "plain,small/"]
    assert complete(folder, "sanac", *words, "small/tr") == ["file,small/tr"], "the shell's own completion"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("prune", "x", "--out"), "dir"),
        (("analyze", "--data"), "dir"),
        (("gate",), "dir"),
        (("gate", "x", "--gates"), "file"),
        (("prune", "--lora"), "file"),
        (("export", "--timing-cache"), "file"),
        (("run", "x", "--workspace"), "dir"),
    ],
)
def test_paths(words: tuple[str, ...], kind: str, folder: Path) -> None:
    assert complete(folder, "sanac", *words, "") == [f"{kind},"]


def test_words_beside_paths(folder: Path) -> None:
    assert complete(folder, "sanac", "finetune", "--data", "s") == ["plain,shapes", "plain,small/"]
    assert complete(folder, "sanac", "finetune", "--data", "o") == ["dir,o"]


def test_recipes(folder: Path) -> None:
    offered = complete(folder, "sanac", "run", "")
    assert [f"plain,{name}" for name in names()] == offered[: len(names())]
    assert "plain,recipe.toml" in offered
    assert complete(folder, "sanac", "run", "dem") == ["plain,demo"]
    assert complete(folder, "sanac", "recipes", "show", "") == [f"plain,{name}" for name in names()]


def test_choices(folder: Path) -> None:
    assert complete(folder, "sanac", "finetune", "--optimizer", "ca") == ["plain,came8bit", "plain,came"]
    assert complete(folder, "sanac", "quantize", "--schemes", "") == [f"plain,{name}" for name in SCHEMES]
    rest = [f"plain,int8-wo,{name}" for name in SCHEMES if name != "int8-wo"]
    assert complete(folder, "sanac", "quantize", "--schemes", "int8-wo,") == rest
    assert complete(folder, "sanac", "generate", "sanac:tiny", "") == [""], "prompts are one's own words"


@pytest.mark.parametrize("words", ["sanac ", "sanac inspect ", "sanac run ", "sanac quantize --scheme "])
def test_no_framework_is_loaded(words: str, folder: Path) -> None:
    code = (
        "import sys\nfrom sanac.cli.app import app\n"
        "try: app(prog_name='sanac')\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'onnx', 'onnxruntime', 'numpy', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    asked = {"_SANAC_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=os.environ | asked, capture_output=True, text=True, check=True
    )
    assert "plain," in done.stdout


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if verb.takes_tokens])
def test_token_generators_are_offered_where_they_are_taken(verb: str, folder: Path) -> None:
    words = ("--suite", "shapes") if verb == "evaluate" else ()
    assert complete(folder, "sanac", *verb.split(), *words, "sanac:") == ["plain,sanac:tiny", "plain,sanac:tokens"]
