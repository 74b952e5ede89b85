"""Scenes show what they are asked to, the same for the same seed, and never what is held out."""

import itertools

import numpy as np
import pytest

from sanac.shapes.prompts import Content, ItemSpec, contents, is_held_out, suite
from sanac.shapes.render import coverage, pixel_box, render
from sanac.shapes.scene import GAP, draw_scene
from sanac.shapes.words import HELD_OUT, SHAPES, TAGS, Kind


def _scenes(tag: str, count: int = 60):
    asked = contents(tag)
    return [draw_scene(asked[i % len(asked)], np.random.default_rng((7, i))) for i in range(count)]


@pytest.mark.parametrize("tag", TAGS)
def test_a_scene_holds_exactly_what_is_wanted(tag: str) -> None:
    for scene in _scenes(tag):
        wanted = [(item.shape, item.color) for item in scene.content.wanted for _ in range(item.count)]
        assert [item.shape for item in scene.items] == [shape for shape, _ in wanted]
        assert all(color in {None, item.color} for item, (_, color) in zip(scene.items, wanted, strict=True))


@pytest.mark.parametrize("tag", TAGS)
def test_items_stay_inside_and_apart(tag: str) -> None:
    for scene in _scenes(tag):
        for item in scene.items:
            assert min(item.box) >= GAP - 1e-9
            assert max(item.box) <= 1 - GAP + 1e-9
        for one, other in itertools.combinations(scene.items, 2):
            assert max(abs(one.x - other.x), abs(one.y - other.y)) > one.half + other.half + GAP


def test_relations_hold_clearly() -> None:
    for scene in _scenes("position", 192):
        first, second = scene.items
        dx, dy = first.x - second.x, first.y - second.y
        sign = {"left of": -dx, "right of": dx, "above": -dy, "below": dy}[scene.content.relation or ""]
        assert sign > 0.8 * np.hypot(dx, dy)


def test_free_colours_avoid_what_is_held_out() -> None:
    drawn = [scene for tag in TAGS for scene in _scenes(tag, 200) if not scene.content.held_out]
    kinds = [tuple(dict.fromkeys(Kind(item.color, item.shape) for item in scene.items)) for scene in drawn]
    assert not any(is_held_out(found) for found in kinds)
    asked = Content("colors", (ItemSpec("triangle", "purple"),))
    assert Kind("purple", "triangle") in HELD_OUT
    assert draw_scene(asked, np.random.default_rng(0)).items[0].color == "purple", "unless it is asked for"


def test_the_same_seed_draws_the_same_picture() -> None:
    content = contents("color_attr")[5]
    one, same, other = (render(draw_scene(content, np.random.default_rng(seed))) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("shape", "share"), [("circle", np.pi / 4), ("square", 1.0), ("triangle", 0.5), ("cross", 0.36 * (2 - 0.36))]
)
def test_coverage_has_the_shapes_area(shape: str, share: float) -> None:
    box = (3.3, 5.7, 43.3, 45.7)
    assert coverage(shape, box, 50, 60).sum() == pytest.approx(share * 1600, rel=0.01)


def test_pictures_of_any_side_show_the_same_scene() -> None:
    scene = draw_scene(contents("two_object")[0], np.random.default_rng(3))
    large, small = render(scene, 128), render(scene, 32)
    averaged = large.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    assert abs(averaged - small).mean() < 2
    assert pixel_box(scene.items[0], 128) == tuple(128 * edge for edge in scene.items[0].box)


def test_every_shape_is_drawn_within_its_box() -> None:
    for shape in SHAPES:
        drawn = coverage(shape, (10, 10, 30, 30), 40, 40) > 0.5
        rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
        assert (columns[0], columns[-1] + 1) == (10, 30)
        assert rows[-1] + 1 == 30
        assert rows[0] <= 11, "a triangle's apex is thinner than a pixel"


def test_in_a_tidy_scene_items_share_the_picture_evenly() -> None:
    asked = suite("train", 300)
    for number, prompt in enumerate(asked):
        scene = draw_scene(prompt.content, np.random.default_rng((9, number)), tidy=True)
        if prompt.content.relation:
            first, second = scene.items
            assert {abs(first.x - second.x) > 0.3, abs(first.y - second.y) > 0.3} == {True, False}
            continue
        assert len({(item.x > 0.5, item.y > 0.5) for item in scene.items}) == len(scene.items)
        for item in scene.items:
            left, top, right, bottom = item.box
            assert min(left, top, 1 - right, 1 - bottom) >= GAP - 1e-9
            assert (left > 0.5) == (right > 0.5), "no item crosses the middle"
            assert (top > 0.5) == (bottom > 0.5)
