"""What is in a picture of this world: class, colour, box, mask and confidence of every item. No training."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sanac.shapes.regions import regions
from sanac.shapes.render import coverage
from sanac.shapes.words import COLORS, SHAPES

Floats = NDArray[np.float32]

SMALLEST = 0.006  # share of the picture's area below which a region is a speck
FAINTEST = 0.45  # share of a colour's full strength from which a pixel belongs to an item
_BEYOND = 0.1  # of full scale, that floats may go beyond black and white


@dataclass(frozen=True, slots=True)
class Found:
    """One item in a picture; the box in pixels (left, top, right, bottom), the mask as large as the picture."""

    shape: str
    color: str
    box: tuple[float, float, float, float]
    confidence: float
    mask: NDArray[np.bool_]


def detect(picture: NDArray[np.generic]) -> list[Found]:
    """The items in one picture of any size and mode, most confident first.

    The ground is the picture's median. A pixel's difference from it points from the ground towards the item's colour,
    whatever share of the pixel the item covers; the length along that direction is the share. So edges keep their
    colour and outlines their sub-pixel place. Each region of one colour is compared with the four shapes drawn into
    its own box; confidence is their soft overlap (intersection over union).
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
    """The items of each picture."""
    return [detect(picture) for picture in pictures]


def as_rgb(picture: NDArray[np.generic]) -> Floats:
    """(height, width, 3) in 0..1 from grey, grey with alpha, RGB or RGBA in bytes, 16 bits, booleans or floats."""
    pixels = np.asarray(picture)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in {1, 2, 3, 4} or 0 in pixels.shape:
        raise ValueError(f"not a picture: its shape is {np.asarray(picture).shape}")
    if pixels.dtype.kind == "u":
        values = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    elif pixels.dtype.kind in "fb":
        values = pixels.astype(np.float32)
    else:
        raise ValueError(f"not a picture: its values are {pixels.dtype}")
    if not np.isfinite(values).all():
        raise ValueError("not a picture: it holds NaN or infinity")
    if values.min() < -_BEYOND or values.max() > 1 + _BEYOND:
        raise ValueError(f"not a picture: its floats go from {values.min():g} to {values.max():g}, not from 0 to 1")
    values = np.clip(values, 0, 1).astype(np.float32)
    if values.shape[2] in {2, 4}:  # what is transparent lies on white
        alpha = values[..., -1:]
        values = values[..., :-1] * alpha + (1 - alpha)
    return np.asarray(np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values, dtype=np.float32)


def _smooth(values: Floats) -> Floats:
    """A binomial blur (1 2 1 each way): noise of single pixels doesn't tear regions apart."""
    padded = np.pad(values, [(1, 1), (1, 1), (0, 0)][: values.ndim], mode="edge")
    rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return np.asarray((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4, dtype=np.float32)


def _unmix(colors: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Per pixel the colour that its difference from the ground points to, and the share of it that is there."""
    ground = np.median(colors.reshape(-1, 3), axis=0)
    towards = np.asarray(list(COLORS.values()), dtype=np.float32) - ground
    strength = np.linalg.norm(towards, axis=1)
    along = (colors - ground) @ (towards / strength[:, None]).T  # (height, width, colours)
    which = along.argmax(axis=2)
    share = np.take_along_axis(along, which[..., None], axis=2)[..., 0] / strength[which]
    return which, share.astype(np.float32)


def _recognise(region: NDArray[np.bool_], share: Floats, color: str) -> Found:
    """Compare a region with the shapes drawn where it is. Its soft edge counts, so the box is finer than pixels."""
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
    """The mask and the pixels next to it."""
    padded = np.pad(mask, 1)
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    grown: NDArray[np.bool_] = np.logical_or.reduce((mask, *neighbours))
    return grown


def _extent(profile: Floats) -> tuple[float, float]:
    """Where a profile starts and ends: it crosses one half between two pixels."""
    high = np.flatnonzero(profile >= 0.5)
    first, last = int(high[0]), int(high[-1])
    before = profile[first - 1] if first else 0.0
    after = profile[last + 1] if last + 1 < len(profile) else 0.0
    start = first + 0.5 - (profile[first] - 0.5) / max(profile[first] - before, 1e-6)
    end = last + 0.5 + (profile[last] - 0.5) / max(profile[last] - after, 1e-6)
    return float(max(start, first - 0.5)), float(min(end, last + 1.5))


def _overlap(one: Floats, other: Floats) -> float:
    return float(np.minimum(one, other).sum() / np.maximum(one, other).sum())
