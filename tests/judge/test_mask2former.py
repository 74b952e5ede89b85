"""Mask2Former's queries as detections: against transformers' class, and against a slow reading of the definition."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sanac.core.errors import InvalidInput
from sanac.judge.mask2former import Mask2FormerDetector, class_names, instances
from sanac.judge.model_folder import DETECTORS, open_judge
from tests.conftest import Shared
from tests.judge.small_judges import SEEN, save_mask2former, without_scipy

RNG = np.random.default_rng(0)
SQUARE, WIDE = (RNG.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in ((96, 96), (48, 80)))


@pytest.fixture(scope="module")
def folder(shared: Shared) -> Path:
    return shared("mask2former", save_mask2former)


@pytest.fixture(scope="module")
def detector(folder: Path) -> Mask2FormerDetector:
    return Mask2FormerDetector.open(open_judge(str(folder), DETECTORS), "cpu")


def resized(picture: np.ndarray) -> np.ndarray:
    """Normalised (3, height, width), the shorter side 64."""
    height, width = picture.shape[:2]
    scale = 64 / min(height, width)
    image = Image.fromarray(picture).resize((int(width * scale), int(height * scale)), Image.Resampling.BILINEAR)
    values = (np.asarray(image) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return values.transpose(2, 0, 1).astype(np.float32)


def enlarged(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, pixel by pixel: a pixel's centre is at a half."""
    found = np.zeros((height, width))
    rows, columns = values.shape
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            u = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            upper = values[top, left] * (1 - (u - left)) + values[top, right] * (u - left)
            lower = values[bottom, left] * (1 - (u - left)) + values[bottom, right] * (u - left)
            found[y, x] = upper * (1 - (v - top)) + lower * (v - top)
    return found


def slowly(
    classes: np.ndarray, masks: np.ndarray, seen: tuple[int, int], size: tuple[int, int], most: int = 100
) -> list[tuple[int, float, tuple[float, ...], np.ndarray]]:
    """The definition, query by query and class by class."""
    chances = np.exp(classes) / np.exp(classes).sum(axis=1, keepdims=True)
    pairs = [(chances[q, c], q, c) for q in range(len(classes)) for c in range(classes.shape[1] - 1)]
    found = []
    for chance, query, number in sorted(pairs, reverse=True)[:most]:
        padded = [-(-edge // 32) * 32 for edge in seen]
        logits = enlarged(masks[query], *padded)[: seen[0], : seen[1]]
        logits = enlarged(logits, *size)
        inside = [(y, x) for y in range(size[0]) for x in range(size[1]) if logits[y, x] > 0]
        if not inside:
            continue
        share = sum(1 / (1 + np.exp(-logits[at])) for at in inside) / len(inside)
        ys, xs = zip(*inside, strict=True)
        found.append((number, chance * share, (min(xs), min(ys), max(xs) + 1, max(ys) + 1), logits > 0))
    return found


@pytest.mark.parametrize(("seen", "size"), [((32, 32), (20, 20)), ((32, 40), (24, 30)), ((24, 32), (36, 48))])
def test_instances_are_those_of_the_definition(seen: tuple[int, int], size: tuple[int, int]) -> None:
    rng = np.random.default_rng(seen[1])
    classes, masks = rng.normal(size=(4, 4)) * 2, rng.normal(size=(4, 8, 16 if seen[1] > 32 else 8)) * 3 - 1
    masks[2] = -1  # nothing of it is inside
    found = list(instances(torch.tensor(classes), torch.tensor(masks), seen, size))
    expected = slowly(classes, masks, seen, size)
    assert len(found) == len(expected) == 3 * 3
    for (number, score, box, mask), (other, wanted, edges, inside) in zip(found, expected, strict=True):
        assert (number, box) == (other, edges)
        assert score == pytest.approx(wanted, rel=1e-5)
        assert (mask == inside).all()


def test_a_hundred_candidates_at_most_and_only_those_above_the_threshold() -> None:
    torch.manual_seed(0)
    classes, masks = torch.randn(30, 6), torch.randn(30, 8, 8)
    every = list(instances(classes, masks, (32, 32), (32, 32)))
    assert len(every) == 100
    for least in (0.05, 0.3, 0.9):
        above = list(instances(classes, masks, (32, 32), (32, 32), least))
        assert [one[:3] for one in above] == [one[:3] for one in every if one[1] > least]


@pytest.mark.parametrize("picture", [SQUARE, WIDE], ids=["square", "wide"])
def test_a_picture_is_detected_as_by_transformers_class(
    folder: Path, detector: Mask2FormerDetector, picture: np.ndarray
) -> None:
    from transformers import Mask2FormerForUniversalSegmentation

    with without_scipy():
        model = Mask2FormerForUniversalSegmentation.from_pretrained(folder).eval()
    values = resized(picture)
    seen = values.shape[1:]
    padded = np.zeros((1, 3, *(-(-edge // 32) * 32 for edge in seen)), np.float32)
    padded[0, :, : seen[0], : seen[1]] = values
    with torch.no_grad():
        output = model(pixel_values=torch.tensor(padded))
    logits = output.class_queries_logits[0].numpy(), output.masks_queries_logits[0].numpy()
    expected = slowly(*logits, seen, picture.shape[:2])
    found = detector.look(picture)
    assert len(found) == len(expected) > 5
    renamed = {"mouse": "computer mouse", "sofa": "couch"}
    for one, (number, score, box, mask) in zip(found, expected, strict=True):
        assert one.label == renamed.get(SEEN[number], SEEN[number])
        assert one.score == pytest.approx(score, abs=1e-4)
        assert np.abs(np.subtract(one.box, box)).max() <= 1
        assert (one.mask != mask).mean() < 0.01
    assert [one.score for one in detector.look(picture, 0.3)] == [one.score for one in found if one.score > 0.3]


def test_the_same_picture_has_the_same_detections(detector: Mask2FormerDetector) -> None:
    assert detector.look(SQUARE) == detector.look(SQUARE)
    assert detector.look(SQUARE) != detector.look(SQUARE[::-1].copy())


def test_classes_have_geneval_s_names(folder: Path, tmp_path: Path) -> None:
    assert class_names(open_judge(str(folder), DETECTORS)) == ("dog", "computer mouse", "couch", "bench")
    names = ["mouse", "remote", "keyboard", "aeroplane", "motorbike", "pottedplant", "diningtable", "tvmonitor", "tv"]
    copied = changed(folder, tmp_path, id2label={str(number): name for number, name in enumerate(names)})
    assert class_names(open_judge(str(copied), DETECTORS)) == (
        *("computer mouse", "tv remote", "computer keyboard", "airplane", "motorcycle"),
        *("potted plant", "dining table", "tv", "tv"),
    )


def changed(folder: Path, tmp_path: Path, **values: object) -> Path:
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    config = copied / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | values))
    return copied


@pytest.mark.parametrize("names", [None, [], {}, {"1": "dog"}, {"0": "dog\n"}, {"0": 3}, {"0": "dog", "x": "cat"}])
def test_a_detector_has_to_name_its_classes(folder: Path, tmp_path: Path, names: object) -> None:
    copied = changed(folder, tmp_path, id2label=names)
    with pytest.raises(InvalidInput, match="doesn't name its classes"):
        class_names(open_judge(str(copied), DETECTORS))


def test_weights_that_are_missing_or_nan_are_refused(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    weights = load_file(copied / "model.safetensors")
    head = weights.pop("class_predictor.weight")
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidInput, match="lacks weights") as refused:
        Mask2FormerDetector.open(open_judge(str(copied), DETECTORS), "cpu")
    assert refused.value.problems == ("class_predictor.weight",)
    save_file({**weights, "class_predictor.weight": head * np.nan}, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(InvalidInput, match="answers NaN"):
        Mask2FormerDetector.open(open_judge(str(copied), DETECTORS), "cpu").look(SQUARE)
