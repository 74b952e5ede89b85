"""Verifiers: scores that are kept, ranks without a scale, questions, and judges of the real classes."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, MissingResource, UsageError
from sanac.judge.clip_score import ClipVerifier
from sanac.judge.metadata import parse_task
from sanac.judge.model_folder import CONTRASTIVE, YES_NO, open_judge
from sanac.judge.questions import CLARITY, FINAL, POTENTIAL, atoms_of, geometric_mean, parts_of
from sanac.judge.requests import requests_of
from sanac.judge.shapes import ShapesVerifier
from sanac.judge.verifier import KeptScores, Picture, RankEnsemble, Request, mean_ranks
from sanac.judge.yes_no import AtomsVerifier, YesNoModel, YesNoVerifier
from sanac.shapes.prompts import suite
from sanac.shapes.render import render
from sanac.shapes.scene import draw_scene
from tests.conftest import Shared
from tests.judge.small_judges import save_clip, save_llava, save_qwen

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(3)]
CIRCLE = Request("a red circle")


class Brightness:
    """A verifier that likes light images."""

    def __init__(self, sign: int = 1) -> None:
        self.sign, self.asked, self.id = sign, 0, f"brightness {sign}"

    def scores(self, images: Sequence[Picture], requests: Sequence[Request]) -> list[float]:
        self.asked += len(requests)
        return [self.sign * float(image.mean()) for image in images]


def test_a_score_is_computed_once_and_kept(tmp_path: Path) -> None:
    file = ConfinedPath(tmp_path) / "scores.json"
    inner = Brightness()
    kept = KeptScores(inner, file)
    first = kept.scores([*IMAGES, IMAGES[0]], [CIRCLE] * 4)
    assert inner.asked == 3, "equal images once"
    assert first == Brightness().scores([*IMAGES, IMAGES[0]], [CIRCLE] * 4)
    again = KeptScores(Brightness(), file)
    assert again.scores(IMAGES, [CIRCLE] * 3) == first[:3]
    assert again.verifier.asked == 0
    assert again.scores(IMAGES[:1], [Request("another prompt")]) == first[:1]
    assert again.verifier.asked == 1, "another prompt is another score"
    assert KeptScores(Brightness(-1), file).scores(IMAGES[:1], [CIRCLE]) == [-first[0]], (
        "another verifier's are not taken"
    )
    file.path.write_text("{")
    assert KeptScores(Brightness(), file).scores(IMAGES, [CIRCLE] * 3) == first[:3], "a damaged line is none"


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8))
def test_ranks_keep_the_order_whatever_the_scale(scores: list[float]) -> None:
    ranks = mean_ranks(np.array(scores))
    assert ranks.mean() == pytest.approx(0.5)
    assert 0 <= ranks.min() <= ranks.max() <= 1
    for one, rank in zip(scores, ranks, strict=True):
        for other, theirs in zip(scores, ranks, strict=True):
            assert (one > other) == (rank > theirs)


def test_an_ensemble_ranks_within_each_prompt() -> None:
    requests = [Request("a"), Request("a"), Request("b")]
    found = RankEnsemble((Brightness(), Brightness(-1))).scores(IMAGES, requests)
    assert found == [0.5, 0.5, 0.5], "two opposite members agree on nothing"
    one = RankEnsemble((Brightness(),)).scores(IMAGES, requests)
    assert sorted(one[:2]) == [0.0, 1.0]
    assert one[2] == 0.5


def test_atoms_say_what_a_prompt_asks_for() -> None:
    task = parse_task(
        {
            "tag": "position",
            "prompt": "two red apples left of a box",
            "include": [
                {"class": "box", "count": 1},
                {"class": "apple", "count": 2, "color": "red", "position": ["left of", 0]},
            ],
            "exclude": [{"class": "apple", "count": 3}],
        }
    )
    atoms = atoms_of(task)
    assert [atom.question.removesuffix(" Answer yes or no.") for atom in atoms] == [
        "Is there a box in this image?",
        "Are there two apples in this image?",
        "Are the apples red?",
        "Is the apple to the left of the box?",
        "Are there fewer than three apples in this image?",
    ]
    answers = {"Are the apples red?": 0.25}
    verifier = AtomsVerifier(
        lambda _image, question: answers.get(question.removesuffix(" Answer yes or no."), 1.0), "x"
    )
    request = Request(task.prompt, task)
    assert verifier.scores(IMAGES[:1], [request]) == [pytest.approx(0.25 ** (1 / 5))]
    worst, _ = min(verifier.answers(IMAGES[0], request), key=lambda pair: pair[1])
    assert worst.question == "Are the apples red? Answer yes or no."
    assert verifier.reasons(IMAGES[0], request) == ["two red apples"], "what reflection adds to the prompt"
    with pytest.raises(UsageError, match="is not known"):
        verifier.scores(IMAGES[:1], [CIRCLE])
    assert 0 < geometric_mean([0.0, 1.0]) < 1e-2


def test_the_parts_of_a_prompt_are_tasks_of_their_own() -> None:
    """The detector is asked part by part what an image lacks."""
    prompt = next(one for one in suite("test", 300) if one.content.tag == "position")
    (request,) = requests_of([prompt.text])
    first, second = prompt.content.wanted
    relation = prompt.content.relation
    assert request.task
    named = [words for words, _ in parts_of(request.task)]
    assert named == [f"a {second.shape}", f"a {first.shape}", f"a {first.shape} {relation} a {second.shape}"]
    shown = render(draw_scene(prompt.content, np.random.default_rng(0), tidy=True), 64)
    assert ShapesVerifier().reasons(shown, request) == []
    assert ShapesVerifier().reasons(np.full((64, 64, 3), 255, np.uint8), request) == named
    counted = next(one for one in suite("test", 300) if one.content.tag == "counting")
    (request,) = requests_of([counted.text])
    more = replace(
        counted.content, wanted=(replace(counted.content.wanted[0], count=counted.content.wanted[0].count + 1),)
    )
    crowded = render(draw_scene(more, np.random.default_rng(0)), 64)
    (reason,) = ShapesVerifier().reasons(crowded, request)
    assert reason.startswith("exactly ")


@pytest.fixture(scope="module")
def judges(shared: Shared) -> Path:
    """Small judges of the real classes."""

    def making(folder: Path) -> None:
        for name, save in (("clip", save_clip), ("llava", save_llava), ("qwen", save_qwen)):
            (folder / name).mkdir(parents=True)
            save(folder / name)

    return shared("judges", making)


def test_clip_s_similarity_is_transformers_own(judges: Path) -> None:
    import torch
    from PIL import Image

    verifier = ClipVerifier.open(open_judge(str(judges / "clip"), CONTRASTIVE), "cpu")
    found = verifier.scores([*IMAGES, IMAGES[0]], [CIRCLE] * 4)
    assert found[0] == found[3]
    assert len(set(found)) == 3
    inputs = verifier.processor(text=["a red circle"], images=[Image.fromarray(IMAGES[1])], return_tensors="pt")
    with torch.no_grad():
        scale = verifier.model.logit_scale.exp()
        expected = verifier.model(**inputs).logits_per_image[0, 0] / scale
    assert found[1] == pytest.approx(float(expected), abs=1e-5)


def test_clip_scores_prompts_of_any_length_together(judges: Path) -> None:
    verifier = ClipVerifier.open(open_judge(str(judges / "clip"), CONTRASTIVE), "cpu")
    requests = [CIRCLE, Request("a blue square above a cross"), Request("two cats " * 40)]
    alone = [verifier.scores([image], [request])[0] for image, request in zip(IMAGES, requests, strict=True)]
    assert verifier.scores(IMAGES, requests) == pytest.approx(alone, abs=1e-5)


def test_the_distance_of_features_is_that_of_directions_layer_by_layer(judges: Path) -> None:
    import torch
    from PIL import Image

    verifier = ClipVerifier.open(open_judge(str(judges / "clip"), CONTRASTIVE), "cpu")
    assert verifier.feature_distances(IMAGES, IMAGES) == [0, 0, 0]
    near = [np.clip(image.astype(int) + 2, 0, 255).astype(np.uint8) for image in IMAGES]
    close, far = verifier.feature_distances(IMAGES, near), verifier.feature_distances(IMAGES, IMAGES[1:] + IMAGES[:1])
    assert 0 < max(close) < min(far) < 2
    pair = verifier.processor.image_processor([Image.fromarray(one) for one in IMAGES[:2]], return_tensors="pt")
    with torch.no_grad():
        layers = verifier.model.vision_model(**pair, output_hidden_states=True).hidden_states
    assert len(layers) == 1 + 2
    cosines = [torch.nn.functional.cosine_similarity(*layer[:, 1:], dim=-1).mean() for layer in layers[1:]]
    assert far[0] == pytest.approx(1 - float(torch.stack(cosines).mean()), abs=1e-5)


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_yes_is_the_share_of_its_spellings_after_one_forward(judges: Path, name: str) -> None:
    import torch
    from PIL import Image

    judge = YesNoModel.open(open_judge(str(judges / name), YES_NO), "cpu")
    (score,) = YesNoVerifier(judge, FINAL).scores(IMAGES[:1], [CIRCLE])
    assert score == judge.probability(IMAGES[0], FINAL.format(prompt="a red circle")), "no verdict is sampled"
    assert judge.probability(IMAGES[1], "Is it?") != judge.probability(IMAGES[0], "Is it?")
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is it?"}]}
    text = judge.processor.apply_chat_template([turn], add_generation_prompt=True)
    inputs = judge.processor(images=[Image.fromarray(IMAGES[0])], text=[text], return_tensors="pt")
    with torch.no_grad():
        chances = judge.model(**inputs).logits[0, -1].softmax(dim=0)
    words = judge.processor.tokenizer.get_vocab()
    yes, no = (
        sum(float(chances[words[w]]) for w in spellings) for spellings in (("yes", "Yes", " yes"), ("no", "No", " no"))
    )
    assert judge.probability(IMAGES[0], "Is it?") == pytest.approx(yes / (yes + no), rel=1e-4)


def test_previews_are_asked_three_questions(judges: Path) -> None:
    judge = YesNoModel.open(open_judge(str(judges / "llava"), YES_NO), "cpu")
    verifier = YesNoVerifier(judge, FINAL)
    (reading,) = verifier.previews(IMAGES[:1], [CIRCLE], 0.5)
    asked = [judge.probability(IMAGES[0], text.format(prompt=CIRCLE.prompt)) for text in (CLARITY, POTENTIAL, FINAL)]
    assert [reading.clarity, reading.potential, reading.final] == asked
    assert len(set(asked)) == 3
    assert reading.final == verifier.scores(IMAGES[:1], [CIRCLE])[0]


def test_a_judge_that_is_not_here_names_the_command_that_fetches_it() -> None:
    with pytest.raises(MissingResource, match="llava-hf/absent is not on this machine") as missing:
        open_judge("llava-hf/absent", YES_NO)
    assert "hf download llava-hf/absent" in missing.value.hint


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: (folder / "modeling_x.py").write_text("raise SystemExit"), "the program modeling_x.py"),
        (lambda folder: _change(folder, auto_map={"AutoModel": "x.Y"}), "auto_map"),
        (lambda folder: _change(folder, model_type="bert"), "'bert', not one of clip"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "adapter_config.json"),
        (lambda folder: [file.unlink() for file in folder.glob("*.safetensors")], "no .safetensors weights"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
    ],
)
def test_a_judge_s_folder_is_hostile_until_it_is_known(judges: Path, tmp_path: Path, spoil: object, why: str) -> None:
    folder = Path(shutil.copytree(judges / "clip", tmp_path / "clip"))
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(InvalidInput) as refused:
        open_judge(str(folder), CONTRASTIVE)
    assert why in f"{refused.value.message} {refused.value.why} {' '.join(refused.value.problems)}"


def _change(folder: Path, **values: object) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | values))
