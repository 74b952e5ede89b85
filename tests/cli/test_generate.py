"""`sanac generate` and `sanac evaluate` as their user runs them, on a small real pipeline."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import SanaPipeline
from PIL import Image

from tests.conftest import Ran


def test_pictures_say_how_they_were_made(sanac, pipeline: Path, tmp_path: Path) -> None:
    ran: Ran = sanac(
        "generate", pipeline, "Two red circles!", "--seed", "7", "--steps", "2", "--out", tmp_path, "--json"
    )
    assert ran.code == 0, ran.err
    (path,) = ran.json["pictures"]
    assert path == str(tmp_path / "two-red-circles-7.png")
    with Image.open(path) as image:
        assert image.size == (64, 64)
        assert image.text["prompt"] == "Two red circles!"
        assert image.text["seed"] == "7"
        assert json.loads(image.text["settings"]) == {"steps": 2, "guidance": 4.5, "size": None}


@pytest.fixture
def generated(sanac, pipeline: Path, tmp_path: Path) -> Path:
    """A folder with a picture of `a circle`, in two steps."""
    assert sanac("generate", pipeline, "a circle", "--steps", "2", "--out", tmp_path / "out").code == 0
    return tmp_path / "out" / "a-circle-0.png"


def test_a_picture_of_another_model_is_never_replaced(sanac, pipeline: Path, generated: Path, tmp_path: Path) -> None:
    before = generated.read_bytes()
    sanac("prune", pipeline, "--keep", "0-2", "--out", tmp_path / "small", "--workspace", tmp_path)
    ran: Ran = sanac("generate", tmp_path / "small", "a circle", "--steps", "2", "--out", tmp_path / "out")
    assert ran.code == 2
    assert f"{generated} would be lost" in ran.err
    assert "its model is 'pipeline', this command's is 'small'" in ran.err
    assert "--out" in ran.err
    assert generated.read_bytes() == before


def test_a_model_of_the_same_name_is_another_model(sanac, sprint: Path, generated: Path, tmp_path: Path) -> None:
    shutil.copytree(sprint, tmp_path / "other" / "pipeline")
    ran: Ran = sanac("generate", tmp_path / "other" / "pipeline", "a circle", "--out", tmp_path / "out")
    assert ran.code == 2
    assert "another model of the name pipeline" in ran.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a circle", "--steps", "1"), "its steps is 2, this command's is 1"),
        (("A circle!", "--steps", "2"), "its prompt is 'a circle', this command's is 'A circle!'"),
        (("a circle", "--steps", "2", "--guidance", "1"), "its guidance is 4.5, this command's is 1.0"),
    ],
)
def test_nor_one_of_other_settings(sanac, pipeline: Path, generated: Path, arguments, says: str) -> None:
    ran: Ran = sanac("generate", pipeline, *arguments, "--out", generated.parent)
    assert ran.code == 2
    assert says in ran.err


def test_nor_a_file_of_somebody_else(sanac, pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "a-circle-0.png").write_text("my notes")
    ran: Ran = sanac("generate", pipeline, "a circle", "--steps", "1", "--out", tmp_path)
    assert ran.code == 2
    assert "not a picture that sanac generated" in ran.err
    assert (tmp_path / "a-circle-0.png").read_text() == "my notes"


def test_the_same_picture_is_generated_again(sanac, pipeline: Path, generated: Path) -> None:
    ran: Ran = sanac("generate", pipeline, "a circle", "--steps", "2", "--batch", "3", "--out", generated.parent)
    assert ran.code == 0, ran.err


def test_several_get_a_sheet_and_each_seed_its_own_noise(sanac, pipeline: Path, tmp_path: Path) -> None:
    first: Ran = sanac("generate", pipeline, "a circle", "--n", "3", "--steps", "2", "--out", tmp_path / "a", "--json")
    names = [Path(path).name for path in first.json["pictures"]]
    assert names == ["a-circle-0.png", "a-circle-1.png", "a-circle-2.png", "sheet.png"]
    one = sanac("generate", pipeline, "a circle", "--seed", "2", "--steps", "2", "--out", tmp_path / "b", "--json")
    alone, among = (np.asarray(Image.open(path)) for path in (one.json["pictures"][0], tmp_path / "a" / names[2]))
    assert np.abs(alone.astype(int) - among).max() <= 1, "a picture depends on its seed, not on its neighbours"
    assert not np.array_equal(np.asarray(Image.open(tmp_path / "a" / names[0])), among)


def test_it_paints_what_stock_diffusers_paints(sanac, pipeline: Path, tmp_path: Path) -> None:
    sanac("generate", pipeline, "a red circle", "--seed", "3", "--steps", "3", "--out", tmp_path)
    stock = SanaPipeline.from_pretrained(pipeline)
    painted = stock(
        "a red circle",
        generator=torch.Generator().manual_seed(3),
        num_inference_steps=3,
        height=512,
        width=512,
        use_resolution_binning=False,
    ).images[0]
    mine = np.asarray(Image.open(tmp_path / "a-red-circle-3.png")).astype(int)
    assert np.abs(mine - np.asarray(painted)).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("a circle", " "), 2, "prompt 2 is empty"),
        (("a circle", "--size", "big"), 2, "--size is 'big', not a size"),
        (("a circle", "--size", "50"), 2, "not a multiple of 16"),
        (("a circle", "--n", "0"), 2, "--n"),
        (("a circle", "--device", "tpu:x"), 2, "is not a device"),
        (("a circle", "--device", "cuda:9"), 4, "not available"),
    ],
)
def test_bad_words(sanac, pipeline: Path, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    ran: Ran = sanac("generate", pipeline, *arguments, "--out", tmp_path / "out", "--steps", "1")
    assert ran.code == code
    assert says in ran.err
    assert not list((tmp_path / "out").glob("*.png")) if (tmp_path / "out").exists() else True


def test_words_outside_the_vocabulary_are_named(sanac, pipeline: Path, tmp_path: Path) -> None:
    ran: Ran = sanac("generate", pipeline, "a Zebra above a circle", "--steps", "1", "--out", tmp_path)
    assert ran.code == 0
    assert "zebra" in ran.err
    assert "above" not in ran.err


def test_a_place_that_cannot_be_written(sanac, pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for verb in (("generate", pipeline, "a circle"), ("evaluate", pipeline, "--suite", "shapes", "--images", "12")):
        ran: Ran = sanac(*verb, "--steps", "1", "--out", tmp_path / "file" / "below")
        assert ran.code == 3
        assert "cannot write" in ran.err
        assert "--out" in ran.err


def test_a_transformer_alone_paints_nothing(sanac, pipeline: Path, tmp_path: Path) -> None:
    ran: Ran = sanac("generate", pipeline / "transformer", "a circle", "--out", tmp_path / "out")
    assert ran.code == 2
    assert "--pipeline" in ran.err


def test_an_evaluation_leaves_numbers_pictures_and_lines(sanac, pipeline: Path, tmp_path: Path) -> None:
    ran: Ran = sanac(
        "evaluate", pipeline, "--suite", "shapes", "--images", "12", "--steps", "1", "--out", tmp_path, "--json"
    )
    assert ran.code == 0, ran.err
    folder = tmp_path / "measurements"
    names = ["evaluate-shapes.json", "evaluate-shapes.jsonl", "evaluate-shapes.png", "metrics.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    measured = json.loads((folder / "evaluate-shapes.json").read_text())
    assert measured["overall"] == ran.json["overall"]
    assert measured["sampling"] == {"steps": 1, "guidance": 4.5, "size": None}
    assert json.loads((folder / "metrics.json").read_text())["evaluate-shapes/overall"] == measured["overall"]["value"]
    assert len((folder / "evaluate-shapes.jsonl").read_text().splitlines()) == 12 + 6


def test_measurements_of_an_artifact_lie_in_it_and_do_not_break_its_seal(sanac, pipeline: Path, tmp_path: Path) -> None:
    sanac("prune", pipeline, "--keep", "0-2", "--out", tmp_path / "small", "--workspace", tmp_path)
    ran: Ran = sanac("evaluate", tmp_path / "small", "--suite", "shapes", "--images", "12", "--steps", "1")
    assert ran.code == 0, ran.err
    assert (tmp_path / "small" / "measurements" / "evaluate-shapes.json").is_file()
    assert sanac("inspect", tmp_path / "small").code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--suite", "geneval9"), "not one of shapes"),
        (("--suite", "shapes", "--images", "0"), "--images is 0: at least 12"),
        (("--suite", "other", "--images", "0"), "--images is 0: at least 12"),
    ],
)
def test_bad_evaluations(sanac, pipeline: Path, arguments: tuple[str, ...], says: str) -> None:
    ran: Ran = sanac("evaluate", pipeline, *arguments)
    assert ran.code == 2
    assert says in ran.err
