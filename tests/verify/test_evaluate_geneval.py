"""`sanac evaluate --suite geneval`, whole: sanac:tiny's images judged by small random models of the real classes."""

import json
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sanac.core.cost import ModelShape
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.progress import NullReporter
from sanac.judge.metadata import parse_task, read_metadata
from sanac.judge.results import read_results
from sanac.verbs import VERBS, make_context
from sanac.verify import cost, evaluate_job
from sanac.verify.evaluate_settings import EvaluateSettings
from sanac.verify.geneval_images import image_folder, read_samples
from sanac.verify.geneval_sheet import examples
from tests.conftest import Ran, Sanac, Shared, sanac_must
from tests.judge.small_judges import save_clip, save_mask2former

LINES: list[dict[str, Any]] = [
    {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a red circle"},
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a blue circle"},
    {
        "tag": "two_object",
        "include": [{"class": "dog", "count": 1}, {"class": "computer mouse", "count": 1}],
        "prompt": "a red circle and a blue square",
    },
    {
        "tag": "counting",
        "include": [{"class": "couch", "count": 2}],
        "exclude": [{"class": "couch", "count": 3}],
        "prompt": "two red circles",
    },
    {
        "tag": "position",
        "include": [{"class": "dog", "count": 1}, {"class": "computer mouse", "count": 1, "position": ["above", 0]}],
        "prompt": "a red circle above a blue square",
    },
    {
        "tag": "color_attr",
        "include": [{"class": "dog", "count": 1, "color": "red"}, {"class": "bench", "count": 1, "color": "blue"}],
        "prompt": "a red circle and a blue circle",
    },
]
FEW = ("--steps", "1", "--each", "2")


@pytest.fixture(scope="module")
def models(shared: Shared) -> tuple[str, ...]:
    detector, colors = shared("mask2former", save_mask2former), shared("clip-colors", save_clip)
    return "--detector", str(detector), "--color-model", str(colors)


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def evaluated(shared: Shared, models: tuple[str, ...]) -> Path:
    """The images of six prompts, two each, and what was measured; to be copied by those who change something."""
    from sanac.cli.app import run

    def making(out: Path) -> None:
        prompts = written(out.with_name("prompts.jsonl"), *LINES)
        words = ["evaluate", "sanac:tiny", "--suite", "geneval", "--prompts", prompts, *FEW, *models, "--out", out]
        assert run([str(word) for word in words]) == 0

    return shared("geneval", making)


@pytest.fixture
def copied(evaluated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluated, tmp_path / "images"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return written(tmp_path / "evaluation_metadata.jsonl", *LINES)


def test_images_are_in_geneval_s_layout_with_their_seeds(evaluated: Path) -> None:
    assert [path.name for path in sorted(evaluated.glob("0*"))] == [f"{number:05}" for number in range(6)]
    seeds = set()
    for number, line in enumerate(LINES):
        place = evaluated / f"{number:05}"
        assert json.loads((place / "metadata.jsonl").read_text()) == line
        assert [path.name for path in sorted((place / "samples").iterdir())] == ["0000.png", "0001.png"]
        for path in (place / "samples").iterdir():
            with Image.open(path) as image:
                assert (image.info["prompt"], image.info["model"]) == (line["prompt"], "sanac:tiny")
                seeds.add(image.info["seed"])
    assert len(seeds) == 12


def geneval_summary(lines: list[dict[str, Any]]) -> dict[str, float]:
    """GenEval's summary by its description: accuracy per task, their mean, % images, % prompts with any correct."""
    by_task: dict[str, list[bool]] = {}
    by_prompt: dict[str, list[bool]] = {}
    for line in lines:
        by_task.setdefault(line["tag"], []).append(line["correct"])
        by_prompt.setdefault(line["metadata"], []).append(line["correct"])
    tasks = {tag: statistics.fmean(marks) for tag, marks in by_task.items()}
    return {
        **tasks,
        "overall": statistics.fmean(tasks.values()),
        "images": statistics.fmean(line["correct"] for line in lines),
        "prompts": statistics.fmean(any(marks) for marks in by_prompt.values()),
    }


def test_the_scores_are_geneval_s_own_of_the_results_file(evaluated: Path) -> None:
    home = evaluated / "measurements"
    lines = [json.loads(line) for line in (home / "evaluate-geneval-hf.jsonl").read_text().splitlines()]
    assert [line["filename"] for line in lines[:3]] == [
        *("00000/samples/0000.png", "00000/samples/0001.png", "00001/samples/0000.png")
    ]
    expected = geneval_summary(lines)
    assert 0 < expected["images"] < 1, "all or none is right: this test shows nothing"
    measured = json.loads((home / "evaluate-geneval-hf.json").read_text())
    metrics = json.loads((home / "metrics.json").read_text())
    found = {**measured["tasks"], **{name: measured[name] for name in ("overall", "images", "prompts")}}
    assert {name: score["value"] for name, score in found.items()} == pytest.approx(expected)
    for name, value in expected.items():
        assert metrics[f"evaluate-geneval-hf/{name}"] == pytest.approx(value)
        assert metrics[f"evaluate-geneval-hf/{name}.low"] <= value <= metrics[f"evaluate-geneval-hf/{name}.high"]
    assert measured["suite"] == "geneval-hf"
    assert measured["detector"].startswith("mask2former@")
    assert str(evaluated.parent) not in json.dumps(measured), "no paths of this machine"
    with Image.open(home / "evaluate-geneval-hf.png") as sheet:
        assert sheet.width > 8 * 256


def test_details_are_the_boxes_of_the_rules(evaluated: Path) -> None:
    results = read_results(evaluated / "measurements" / "evaluate-geneval-hf.jsonl")
    scores = [(one.task.tag, box[4]) for one in results for boxes in one.details.values() for box in boxes]
    assert scores
    assert all(score > (0.9 if tag == "counting" else 0.3) for tag, score in scores)


def test_a_run_again_generates_and_judges_nothing(
    sanac: Sanac, copied: Path, prompts: Path, models: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sanac.judge.geneval_hf import GenEvalModels
    from sanac.verify import evaluate_geneval

    before = {path: path.stat().st_mtime_ns for path in copied.glob("0*/samples/*.png")}
    same = ("evaluate", "sanac:tiny", "--suite", "geneval", "--prompts", prompts, "--steps", "1", *models)
    monkeypatch.setattr(GenEvalModels, "open", None)
    monkeypatch.setattr(evaluate_geneval, "open_suite_generator", None)
    ran: Ran = sanac(*same, "--each", "2", "--out", copied, "--json")
    assert ran.code == 0, ran.err
    monkeypatch.undo()
    ran = sanac(*same, "--each", "3", "--out", copied)
    assert ran.code == 0, ran.err
    assert "12 of 18 images are there already" in ran.err
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_the_winners_of_a_search_are_judged(
    sanac: Sanac, tmp_path: Path, prompts: Path, models: tuple[str, ...]
) -> None:
    colors = models[3]
    out, same = tmp_path / "searched", ("evaluate", "sanac:tiny", "--suite", "geneval", "--prompts", prompts, *models)
    search = ("--search", "best-of", "--n", "2", "--search-verifier")
    ran: Ran = sanac(*same, *FEW, *search, "shapes", "--out", out)
    assert (ran.code, out.exists()) == (2, False)
    assert "shapes can't judge 'a red circle'" in ran.err, "its task asks for a dog"
    ran = sanac(*same, *FEW, *search, f"clip:{colors}", "--out", out, "--json")
    assert ran.code == 0, ran.err
    measured = json.loads((out / "measurements" / "evaluate-geneval-hf-best-of-2.json").read_text())
    assert (measured["search"]["strategy"], measured["search"]["n"]) == ("best-of", 2)
    assert str(tmp_path) not in json.dumps(measured), "no paths of this machine"
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    assert len([path for path in before if path.suffix == ".png" and path.parent.name == "samples"]) == 12
    ran = sanac(*same, *FEW, "--out", out)
    assert ran.code == 2
    assert ", n 2, strategy best-of, this command's is none" in ran.err
    assert before == {path: path.read_bytes() for path in out.rglob("*.*")}
    assert sanac("evaluate", out, "--suite", "geneval", *models, "--out", tmp_path / "again").code == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--steps", "2"), "its steps is 1, this command's is 2"),
        (("--steps", "1", "--seed", "1"), "its seed is '0', this command's is '1000003'"),
        (("--steps", "1", "--guidance", "2"), "its guidance is 4.5"),
    ],
)
def test_images_of_other_settings_are_not_replaced(
    sanac: Sanac, copied: Path, prompts: Path, models: tuple[str, ...], options: tuple[str, ...], why: str
) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*.*")}
    same = ("evaluate", "sanac:tiny", "--suite", "geneval", "--prompts", prompts, *models, "--out", copied)
    ran: Ran = sanac(*same, *options)
    assert ran.code == 2
    assert why in ran.err
    assert before == {path: path.read_bytes() for path in copied.rglob("*.*")}


def test_images_of_other_prompts_are_not_taken(
    sanac: Sanac, copied: Path, tmp_path: Path, models: tuple[str, ...]
) -> None:
    other = [LINES[0], {**LINES[1], "include": LINES[0]["include"]}, *LINES[2:]]
    path = written(tmp_path / "other.jsonl", *other)
    ran: Ran = sanac("evaluate", "sanac:tiny", "--suite", "geneval", "--prompts", path, *FEW, *models, "--out", copied)
    assert ran.code == 2
    assert "00001/metadata.jsonl is of another prompt" in ran.err


class Stopping(NullReporter):
    """Ctrl-C after so many images."""

    def __init__(self, label: str, after: int) -> None:
        self.label, self.after, self.now = label, after, ""

    def begin(self, label: str, total: int, unit: str = "") -> None:
        self.now = label

    def advance(self, amount: int, state: str = "") -> None:
        self.after -= amount * (self.now == self.label)
        if self.after <= 0:
            raise KeyboardInterrupt


def test_a_stopped_run_goes_on_where_it_was(
    tmp_path: Path, prompts: Path, models: tuple[str, ...], evaluated: Path
) -> None:
    out = tmp_path / "out"
    settings = EvaluateSettings(
        suite="geneval", prompts=prompts, each=2, steps=1, batch=4, detector=models[1], color_model=models[3], out=out
    )
    with pytest.raises(KeyboardInterrupt):
        evaluate_job.run("sanac:tiny", settings, make_context(Stopping("generating", 5)))
    made = {path: path.stat().st_mtime_ns for path in out.glob("0*/samples/*.png")}
    assert len(made) in {4, 8}, "whole batches"
    with pytest.raises(KeyboardInterrupt):
        evaluate_job.run("sanac:tiny", settings, make_context(Stopping("judging", 7)))
    (kept,) = out.glob("verdicts-*.json")
    assert len(json.loads(kept.read_text())["verdicts"]) == 7
    outcome = evaluate_job.run("sanac:tiny", settings, make_context(NullReporter()))
    assert made == {path: path.stat().st_mtime_ns for path in made}
    before = json.loads((evaluated / "measurements" / "evaluate-geneval-hf.json").read_text())
    assert outcome.data["overall"] == before["overall"]


def test_a_folder_is_judged_without_generating_or_changing_it(
    sanac: Sanac, copied: Path, prompts: Path, models: tuple[str, ...]
) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*.*")}
    ran: Ran = sanac("evaluate", copied, "--suite", "geneval", *models, "--steps", "3", "--json")
    assert ran.code == 0, ran.err
    assert "--steps has no effect" in ran.err
    assert before == {path: path.read_bytes() for path in copied.rglob("*.*")}
    measured = json.loads((copied / "measurements" / "evaluate-geneval-hf.json").read_text())
    assert ran.json["out"] == "sanac-out/evaluate-images"
    assert ran.json["images_of"] == "images"
    assert ran.json["overall"] == measured["overall"]
    ran = sanac("evaluate", copied, "--suite", "geneval", *models, "--prompts", prompts, "--each", "1", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["pictures"] == 6
    fewer = written(prompts, *LINES[1:], {**LINES[0], "prompt": "a green circle"})
    ran = sanac("evaluate", copied, "--suite", "geneval", *models, "--prompts", fewer)
    assert ran.code == 3
    assert "'a green circle' has no images" in ran.err
    assert "'a red circle' is not in" in ran.err


def _spoil(folder: Path) -> None:
    (folder / "00000" / "samples" / "0001.png").unlink()
    (folder / "00001" / "metadata.jsonl").unlink()
    shutil.rmtree(folder / "00002")
    (folder / "00003" / "metadata.jsonl").write_text('{"tag": "countings"}\n')
    (folder / "00003" / "samples" / "0000.png").write_text("not an image")
    data = (folder / "00004" / "samples" / "0000.png").read_bytes()
    (folder / "00004" / "samples" / "0000.png").write_bytes(data[: len(data) // 2])
    (folder / "00004" / "samples" / "1.png").write_bytes(data)
    shutil.rmtree(folder / "00005" / "samples")


def test_everything_that_is_wrong_with_a_folder_is_named(copied: Path) -> None:
    _spoil(copied)
    with pytest.raises(InvalidInput) as refused:
        read_samples(copied, None)
    told = "\n".join(refused.value.problems)
    for what in (
        "00002 is missing",
        "00000/samples/0001.png is missing",
        "00001/metadata.jsonl is missing",
        "00003/metadata.jsonl: line 1: it has no include",
        "00003/metadata.jsonl: line 1: it has no prompt",
        "00003/metadata.jsonl: line 1: include asks for nothing",
        "00003/samples/0000.png is not a readable PNG",
        "00004/samples/0000.png is not a readable PNG",
        "00004/samples/1.png and 0001.png are the same sample",
        "00005/samples/0000.png is missing",
        "00005/samples/0001.png is missing",
    ):
        assert what in told
    assert len(refused.value.problems) == 11


def test_links_out_of_a_folder_are_refused(sanac: Sanac, copied: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    for name in ("00000/samples/0000.png", "00001/metadata.jsonl", "00002/samples", "00003"):
        moved = outside / name.replace("/", "-")
        outside.mkdir(exist_ok=True)
        (copied / name).rename(moved)
        (copied / name).symlink_to(moved)
    ran: Ran = sanac("evaluate", copied, "--suite", "geneval")
    assert ran.code == 3
    for name in ("00000/samples/0000.png", "00001/metadata.jsonl", "00002/samples", "00003"):
        assert f"{name} is a link" in ran.err
    shutil.rmtree(copied / "00000")
    (copied / "00000").symlink_to(outside)
    written(outside / "metadata.jsonl", LINES[0])
    assert "00000 is a link" in sanac("evaluate", copied, "--suite", "geneval").err


def test_more_lines_than_one_and_more_images_than_asked_for(copied: Path) -> None:
    assert [one.file.relative for one in read_samples(copied, 1)][:2] == [
        *("00000/samples/0000.png", "00001/samples/0000.png")
    ]
    with pytest.raises(InvalidInput) as refused:
        read_samples(copied, 3)
    assert len(refused.value.problems) == 6
    written(copied / "00000" / "metadata.jsonl", *LINES[:2])
    with pytest.raises(InvalidInput, match="can't be judged") as refused:
        read_samples(copied, None)
    assert refused.value.problems == ("00000/metadata.jsonl has 2 lines, not one",)


def test_what_is_a_folder_of_images(copied: Path, tmp_path: Path) -> None:
    assert image_folder(str(copied)) == copied
    for word in ("sanac:tiny", str(tmp_path), "nothing/there", "nul\0", "~nobody-here/x", "x" * 5000):
        assert image_folder(word) is None


def test_a_missing_detector_ends_with_the_command_before_anything_is_generated(
    sanac: Sanac, prompts: Path, tmp_path: Path
) -> None:
    ran: Ran = sanac("evaluate", "sanac:tiny", "--suite", "geneval", "--prompts", prompts, "--json")
    assert ran.code == 4
    assert "hf download facebook/mask2former-swin-small-coco-instance" in ran.json["error"]["hint"]
    assert not (tmp_path / "sanac-out").exists()


def test_corrupt_prompts_are_all_named(sanac: Sanac, tmp_path: Path) -> None:
    path = written(tmp_path / "broken.jsonl", "{", LINES[0], {**LINES[1], "tag": "x"}, {**LINES[2], "colour": 3})
    ran: Ran = sanac("evaluate", "sanac:tiny", "--suite", "geneval", "--prompts", path, "--json")
    assert ran.code == 3
    assert [text.partition(":")[0] for text in ran.json["error"]["problems"]] == ["line 1", "line 3", "line 4"]


def test_unknown_classes_are_all_named(sanac: Sanac, tmp_path: Path, models: tuple[str, ...]) -> None:
    strange = [{**LINES[0], "include": [{"class": name, "count": 1}]} for name in ("zebra", "pizza")]
    path = written(tmp_path / "strange.jsonl", *LINES, *strange)
    ran: Ran = sanac("evaluate", "sanac:tiny", "--suite", "geneval", "--prompts", path, *models)
    assert ran.code == 3
    assert "can't judge prompts about pizza, zebra" in ran.err
    assert "--detector" in ran.err


def test_a_model_needs_prompts(sanac: Sanac) -> None:
    ran: Ran = sanac("evaluate", "sanac:tiny", "--suite", "geneval")
    assert ran.code == 2
    assert "needs --prompts FILE" in ran.err
    assert "00000/metadata.jsonl" in ran.err


def test_options_of_another_suite_are_refused(sanac: Sanac, prompts: Path) -> None:
    ran: Ran = sanac("evaluate", "sanac:tiny", "--suite", "geneval", "--prompts", prompts, "--images", "2048")
    assert ran.code == 2
    assert "--images only applies with --suite shapes" in ran.err
    idle = ("--prompts", prompts, "--each", "4", "--detector", "x", "--color-model", "y")
    ran = sanac("evaluate", "sanac:tiny", "--suite", "shapes", *idle)
    assert ran.code == 2
    for option in ("--prompts", "--each", "--detector", "--color-model"):
        assert f"{option} only applies with --suite geneval" in ran.err
    with pytest.raises(UsageError, match="each only applies"):
        EvaluateSettings(suite="shapes", each=4).check()


def test_an_artifact_has_its_images_beside_it(
    sanac: Sanac, pipeline: Path, prompts: Path, tmp_path: Path, models: tuple[str, ...]
) -> None:
    artifact = tmp_path / "home" / "small"
    sanac_must("prune", pipeline, "--keep", "0-2", "--out", artifact)
    ran: Ran = sanac(
        "evaluate", artifact, "--suite", "geneval", "--prompts", prompts, "--each", "1", "--steps", "1", *models
    )
    assert ran.code == 0, ran.err
    assert (artifact / "measurements" / "evaluate-geneval-hf.json").is_file()
    assert len(list((tmp_path / "home" / "evaluate-small").glob("0*/samples/*.png"))) == 6
    assert sanac("inspect", artifact).code == 0, "the seal is whole"


def test_examples_are_the_first_image_of_different_prompts(evaluated: Path) -> None:
    (result, *_) = read_results(evaluated / "measurements" / "evaluate-geneval-hf.jsonl")
    tasks = [parse_task({**LINES[0], "tag": tag, "prompt": str(n)}) for tag in ("counting", "colors") for n in range(9)]
    results = [replace(result, task=task) for task in tasks for _ in range(4)]
    assert examples(results) == [*range(0, 32, 4), *range(36, 68, 4)]


def _shape() -> ModelShape:
    return ModelShape(12, 1e6, 1e6, 16, 1e6, 1e6, 64)


def _settings(**how: Any) -> Iterator[EvaluateSettings]:
    for each in (None, 8):
        yield EvaluateSettings(suite="geneval", each=each, **how)


def test_the_estimate_counts_geneval_s_images(prompts: Path) -> None:
    shapes = cost.evaluate(EvaluateSettings(suite="shapes", images=2212), _shape(), 0)
    four, eight = (cost.evaluate(one, _shape(), 0) for one in _settings())
    assert eight.operations == 2 * four.operations
    assert four.operations > shapes.operations / 1.25
    (few, _) = (cost.evaluate(one, _shape(), 0) for one in _settings(prompts=prompts))
    assert few.operations == pytest.approx(four.operations * 6 / 553)
    assert len(read_metadata(prompts)) == 6
    assert VERBS["evaluate"].cost


RECIPE = """
model = "sanac:tiny"
[prune]
keep = ["0-3"]
[evaluate]
suite = "geneval"
{line}
"""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "evaluate.prompts: suite geneval needs evaluation_metadata.jsonl"),
        ('prompts = "p.jsonl"\nimages = 96', "evaluate.images only applies with evaluate.suite shapes"),
        ('prompts = "p.jsonl"\n[matrix]\n"prune.keep" = ["0-2", "0-3"]\n[target]\nmin_score_ratio = 0.9', "of shapes"),
    ],
)
def test_in_a_recipe(sanac: Sanac, tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE.format(line=line))
    ran: Ran = sanac("run", tmp_path / "recipe.toml", "--dry-run")
    assert ran.code == 2
    assert says in ran.err
