"""The embedded model: real, small, and good enough that pruning shows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.nn.generation import GenerationSettings
from sanac.runtime.pipeline import DiffusionGenerator, open_generator
from sanac.verify.shapes_suite import evaluate

STOCK = """
import sys
sys.modules["sanac"] = None
from diffusers import SanaPipeline
pipe = SanaPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
image = pipe("two red circles").images[0]
print(image.size, len(set(image.getdata())) > 100)
"""


@pytest.fixture(scope="module")
def folder() -> Path:
    return locate("sanac:tiny").path


@pytest.fixture(scope="module")
def generator() -> DiffusionGenerator:
    return open_generator(open_model(locate("sanac:tiny")), "cpu")


def test_stock_diffusers_paints_with_it_and_no_sanac(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STOCK, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("True\n")


def test_it_is_small_and_in_the_family(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 12_000_000
    config = json.loads((folder / "transformer" / "config.json").read_text())
    assert (config["num_layers"], config["qk_norm"], config["patch_size"]) == (12, "rms_norm_across_heads", 1)
    assert "sanac" not in json.dumps(json.loads((folder / "model_index.json").read_text()))


def test_it_paints_what_it_is_asked_for(generator: DiffusionGenerator) -> None:
    found = evaluate(generator, 96, GenerationSettings(batch=32), 0, "tune", NULL_REPORTER)
    assert found.summary.overall.value > 0.7
    assert found.distance.frechet < 0.05


def test_without_half_of_its_blocks_it_does_not(sanac, tmp_path: Path) -> None:
    ran = sanac("prune", "sanac:tiny", "--keep", "0-2,6-8", "--out", tmp_path / "cut")
    assert ran.code == 0, ran.err
    cut = open_generator(open_model(locate(str(tmp_path / "cut"))), "cpu")
    assert evaluate(cut, 48, GenerationSettings(batch=24), 0, "tune", NULL_REPORTER).summary.overall.value < 0.6


def test_words_that_it_does_not_know_are_named(generator: DiffusionGenerator) -> None:
    assert generator.unknown_words(["A red circle!", "a mauve rhombus, please"]) == ["mauve", "rhombus", "please"]
