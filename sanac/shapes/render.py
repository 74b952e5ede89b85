"""The renderer: anti-aliased pixels of a scene, from each shape's signed distance to its outline."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sanac.shapes.scene import Item, Scene

Floats = NDArray[np.float32]

_ARM = 0.36  # half the width of a cross's arm, in units of half its side


def _circle(x: Floats, y: Floats) -> Floats:
    distance: Floats = 1 - np.hypot(x, y)
    return distance


def _square(x: Floats, y: Floats) -> Floats:
    return 1 - np.maximum(abs(x), abs(y))


def _triangle(x: Floats, y: Floats) -> Floats:
    """Apex on top, base below: the slanted edges run along |x| = (y + 1) / 2."""
    slant = ((y + 1) / 2 - abs(x)) / np.float32(np.hypot(1, 0.5))
    return np.minimum(1 - y, slant)


def _cross(x: Floats, y: Floats) -> Floats:
    level, upright = np.minimum(1 - abs(x), _ARM - abs(y)), np.minimum(1 - abs(y), _ARM - abs(x))
    inside: Floats = np.maximum(level, upright)
    return inside


# the distance to the outline, positive inside, of the shape that fills the box -1..1
INSIDE: dict[str, Callable[[Floats, Floats], Floats]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
}


def coverage(shape: str, box: tuple[float, float, float, float], height: int, width: int) -> Floats:
    """Coverage of each pixel by the shape that fills `box` (in pixels): a ramp one pixel wide at its outline."""
    left, top, right, bottom = box
    across, down = max(right - left, 1e-6) / 2, max(bottom - top, 1e-6) / 2
    x = (np.arange(width, dtype=np.float32) + 0.5 - (left + across)) / across
    y = (np.arange(height, dtype=np.float32) + 0.5 - (top + down)) / down
    distance = INSIDE[shape](x[None, :], y[:, None]) * min(across, down)
    return np.asarray(np.clip(distance + 0.5, 0, 1), dtype=np.float32)


def pixel_box(item: Item, size: int) -> tuple[float, float, float, float]:
    """The item's box in pixels, for an image of side `size`."""
    left, top, right, bottom = (edge * size for edge in item.box)
    return (left, top, right, bottom)


def render(scene: Scene, size: int = 64) -> NDArray[np.uint8]:
    """The rendered scene as an image (size, size, 3)."""
    picture = np.empty((size, size, 3), dtype=np.float32)
    picture[:] = scene.ground
    for item in scene.items:
        covered = coverage(item.shape, pixel_box(item, size), size, size)[..., None]
        picture += covered * (np.asarray(item.paint, dtype=np.float32) - picture)
    return np.round(picture * 255).astype(np.uint8)
