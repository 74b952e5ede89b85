"""`sanac judge train`: from generators of both kinds, from labels, and with a vision-language model."""

import importlib.util
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sanac.core.artifact.token_model import open_any_model
from sanac.core.checkpoint.locate import locate
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context
from sanac.core.progress import NULL_REPORTER, NullReporter
from sanac.core.settings import build
from sanac.judge.judge_files import PREVIEW_JUDGE, judge_files
from sanac.judge.model_folder import YES_NO, open_judge
from sanac.judge.preview_judge import PreviewJudgeVerifier
from sanac.judge.questions import FINAL
from sanac.judge.verifier import Request
from sanac.judge.yes_no import YesNoModel, YesNoVerifier
from sanac.reinforce.agreement import FINISHED, Answer, agreements, kept_back
from sanac.reinforce.judge_job import run
from sanac.reinforce.judge_settings import JudgeTrainSettings
from sanac.reinforce.judge_task import RunExamples, from_bytes
from sanac.reinforce.previews import PreviewSource, as_pixels, plan_previews, previews_of, spread
from sanac.runtime.image_files import save_picture
from sanac.search.generators import open_any_generator
from sanac.shapes.prompts import suite
from tests.conftest import Sanac, Shared
from tests.judge.small_judges import save_llava, save_qwen

STEPS, IMAGES = 6, 20
PROMPTS = suite("train", IMAGES)


def settings_of(out: Path, **more: Any) -> JudgeTrainSettings:
    return build(JudgeTrainSettings, {"out": out, "device": "cpu", **more})


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(params=["flow", "tokens"])
def word(request: pytest.FixtureRequest, pipeline: Path, token_model: Path) -> str:
    return str(pipeline if request.param == "flow" else token_model)


def source_of(word: str, out: Path) -> PreviewSource:
    settings = settings_of(out, images=IMAGES, sampler_steps=STEPS, looks=2)
    return plan_previews(open_any_model(locate(word)), 0, [one.text for one in PROMPTS], settings, 16, NULL_REPORTER)


def labels(folder: Path, count: int = 48, *, shade: Callable[[int], int] = lambda n: 220 if n % 2 else 30) -> Path:
    """Light walls and dark ones, of which the light ones are right."""
    folder.mkdir(exist_ok=True)
    rng, lines = np.random.default_rng(0), []
    for number in range(count):
        image = np.full((32, 32, 3), shade(number), np.uint8) + rng.integers(0, 20, (32, 32, 3), dtype=np.uint8)
        save_picture(folder / f"{number}.png", image, {})
        answer = ("no", "yes")[number % 2]
        lines.append({"image": f"{number}.png", "prompt": f"a light wall, number {number // 4}", "label": answer})
    file = folder / "labels.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@given(st.integers(1, 60), st.integers(1, 100))
def test_looks_are_spread_over_the_steps(steps: int, looks: int) -> None:
    found = spread(steps, looks)
    assert len(set(found)) == len(found) <= looks
    assert list(found) == sorted(found)
    assert all(1 <= step < steps for step in found)
    assert steps == 1 or found
    assert spread(20, 8) == (2, 4, 7, 9, 11, 13, 16, 18)


@given(st.sets(st.text(min_size=1).filter(lambda text: text.isprintable()), min_size=2), st.floats(0.01, 0.99))
def test_some_prompts_are_kept_back_and_never_all(prompts: set[str], share: float) -> None:
    back = kept_back(prompts, share)
    assert 0 < len(back) < len(prompts)
    assert back < prompts
    assert kept_back(sorted(prompts), share) == back, "it follows from the texts alone"
    assert kept_back(prompts, share / 2) <= back


def test_agreement_counts_answers_and_has_prompts_as_observations() -> None:
    answers = [Answer("final", f"p{number % 4}", 0.9, float(number % 8 != 0)) for number in range(32)]
    found = agreements([*answers, Answer("clarity", "p", 0.2, 0.5)])
    assert list(found) == ["final"], "one half says neither yes nor no"
    assert (found["final"].share.value, found["final"].share.n, found["final"].answers) == (28 / 32, 4, 32)
    assert found["final"].yes == 28 / 32
    assert found["final"].auc.value == 0.5, "every answer is the same"


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.6, 0.9]), st.booleans()), min_size=2, max_size=30))
def test_the_area_under_the_curve_counts_pairs(answers: list[tuple[float, bool]]) -> None:
    ours = agreements([Answer("final", f"p{n % 3}", said, float(yes)) for n, (said, yes) in enumerate(answers)])
    pairs = [(one, other) for one, yes in answers if yes for other, also in answers if not also]
    if not pairs:
        assert ours["final"].auc is None
        return
    expected = np.mean([(one > other) + (one == other) / 2 for one, other in pairs])
    assert ours["final"].auc.value == pytest.approx(expected)
    assert 0 <= ours["final"].auc.low <= ours["final"].auc.high <= 1


def test_previews_are_the_generators_own(word: str, tmp_path: Path) -> None:
    source = source_of(word, tmp_path / "out")
    folder = ConfinedPath(tmp_path)
    parts = previews_of(source, "cpu", folder, NULL_REPORTER)
    assert [len(one.prompts) for one in parts] == [16, 4]
    first = parts[0]
    assert first.guesses.shape == (16, 3, 3, 16, 16)
    assert first.guesses.dtype == torch.uint8
    assert first.noise[0] > first.noise[1] > first.noise[2] == 0
    generator = open_any_generator(source.model, "cpu", "torch", NULL_REPORTER)
    images = next(iter(generator.generate(source.prompts, source.seeds, source.sampling)))
    assert torch.equal(first.guesses[:, -1], as_pixels(images, 16))
    (_, second) = sorted(tmp_path.glob("previews-*"), key=lambda path: -path.stat().st_size)
    second.write_bytes(b"damaged")
    again = previews_of(source, "cpu", folder, NULL_REPORTER)
    assert all(torch.equal(one.guesses, other.guesses) for one, other in zip(parts, again, strict=True))


def test_training_never_sees_a_prompt_that_is_kept_back(token_model: Path, tmp_path: Path) -> None:
    source = source_of(str(token_model), tmp_path / "out")
    runs = previews_of(source, "cpu", ConfinedPath(tmp_path), NULL_REPORTER)
    back = kept_back(source.prompts, 0.4)
    examples = RunExamples(from_bytes, runs, PROMPTS, kept_back=back)
    drawn = examples.draw(64, np.random.default_rng(0))
    assert not back & {text for three in drawn.prompts for text in three}
    measured = [text for batch in examples.held_out(7) for (text,) in batch.prompts]
    assert set(measured) == back
    assert len(measured) == 3 * sum(text in back for text in source.prompts), "at both looks and in the end"


def test_a_judge_of_two_generators_reads_previews_of_both(
    sanac: Sanac, pipeline: Path, token_model: Path, tmp_path: Path
) -> None:
    small = ("--images", "8", "--steps", "2", "--batch", "4", "--sampler-steps", "4", "--looks", "2")
    ran = sanac("judge", "train", pipeline, token_model, "--out", "mine", *small, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["held_out"] == {"prompts": 3, "of": 16}
    assert list(ran.json["heads"]) == ["clarity", "potential", "final", FINISHED]
    assert [one["answers"] for one in ran.json["heads"].values()] == [9, 9, 9, 3]
    assert "a judge learns from right images and from wrong ones" in ran.err, "untrained models are never right"
    for model in (pipeline, token_model):
        how = (
            "--search",
            "halving",
            "--n",
            "4",
            "--steps",
            "4",
            "--verifier",
            "judge:mine",
            "--previews",
            "judge:mine",
        )
        assert sanac("generate", model, "a red circle", *how, "--out", model.name).code == 0
    assert sanac("judge", "train", pipeline, token_model, "--out", "mine", *small, "--json").json["status"] == "cached"
    assert not (tmp_path / "mine.partial").exists()


class Stops(NullReporter):
    """Presses Ctrl-C when so much of something was done."""

    def __init__(self, label: str, after: int) -> None:
        self.label, self.left, self.now = label, after, ""

    def begin(self, label: str, total: int, unit: str = "") -> None:
        del total, unit
        self.now = label

    def advance(self, amount: int, state: str = "") -> None:
        del state
        self.left -= amount if self.now == self.label else 0
        if self.left <= 0:
            self.left = 10**9
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("label", "after"), [("generating", 16), ("training", 3)])
def test_a_stopped_training_continues_to_the_same_judge(
    label: str, after: int, token_model: Path, tmp_path: Path
) -> None:
    how = {"images": IMAGES, "steps": 6, "batch": 4, "sampler_steps": 4, "looks": 2}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run((str(token_model),), settings_of(whole, **how), Context())
    with pytest.raises(KeyboardInterrupt):
        run((str(token_model),), settings_of(parts, **how), Context(Stops(label, after)))
    assert not parts.exists()
    kept = sorted(path.name for path in (tmp_path / "parts.partial").iterdir())
    assert any(name.startswith("previews-") for name in kept)
    assert any(name.startswith("training-") for name in kept) == (label == "training")
    assert run((str(token_model),), settings_of(parts, **how), Context()).status == "ok"
    assert weights(whole) == weights(parts)
    assert (whole / "training.json").read_text() == (parts / "training.json").read_text()
    assert not (tmp_path / "parts.partial").exists()


def test_a_judge_learns_labels_that_can_be_told_apart(tmp_path: Path) -> None:
    file = labels(tmp_path / "data")
    outcome = run((), settings_of(tmp_path / "judge", labels=file, steps=60, batch=16), Context())
    final = outcome.data["heads"]["final"]
    assert final["agreement"]["value"] == 1.0
    assert (final["labels_yes"], final["answers"]) == (0.5, 8)
    assert final["agreement"]["low"] < 0.6, "two prompts are few"
    judge = PreviewJudgeVerifier.open(judge_files(str(tmp_path / "judge"), PREVIEW_JUDGE), "cpu")
    light, dark = np.full((40, 40, 3), 225, np.uint8), np.full((40, 40, 3), 35, np.uint8)
    good, bad = judge.scores([light, dark], [Request("a light wall")] * 2)
    assert good > 0.8
    assert bad < 0.2


def test_labels_of_previews_train_the_heads_that_they_name(tmp_path: Path) -> None:
    file = labels(tmp_path / "data", 12)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for number, line in enumerate(lines):
        if number % 3 == 0:
            line |= {"final": False, "noise": 0.5, "potential": 0.75, "label": False}
        if number % 3 == 1:
            del line["label"]
            line |= {"noise": 0.9, "clarity": "No"}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    outcome = run((), settings_of(tmp_path / "judge", labels=file, steps=2, batch=4, hold_out=0.99), Context())
    counts = {head: one["answers"] for head, one in outcome.data["heads"].items()}
    assert outcome.data["held_out"] == {"prompts": 2, "of": 3}
    assert counts["clarity"] + counts["potential"] > 0
    assert counts["final"] == counts["potential"], "of finished images and of previews with both"


WRONG = {
    "no image": ({"image": None}, "image is None, not a path"),
    "outside": ({"image": "../0.png"}, "points outside"),
    "absolute": ({"image": "/etc/passwd"}, "points outside"),
    "missing": ({"image": "none.png"}, "is no file in"),
    "half a character": ({"image": "\ud800.png"}, "is no file in"),
    "a folder": ({"image": "folder"}, "is no file in"),
    "a link": ({"image": "link.png"}, "is a link"),
    "not an image": ({"image": "text.png"}, "is not a readable PNG, JPEG, WEBP"),
    "label": ({"label": "maybe"}, "label is 'maybe', not yes, no or a number"),
    "large": ({"label": 1.5}, "label is 1.5"),
    "noise": ({"noise": "0.1"}, "noise is '0.1'"),
    "final": ({"final": 1}, "final is 1, not true or false"),
    "noisy": ({"final": True, "noise": 0.5}, "final is true, but its noise is not 0"),
    "of what noise": ({"final": False}, "there is no noise above 0"),
    "prompt": ({"prompt": " ?! "}, "not a line of text with words"),
    "control": ({"prompt": "a\x1b[2J wall"}, "not a line of text with words"),
    "unknown": ({"verdict": "yes"}, "unknown key 'verdict'"),
}


def test_all_bad_lines_are_named_at_once(sanac: Sanac, tmp_path: Path) -> None:
    file = labels(tmp_path / "data", 4)
    (tmp_path / "data" / "folder").mkdir()
    (tmp_path / "data" / "text.png").write_text("hello")
    (tmp_path / "data" / "link.png").symlink_to("0.png")
    good = json.loads(file.read_text().splitlines()[0])
    lines = [json.dumps(good | change) for change, _ in WRONG.values()]
    file.write_text("\n".join([json.dumps(good), *lines, "not json", '{"image": "0.png", "prompt": "a wall"}\n']))
    ran = sanac("judge", "train", "--labels", file, "--out", "judge", "--json")
    assert ran.code == 3
    problems = ran.json["error"]["problems"]
    for number, (_, said) in enumerate(WRONG.values(), 2):
        assert any(one.startswith(f"line {number}: ") and said in one for one in problems), (said, problems)
    assert any("not valid JSON" in one for one in problems)
    assert "there is no label" in problems[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"], "nothing was written"


def test_labels_that_teach_nothing(sanac: Sanac, tmp_path: Path) -> None:
    file = labels(tmp_path / "data", 12)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line | {"label": "yes"}) + "\n" for line in lines))
    assert "every label to train on is yes" in sanac("judge", "train", "--labels", file, "--out", "judge").err
    file.write_text("".join(json.dumps(line | {"prompt": "a wall"}) + "\n" for line in lines))
    ran = sanac("judge", "train", "--labels", file, "--out", "judge")
    assert (ran.code, "for a single prompt" in ran.err) == (3, True)


def test_out_is_replaced_only_with_force_and_only_a_judge(sanac: Sanac, tmp_path: Path) -> None:
    file = labels(tmp_path / "data", 12)
    how = ("judge", "train", "--labels", file, "--batch", "4")
    assert sanac(*how, "--steps", "1", "--out", "mine").code == 0
    before = weights(tmp_path / "mine")
    assert sanac(*how, "--steps", "1", "--out", "mine", "--json").json["status"] == "cached"
    other = sanac(*how, "--steps", "2", "--out", "mine")
    assert (other.code, "--force" in other.err, weights(tmp_path / "mine")) == (2, True, before)
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    ran = sanac(*how, "--steps", "2", "--out", "mine", "--force")
    assert (ran.code, "would delete" in ran.err) == (2, True)
    (tmp_path / "mine" / "notes.txt").unlink()
    assert sanac(*how, "--steps", "2", "--out", "mine", "--force").code == 0
    assert weights(tmp_path / "mine") != before
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"")
    assert sanac(*how, "--steps", "2", "--out", "mine").code == 2, "a damaged judge is not the result"
    (tmp_path / "next.partial").mkdir()
    ran = sanac(*how, "--steps", "1", "--out", "next")
    assert (ran.code, "didn't create what is there" in ran.err) == (2, True)
    (tmp_path / "next.partial").rename(tmp_path / "next.replaced")
    assert sanac(*how, "--steps", "1", "--out", "next").code == 2
    (tmp_path / "mine").rename(tmp_path / "last.replaced")
    assert sanac(*how, "--steps", "1", "--out", "last").code == 0, "a run was killed while it replaced a judge"
    (tmp_path / "link").symlink_to("last")
    assert sanac(*how, "--steps", "1", "--out", "link", "--force").code == 2
    (tmp_path / "empty").mkdir()
    assert sanac(*how, "--steps", "1", "--out", "empty").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "empty", "last", "link", "next.replaced"]


def test_prompts_that_the_detector_cannot_judge(sanac: Sanac, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a lighthouse\na red circle\n")
    ran = sanac("judge", "train", "sanac:tiny", "--out", "judge", "--prompts", "prompts.txt", "--json")
    assert ran.code == 3
    assert ran.json["error"]["problems"] == ["'a lighthouse'"]
    assert "--labels" in ran.json["error"]["hint"]


def test_a_model_that_generates_nan_is_refused(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(pipeline, tmp_path / "nan")
    (file,) = (tmp_path / "nan" / "transformer").glob("*.safetensors")
    tensors = load_file(file)
    tensors["proj_out.weight"][:] = torch.nan
    save_file(tensors, file, {"format": "pt"})
    ran = sanac("judge", "train", "nan", "--out", "judge", "--images", "2", "--sampler-steps", "2")
    assert (ran.code, "NaN" in ran.err) == (3, True)
    assert not (tmp_path / "judge").exists()


def test_a_training_that_diverges_is_refused(sanac: Sanac, tmp_path: Path) -> None:
    file = labels(tmp_path / "data", 12)
    how = ("judge", "train", "--labels", file, "--out", "judge", "--steps", "20", "--batch", "4")
    ran = sanac(*how, "--learning-rate", "1e30", "--json")
    assert (ran.code, ran.json["error"]["hint"]) == (3, "use a lower --learning-rate")
    assert "diverged at step" in ran.json["error"]["message"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "judge.partial"]
    assert sanac(*how, "--steps", "2").code == 0, "other settings don't meet that run's state"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "judge"]


@pytest.fixture(scope="module", params=["llava", "qwen"])
def base(request: pytest.FixtureRequest, shared: Shared) -> Path:
    """A small vision-language model of each kind."""

    def making(folder: Path) -> None:
        for name, save in (("llava", save_llava), ("qwen", save_qwen)):
            (folder / name).mkdir(parents=True)
            save(folder / name)

    return shared("yes-no-bases", making) / str(request.param)


def test_a_vision_language_model_learns_labels(base: Path, tmp_path: Path) -> None:
    file = labels(tmp_path / "data")
    how = {"labels": file, "base": str(base), "steps": 120, "batch": 4, "learning_rate": 0.005}
    outcome = run((), settings_of(tmp_path / "vlm", **how), Context())
    assert list(outcome.data["heads"]) == ["final"], "no preview is labelled"
    assert outcome.data["heads"]["final"]["agreement"]["value"] == 1.0
    assert outcome.data["judge"] == "vlm"
    written = YesNoVerifier(YesNoModel.open(open_judge(str(tmp_path / "vlm"), YES_NO), "cpu"), FINAL)
    original = YesNoVerifier(YesNoModel.open(open_judge(str(base), YES_NO), "cpu"), FINAL)
    light, dark = np.full((32, 32, 3), 230, np.uint8), np.full((32, 32, 3), 40, np.uint8)
    asked = [Request("a light wall, number 3")] * 2
    good, bad = written.scores([light, dark], asked)
    assert good > 0.5
    assert bad < 0.5
    assert original.scores([light, dark], asked) != [good, bad]
    assert not list((tmp_path / "vlm").glob("adapter*")), "adapters are merged"
    stored = {tensor.dtype for tensor in load_file(tmp_path / "vlm" / "model.safetensors").values()}
    assert stored == {tensor.dtype for tensor in load_file(base / "model.safetensors").values()}


def test_a_stopped_vision_language_training_continues(base: Path, tmp_path: Path) -> None:
    file = labels(tmp_path / "data", 12)
    how = {"labels": file, "base": str(base), "steps": 6, "batch": 2}
    run((), settings_of(tmp_path / "whole", **how), Context())
    with pytest.raises(KeyboardInterrupt):
        run((), settings_of(tmp_path / "parts", **how), Context(Stops("training", 3)))
    run((), settings_of(tmp_path / "parts", **how), Context())
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")


def test_what_a_base_needs(
    base: Path, sanac: Sanac, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = labels(tmp_path / "data", 12)
    how = ("judge", "train", "--labels", file, "--out", "vlm", "--steps", "1")
    assert sanac(*how, "--base", pipeline).code == 3, "no vision-language model"
    assert sanac(*how, "--base", "nobody/nothing").code == 4
    tensors = {name: tensor * torch.nan for name, tensor in load_file(base / "model.safetensors").items()}
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in base.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    save_file(tensors, broken / "model.safetensors", {"format": "pt"})
    ran = sanac(*how, "--base", broken)
    assert (ran.code, "answers NaN" in ran.err) == (3, True)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "peft" else found(name, *rest))
    ran = sanac(*how, "--base", base)
    assert (ran.code, "peft is not installed" in ran.err, "pip install" in ran.err) == (4, True, True)
    assert not (tmp_path / "vlm").exists()
