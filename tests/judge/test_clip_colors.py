"""Colours by CLIP: what it sees of an object, and which of ten colours it names."""

import numpy as np
import pytest
import torch

from sanac.judge.clip_colors import COLORS, ClipColors, crop
from sanac.judge.detections import Detection
from sanac.judge.model_folder import CONTRASTIVE, open_judge
from tests.conftest import Shared
from tests.judge.small_judges import save_clip

PICTURE = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def found(left: int, top: int, right: int, bottom: int, label: str = "dog") -> Detection:
    """An object that fills its box but for the left upper pixel."""
    mask = np.zeros(PICTURE.shape[:2], dtype=bool)
    mask[top:bottom, left:right] = True
    mask[top, left] = False
    return Detection(label, 0.9, (left, top, right, bottom), mask=mask)


@pytest.fixture(scope="module")
def colors(shared: Shared) -> ClipColors:
    return ClipColors.open(open_judge(str(shared("clip-colors", save_clip)), CONTRASTIVE), "cpu")


def test_what_is_not_the_object_is_grey() -> None:
    before = PICTURE.copy()
    shown = np.asarray(crop(PICTURE, found(10, 5, 30, 35)))
    assert shown.shape == (30, 20, 3)
    assert (shown[0, 0] == 0x99).all()
    assert (shown[1:] == PICTURE[6:35, 10:30]).all()
    assert (before == PICTURE).all()
    plain = Detection("dog", 0.9, (10, 5, 30, 35))
    assert (np.asarray(crop(PICTURE, plain)) == PICTURE[5:35, 10:30]).all(), "a detector without masks: the whole box"


def test_a_hair_is_shown_by_its_middle() -> None:
    assert crop(PICTURE, found(0, 3, 60, 5)).size == (16, 2)
    middle = np.asarray(crop(PICTURE, found(7, 0, 8, 40)))
    assert (middle == PICTURE[16:24, 7:8]).all()


def test_the_nearest_colour_is_named(colors: ClipColors) -> None:
    """By one forward pass per sentence and object, as the rule says it."""
    objects = [found(2, 2, 30, 30), found(20, 10, 60, 40, "wine glass"), found(0, 0, 10, 40)]
    objects += [found(x, y, x + 12, y + 12) for x, y in ((0, 0), (40, 20), (25, 5))]
    tokens, pixels = colors.processor.tokenizer, colors.processor.image_processor
    expected = []
    for one in objects:
        image = torch.nn.functional.normalize(
            colors.model.get_image_features(**pixels(crop(PICTURE, one), return_tensors="pt")).pooler_output
        )
        scores = []
        for color in COLORS:
            embeddings = []
            for text in (f"{color} {one.label}", f"{color}-colored {one.label}", f"{color} object"):
                words = tokens(f"a photo of a {text}", return_tensors="pt")
                embedding = colors.model.get_text_features(**words).pooler_output[0]
                embeddings.append(embedding / embedding.norm())
            mean = sum(embeddings) / 3
            scores.append((image[0] @ mean / mean.norm()).item())
        expected.append(COLORS[int(np.argmax(scores))])
    assert colors.colors(PICTURE, objects) == expected
    assert len(set(expected)) > 1, "the random model tells nothing apart: this test shows nothing"
    assert colors.colors(PICTURE, []) == []


def test_an_object_s_colour_does_not_depend_on_the_others(colors: ClipColors) -> None:
    objects = [found(2, 2, 30, 30), found(20, 10, 60, 40), found(30, 0, 50, 20, "cup")]
    assert colors.colors(PICTURE, objects) == [colors.colors(PICTURE, [one])[0] for one in objects]
