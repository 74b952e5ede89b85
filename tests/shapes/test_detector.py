"""The detector sees what was drawn, on clean pictures and on pictures like a generator's, of any size and mode."""

import time

import numpy as np
import pytest

from sanac.shapes.corrupt import BLUR, GAIN, NOISE, like_a_generators
from sanac.shapes.detector import as_rgb, detect, detect_all
from sanac.shapes.prompts import contents, suite
from sanac.shapes.regions import regions
from sanac.shapes.render import coverage, pixel_box, render
from sanac.shapes.scene import draw_scene


def _scenes(count: int):
    return [draw_scene(prompt.content, np.random.default_rng((11, i))) for i, prompt in enumerate(suite("test", count))]


def _same(scene, found) -> bool:
    return sorted((item.color, item.shape) for item in scene.items) == sorted(
        (item.color, item.shape) for item in found
    )


def test_rendered_scenes_are_read_without_error() -> None:
    for scene in _scenes(300):
        found = detect(render(scene))
        assert _same(scene, found)
        for item in scene.items:
            box = np.array(pixel_box(item, 64))
            nearest = min(found, key=lambda other: np.abs(np.array(other.box) - box).sum())
            assert (nearest.shape, nearest.color) == (item.shape, item.color)
            assert np.abs(np.array(nearest.box) - box).max() < 1.5
            true = coverage(item.shape, pixel_box(item, 64), 64, 64) > 0.5
            assert (nearest.mask & true).sum() / (nearest.mask | true).sum() > 0.75


def test_blurred_noisy_and_tinted_pictures_are_read() -> None:
    scenes = _scenes(300)
    dirty = [like_a_generators(render(scene), np.random.default_rng(i)) for i, scene in enumerate(scenes)]
    assert np.mean([_same(scene, found) for scene, found in zip(scenes, detect_all(dirty), strict=True)]) >= 0.98


def test_pictures_are_as_blurred_noisy_and_tinted_as_said() -> None:
    half = np.zeros((64, 64, 3), np.uint8)
    half[:, 32:] = 160
    half += 40
    dirty = np.stack([like_a_generators(half, np.random.default_rng(i)) for i in range(50)]).astype(float) / 255
    assert np.array_equal(dirty[3], like_a_generators(half, np.random.default_rng(3)).astype(float) / 255)
    assert dirty[:, :, :20].std(axis=(1, 2)).mean() == pytest.approx(NOISE, rel=0.05)
    across = dirty.mean(axis=(0, 1, 3))
    rise = np.diff(across)
    width = np.sqrt((rise * (np.arange(63) - 31) ** 2).sum() / rise.sum())
    assert width == pytest.approx(BLUR, rel=0.15)
    channels = dirty[:, :, 40:].mean(axis=(1, 2))
    assert 0.05 < (channels - 200 / 255).std() < GAIN


@pytest.mark.parametrize("side", [32, 48, 63, 128, 200])
def test_any_size(side: int) -> None:
    scenes = _scenes(24)
    assert np.mean([_same(scene, detect(render(scene, side))) for scene in scenes]) >= 0.95


def test_pictures_need_not_be_square() -> None:
    scene = draw_scene(contents("colors")[0], np.random.default_rng(0))
    wide = np.pad(render(scene), ((0, 0), (0, 37), (0, 0)), mode="edge")
    assert _same(scene, detect(wide))


def test_every_mode_reads_the_same() -> None:
    scene = draw_scene(contents("two_object")[1], np.random.default_rng(0))
    picture = render(scene)
    opaque = np.full((64, 64, 1), 255, np.uint8)
    for other in (
        picture.astype(np.float32) / 255,
        picture.astype(np.uint16) * 257,
        np.concatenate((picture, opaque), axis=2),
    ):
        assert [(item.shape, item.color) for item in detect(other)] == [
            (item.shape, item.color) for item in detect(picture)
        ]


def test_grey_pictures_hold_black_items() -> None:
    content = next(content for content in contents("colors") if content.wanted[0].color == "black")
    picture = render(draw_scene(content, np.random.default_rng(0))).mean(axis=2).astype(np.uint8)
    for grey in (picture, picture[..., None], np.stack((picture, np.full_like(picture, 255)), axis=2)):
        (found,) = detect(grey)
        assert (found.color, found.shape) == ("black", content.wanted[0].shape)


def test_what_is_transparent_is_not_there() -> None:
    picture = render(draw_scene(contents("colors")[0], np.random.default_rng(0)))
    assert detect(np.concatenate((picture, np.zeros((64, 64, 1), np.uint8)), axis=2)) == []


@pytest.mark.parametrize("side", [(1, 1), (7, 64), (64, 3)])
def test_pictures_too_small_hold_nothing(side: tuple[int, int]) -> None:
    assert detect(np.zeros((*side, 3), np.uint8)) == []


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_plain_picture_holds_nothing(level: int) -> None:
    assert detect(np.full((64, 64, 3), level, np.uint8)) == []


def test_noise_holds_nothing_that_is_sure() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert all(item.confidence < 0.5 for item in detect(noise))


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((64, 64, 5), np.uint8),
        np.zeros((2, 64, 64, 3), np.uint8),
        np.zeros((0, 64, 3), np.uint8),
        np.full((64, 64, 3), np.nan, np.float32),
        np.zeros((64, 64, 3), np.complex64),
        np.array([["a"]]),
        np.full((64, 64, 3), 200.0, np.float32),
        np.full((64, 64, 3), -0.8, np.float32),
    ],
    ids=["five channels", "a batch", "empty", "nan", "complex", "text", "floats to 255", "floats from -1"],
)
def test_what_is_no_picture_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not an image"):
        as_rgb(bad)


def test_a_flipped_picture_flips_what_is_found() -> None:
    for scene in _scenes(30):
        picture = render(scene)
        ahead, mirrored = detect(picture), detect(picture[:, ::-1])
        expected = sorted((item.shape, item.color, 64 - item.box[2]) for item in ahead)
        found = sorted((item.shape, item.color, item.box[0]) for item in mirrored)
        assert [item[:2] for item in found] == [item[:2] for item in expected]
        assert np.allclose([item[2] for item in found], [item[2] for item in expected], atol=1e-3)


def test_regions_are_those_of_a_flood_fill() -> None:
    rng = np.random.default_rng(5)
    for density in (0.2, 0.5, 0.6, 0.9):
        mask = rng.random((23, 31)) < density
        found = regions(mask)
        assert np.array_equal(np.sum(found, axis=0) if found else np.zeros_like(mask), mask)
        assert [part.sum() for part in found] == sorted((part.sum() for part in found), reverse=True)
        for part in found:
            assert _flood(mask, tuple(np.argwhere(part)[0])) == {tuple(place) for place in np.argwhere(part)}


def _flood(mask: np.ndarray, start: tuple[int, ...]) -> set[tuple[int, ...]]:
    seen, todo = {start}, [start]
    while todo:
        y, x = todo.pop()
        for place in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            inside = 0 <= place[0] < mask.shape[0] and 0 <= place[1] < mask.shape[1]
            if inside and mask[place] and place not in seen:
                seen.add(place)
                todo.append(place)
    return seen


def test_a_thousand_pictures_take_seconds() -> None:
    pictures = [render(scene) for scene in _scenes(100)]
    since = time.process_time()
    detect_all(pictures)
    assert time.process_time() - since < 3, "a third of the target's pace, for slow machines"
