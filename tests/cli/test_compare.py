"""`sanac compare` as its user runs it, on small real pipelines."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import sanac as package
from tests.conftest import Ran, Shared, sanac_must

QUICK = ("--steps", "1", "--num-prompts", "2", "--images", "12")


@pytest.fixture(scope="session")
def pruned(pipeline: Path, shared: Shared) -> Path:
    """The first and the last block of the untrained pipeline."""
    return shared("ends-of-pipeline", lambda out: sanac_must("prune", pipeline, "--keep", "0,5", "--out", out))


@pytest.fixture
def compared(sanac, pipeline: Path, pruned: Path, tmp_path: Path) -> Ran:
    """A comparison of the pipeline with its pruned form."""
    ran: Ran = sanac("compare", pipeline, pruned, *QUICK, "--out", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    return ran


def test_a_sheet_pictures_and_figures_and_a_rerun_is_cached(
    sanac, compared: Ran, pipeline: Path, pruned: Path, tmp_path: Path
) -> None:
    found, home = compared.json, tmp_path / "out"
    assert found["status"] == "ok"
    first, other = found["models"]
    assert (first["blocks"], other["blocks"]) == (6, 2)
    assert other["bytes"]["transformer"] < first["bytes"]["transformer"] < first["bytes"]["pipeline"]
    assert len(first["seconds"]["each"]) == 2
    difference = other["against_first"]["difference"]
    assert difference["blocks"] == "keeps 0, 5 of the 6 blocks of pipeline; lacks 1-4"
    assert difference["only_other"] == ["prune: keep 0, 5 of 6 blocks"]
    lost = other["against_first"]["score"]
    assert lost["value"] == pytest.approx(other["score"]["value"] - first["score"]["value"])
    assert lost["low"] <= lost["value"] <= lost["high"]
    assert all(0 < one["psnr"] <= 100 and one["ssim"] <= 1 for one in other["against_first"]["similarity"])

    assert [len(one["pictures"]) for one in found["models"]] == [2, 2]
    with Image.open(home / other["pictures"][1]) as image:
        assert image.text["model"] == pruned.name
        assert image.text["prompt"] == found["prompts"][1]
        assert image.text["seed"] == "1"
        assert json.loads(image.text["settings"])["steps"] == 1
    with Image.open(home / "sheet.png") as sheet:
        assert sheet.width > 2 * 224
        assert sheet.height > 2 * 224

    ours, theirs = (home / one["pictures"][0] for one in found["models"])
    assert ours.name == theirs.name, "the same prompt and seed"

    words = ("compare", pipeline, pruned, *QUICK, "--out", home)
    stamp = (home / "sheet.png").stat().st_mtime_ns
    again: Ran = sanac(*words, "--json")
    assert again.json == {**found, "status": "cached"}
    assert (home / "sheet.png").stat().st_mtime_ns == stamp
    shown: Ran = sanac(*words)
    assert "keeps 0, 5 of the 6 blocks" in shown.out
    assert "cached" in shown.out

    theirs.unlink()
    assert sanac(*words, "--json").json["status"] == "ok", "what is not whole is made again"
    assert theirs.is_file()


def test_nothing_is_replaced_without_force(sanac, compared: Ran, pipeline: Path, pruned: Path, tmp_path: Path) -> None:
    before = (tmp_path / "out" / "compare.json").read_bytes()
    ran: Ran = sanac("compare", pipeline, pruned, *QUICK, "--seed", "1", "--out", tmp_path / "out")
    assert ran.code == 2
    assert "holds another comparison" in ran.err
    assert "--force" in ran.err
    assert (tmp_path / "out" / "compare.json").read_bytes() == before
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "sheet.png").write_text("mine")
    ran = sanac("compare", pipeline, pruned, *QUICK, "--out", tmp_path / "notes")
    assert ran.code == 2
    assert "sheet.png would be lost" in ran.err


def test_models_of_other_samplers_sizes_and_the_same_name(sanac, pipeline: Path, sprint: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sprint, tmp_path / "copy" / "pipeline"))
    config = copy / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"sample_size": 32}))
    words = ("--prompt", "a red circle", "--prompt", "a Zebra", "--images", "0", "--json")
    ran: Ran = sanac("compare", pipeline, copy, *words)
    assert ran.code == 0, ran.err
    first, other = ran.json["models"]
    assert (first["steps"], other["steps"]) == (20, 2)
    assert (first["model"], other["model"]) == (str(pipeline), str(copy))
    assert first["image_size"] != other["image_size"]
    assert other["against_first"]["similarity"] == [None, None]
    assert other["score"] is None
    assert other["against_first"]["difference"]["origins"] is None
    assert Path(ran.json["out"]).parent == Path("sanac-out")
    assert "zebra" in ran.err
    shown: Ran = sanac("compare", pipeline, copy, *words[:-1])
    assert "sampler steps: 20 -> 2" in shown.out
    assert "score" not in shown.out


def test_a_single_picture_says_that_its_time_is_no_measure(sanac, pipeline: Path, pruned: Path) -> None:
    words = ("--prompt", "a circle", "--steps", "1", "--images", "0")
    ran: Ran = sanac("compare", pipeline, pruned, *words)
    assert ran.code == 0, ran.err
    assert " s ?" in ran.out
    assert "a single picture, which includes the warm-up" in ran.out


def test_bad_words(sanac, pipeline: Path, pruned: Path, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("a circle\na square\n")
    for words, says in (
        ((pipeline,), "two models or more"),
        ((pipeline, pipeline), "named twice"),
        ((pipeline, f"{pipeline}/"), "named twice"),
        ((pipeline, pipeline / "transformer"), "transformer without the rest of its pipeline"),
        ((pipeline, pruned, "--images", "5"), "--images is 5: 12 or more"),
        ((pipeline, pruned, "--prompt", " "), "--prompt is empty"),
        ((pipeline, pruned, "--prompt", "a", "--prompts", tmp_path / "two.txt"), "contradict each other"),
        ((pipeline, pruned, "--prompts", tmp_path / "two.txt", "--num-prompts", "3"), "has only 2"),
    ):
        ran: Ran = sanac("compare", *words, "--out", tmp_path / "out")
        assert ran.code == 2, ran.err
        assert says in ran.err
        assert not (tmp_path / "out").exists()


def test_a_suite_that_does_not_apply(sanac, pipeline: Path, pruned: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(pipeline, tmp_path / "other"))
    path = other / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text().replace('"cross"', '"dog"').replace('"crosses"', '"dogs"'))
    ran: Ran = sanac("compare", pipeline, other, "--images", "12")
    assert ran.code == 2
    assert "other can't be scored with the shapes suite" in ran.err
    assert "--images 0" in ran.err


def test_in_python(pipeline: Path, pruned: Path, tmp_path: Path) -> None:
    report = package.open(pipeline, workspace=tmp_path).compare(
        pruned, prompt=["a circle"], steps=1, images=0, out=tmp_path / "out"
    )
    assert report.status == "ok"
    assert [one["blocks"] for one in report.to_json()["models"]] == [6, 2]
