"""GenEval's judge of two models: what each is asked, and which models are taken; verdicts that are kept."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, MissingResource
from sanac.judge.detections import Detection
from sanac.judge.geneval import judge
from sanac.judge.geneval_hf import COLOR_MODEL, DETECTOR, GenEvalJudge, check_vocabulary, find_models
from sanac.judge.kept_verdicts import KeptVerdicts
from sanac.judge.metadata import Clause, GenEvalTask
from sanac.judge.results import result_of
from tests.conftest import Shared
from tests.judge.small_judges import save_clip, save_mask2former
from tests.judge.worlds import at

PICTURE = np.zeros((8, 8, 3), dtype=np.uint8)
DOG = GenEvalTask("single_object", "a dog", (Clause("dog"),))
RED = GenEvalTask("colors", "a red dog", (Clause("dog", color="red"),))


@dataclass
class Eyes:
    """Detections that are known, and colours by the left edge of a box; both remember what they were asked."""

    found: Sequence[Detection]
    named: dict[float, str] = field(default_factory=dict)
    asked: list[object] = field(default_factory=list)

    def look(self, picture: np.ndarray, least: float = 0.0) -> list[Detection]:
        self.asked.append(least)
        return [one for one in self.found if one.score > least]

    def colors(self, picture: np.ndarray, found: Sequence[Detection]) -> list[str]:
        self.asked.append([one.box[0] for one in found])
        return [self.named.get(one.box[0], "black") for one in found]


def verdict(task: GenEvalTask, eyes: Eyes) -> bool:
    return GenEvalJudge(eyes, eyes).verdict(PICTURE, task).correct


def test_only_objects_whose_colour_decides_are_classified() -> None:
    dogs = [at("dog", 100 * index, 0, score=0.9 - index / 10) for index in range(4)]
    eyes = Eyes([*dogs, at("cat", 900, 0)], {-50: "red"})
    assert verdict(RED, eyes)
    assert eyes.asked == [0.3, [-50]], "the best dog, and no cat"
    eyes = Eyes(dogs, {-50: "red", 50: "red"})
    assert verdict(GenEvalTask("colors", "x", (Clause("dog", 2, "red"),)), eyes)
    assert eyes.asked == [0.3, [-50, 50]]
    eyes = Eyes(dogs)
    assert verdict(DOG, eyes)
    assert eyes.asked == [0.3], "nobody asks for a colour"
    eyes = Eyes([])
    assert not verdict(RED, eyes)
    assert eyes.asked == [0.3], "there is nothing to classify"


def test_counting_looks_for_what_is_sure() -> None:
    eyes = Eyes([at("dog", 0, 0, score=0.85), at("dog", 200, 0, score=0.95)])
    one = GenEvalTask("counting", "one dog", (Clause("dog"),), (Clause("dog", 2),))
    assert verdict(one, eyes)
    assert eyes.asked == [0.9]
    assert not verdict(replace(one, tag="single_object"), eyes)


def test_equal_detections_are_all_classified() -> None:
    """The rules order equal boxes and scores by colour: one without would come first, and fail."""
    dog = at("dog", 0, 0)
    assert verdict(RED, Eyes([dog, dog], {-50: "red"}))


def test_the_verdict_is_that_of_the_rules() -> None:
    dogs = [at("dog", 0, 0, score=0.9), at("dog", 200, 0, score=0.8), at("cat", 400, 0)]
    eyes = Eyes(dogs, {-50: "red"})
    task = GenEvalTask("color_attr", "x", (Clause("dog", color="red"), Clause("cat", color="blue")))
    found = GenEvalJudge(eyes, eyes).verdict(PICTURE, task)
    seen = [replace(dogs[0], color="red"), dogs[1], replace(dogs[2], color="black")]
    assert found == judge(task, seen)
    assert found.reasons == ("cat: 1 blue wanted, black found",)


@pytest.fixture(scope="module")
def folders(shared: Shared) -> tuple[str, str]:
    return str(shared("mask2former", save_mask2former)), str(shared("clip-colors", save_clip))


def test_the_colour_model_is_needed_where_a_colour_is_asked_for(folders: tuple[str, str]) -> None:
    plain = find_models(folders[0], "absent/clip", [DOG])
    assert plain.colors is None
    assert plain.open("cpu").verdict(PICTURE, DOG).kept is not None
    both = find_models(*folders, [RED])
    assert both.colors
    assert both.id != plain.id
    with pytest.raises(MissingResource, match="absent/clip is not on this machine"):
        find_models(folders[0], "absent/clip", [DOG, RED])


def test_missing_models_are_named_together_with_their_commands() -> None:
    with pytest.raises(MissingResource) as missing:
        find_models(DETECTOR, COLOR_MODEL, [RED])
    assert missing.value.hint == f"hf download {DETECTOR} && hf download {COLOR_MODEL}"
    assert [name in " ".join(missing.value.problems) for name in (DETECTOR, COLOR_MODEL)] == [True, True]
    with pytest.raises(MissingResource) as missing:
        find_models(DETECTOR, COLOR_MODEL, [DOG])
    assert COLOR_MODEL not in missing.value.hint


def test_every_word_that_no_detection_has_is_named(folders: tuple[str, str]) -> None:
    strange = GenEvalTask("color_attr", "x", (Clause("axolotl", color="teal"), Clause("mouse", color="red")))
    with pytest.raises(InvalidInput) as unknown:
        find_models(*folders, [RED, strange])
    assert unknown.value.problems == ("axolotl", "mouse", "teal"), "a mouse is GenEval's computer mouse"
    check_vocabulary("x", ["dog"], [RED])


def test_a_model_of_another_kind_is_no_detector(folders: tuple[str, str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        find_models(folders[1], folders[1], [DOG])
    assert "'clip', not one of mask2former" in f"{refused.value.why}"


def test_verdicts_are_kept_by_image_prompt_and_judge(tmp_path: Path) -> None:
    place = ConfinedPath(tmp_path)
    kept = KeptVerdicts(place, "one")
    result = result_of("a.png", DOG, judge(DOG, [at("dog", 0, 0)]))
    assert kept.known(b"image", DOG) is None
    kept.keep(b"image", result)
    kept.save()
    again = KeptVerdicts(place, "one")
    assert again.known(b"image", DOG) == result
    assert again.known(b"other", DOG) is None
    assert again.known(b"image", RED) is None
    assert KeptVerdicts(place, "two").known(b"image", DOG) is None
    text = kept.file.read_text()
    for old, new in (('"correct": true', '"correct": 3'), ("a dog", "a cat"), ('"filename"', '"x"'), ("{", "[")):
        kept.file.path.write_text(text.replace(old, new))
        assert KeptVerdicts(place, "one").known(b"image", DOG) is None, f"{old} -> {new}: damaged is unknown"


def test_kept_verdicts_are_written_now_and_then(tmp_path: Path) -> None:
    kept = KeptVerdicts(ConfinedPath(tmp_path), "one")
    for number in range(30):
        kept.keep(bytes([number]), result_of("a.png", DOG, judge(DOG, [])))
    assert len(KeptVerdicts(ConfinedPath(tmp_path), "one")._lines) == 25
