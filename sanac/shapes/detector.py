"""The shapes detector: class, colour, box, mask and confidence of every item in an image. No training."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sanac.shapes.regions import regions
from sanac.shapes.render import coverage
from sanac.shapes.words import COLORS, SHAPES

Floats = NDArray[np.float32]

SMALLEST = 0.006  # minimum area of a region, as a share of the image
FAINTEST = 0.45  # minimum share of a colour's full strength for a pixel of an item
_BEYOND = 0.1  # tolerance for floats beyond 0..1


@dataclass(frozen=True, slots=True)
class Found:
    """One detected item; box in pixels (left, top, right, bottom), mask of the image's size."""

    shape: str
    color: str
    box: tuple[float, float, float, float]
    confidence: float
    mask: NDArray[np.bool_]


def detect(picture: NDArray[np.generic]) -> list[Found]:
    """The items in one image of any size and mode, most confident first.

    The background is the image's median colour. A pixel's difference from it points towards the item's colour for any
    coverage of the pixel, and its length in that direction is the coverage, so edges keep their colour and outlines
    their sub-pixel position. Each region of one colour is compared with the four shapes drawn into its box; the
    confidence is the best soft overlap (intersection over union).
    """
    colors = as_rgb(picture)
    height, width = colors.shape[:2]
    if min(height, width) < 8:
        return []  # fewer pixels than any shape needs
    which, share = _unmix(_smooth(colors))
    found = []
    for number, color in enumerate(COLORS):
        mine = (which == number) & (share > FAINTEST)
        if mine.sum() < SMALLEST * mine.size:
            continue
        for region in regions(mine):
            if region.sum() < SMALLEST * region.size:
                break
            found.append(_recognise(region, share, color))
    return sorted(found, key=lambda item: -item.confidence)


def detect_all(pictures: Iterable[NDArray[np.generic]]) -> list[list[Found]]:
    """The items in each image."""
    return [detect(picture) for picture in pictures]


def as_rgb(picture: NDArray[np.generic]) -> Floats:
    """The image as (height, width, 3) in 0..1, from grey, grey + alpha, RGB or RGBA (uint8, uint16, bool or float)."""
    pixels = np.asarray(picture)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in {1, 2, 3, 4} or 0 in pixels.shape:
        raise ValueError(f"not an image: its shape is {np.asarray(picture).shape}")
    if pixels.dtype.kind == "u":
        values = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    elif pixels.dtype.kind in "fb":
        values = pixels.astype(np.float32)
    else:
        raise ValueError(f"not an image: its values are {pixels.dtype}")
    if not np.isfinite(values).all():
        raise ValueError("not an image: it has NaN or infinity")
    if values.min() < -_BEYOND or values.max() > 1 + _BEYOND:
        raise ValueError(f"not an image: its values range from {values.min():g} to {values.max():g}, not from 0 to 1")
    values = np.clip(values, 0, 1).astype(np.float32)
    if values.shape[2] in {2, 4}:  # transparent pixels are composited on white
        alpha = values[..., -1:]
        values = values[..., :-1] * alpha + (1 - alpha)
    return np.asarray(np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values, dtype=np.float32)


def _smooth(values: Floats) -> Floats:
    """A binomial blur (1 2 1 per axis), so that single-pixel noise doesn't split regions."""
    padded = np.pad(values, [(1, 1), (1, 1), (0, 0)][: values.ndim], mode="edge")
    rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return np.asarray((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4, dtype=np.float32)


def _unmix(colors: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Per pixel, the index of the colour that its difference from the background points to, and its coverage."""
    ground = np.median(colors.reshape(-1, 3), axis=0)
    towards = np.asarray(list(COLORS.values()), dtype=np.float32) - ground
    strength = np.linalg.norm(towards, axis=1)
    along = (colors - ground) @ (towards / strength[:, None]).T  # (height, width, colours)
    which = along.argmax(axis=2)
    share = np.take_along_axis(along, which[..., None], axis=2)[..., 0] / strength[which]
    return which, share.astype(np.float32)


def _recognise(region: NDArray[np.bool_], share: Floats, color: str) -> Found:
    """Match a region with the shapes drawn into its box. Its soft edge is used, so the box has sub-pixel precision."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    window = (slice(max(rows[0] - 1, 0), rows[-1] + 2), slice(max(columns[0] - 1, 0), columns[-1] + 2))
    inside = region[window]
    soft = np.where(_grown(inside), np.clip(share[window] / np.median(share[window][inside]), 0, 1), 0)
    left, right = _extent(soft.max(axis=0))
    top, bottom = _extent(soft.max(axis=1))
    drawn = ((shape, _smooth(coverage(shape, (left, top, right, bottom), *soft.shape))) for shape in SHAPES)
    confidence, shape = max((_overlap(soft, template), shape) for shape, template in drawn)
    y, x = int(window[0].start), int(window[1].start)
    return Found(shape, color, (left + x, top + y, right + x, bottom + y), confidence, region)


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask dilated by one pixel (4-neighbourhood)."""
    padded = np.pad(mask, 1)
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    grown: NDArray[np.bool_] = np.logical_or.reduce((mask, *neighbours))
    return grown


def _extent(profile: Floats) -> tuple[float, float]:
    """(start, end) of a profile where it crosses one half, interpolated between pixels."""
    high = np.flatnonzero(profile >= 0.5)
    first, last = int(high[0]), int(high[-1])
    before = profile[first - 1] if first else 0.0
    after = profile[last + 1] if last + 1 < len(profile) else 0.0
    start = first + 0.5 - (profile[first] - 0.5) / max(profile[first] - before, 1e-6)
    end = last + 0.5 + (profile[last] - 0.5) / max(profile[last] - after, 1e-6)
    return float(max(start, first - 0.5)), float(min(end, last + 1.5))


def _overlap(one: Floats, other: Floats) -> float:
    return float(np.minimum(one, other).sum() / np.maximum(one, other).sum())
