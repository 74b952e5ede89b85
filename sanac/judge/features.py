"""Image features for comparing sets of images: layout, colours, edges. No network, no training."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanac.core.errors import InvalidInput

Pictures = NDArray[np.uint8]  # (number, height, width, 3)
Features = NDArray[np.float64]  # (number, features)
Floats = NDArray[np.floating[Any]]

FEWEST = 8  # minimum number of images in a set, and of pixels per side
_PIXELS = 2_000_000  # pixels processed at a time: about 100 MB
_RANKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_HUES = 12
_DIRECTIONS = 8
_PLACE = 0.5  # weight of the layout, which differs between any two images
_SHARPNESS, _SPARSE = 4.0, 8.0  # weights that scale features of few pixels to the spread of the others


def checked(name: str, pictures: NDArray[np.generic], like: Pictures | None = None) -> Pictures:
    """`pictures`, checked: RGB uint8, large and numerous enough, of the same size as `like`."""
    shape = pictures.shape
    if pictures.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
        raise InvalidInput(
            f"the {name} images have the wrong format",
            why=f"they are {pictures.dtype} of shape {shape}, not uint8 of (number, height, width, 3)",
            hint="convert them to RGB bytes of one size",
        )
    if min(shape[:3]) < FEWEST:
        raise InvalidInput(
            f"the {name} images are too few or too small",
            why=f"they are {shape[0]} of {shape[1]} x {shape[2]} pixels; needed: {FEWEST} of {FEWEST} x {FEWEST}",
            hint="use more images, or larger ones",
        )
    if like is not None and shape[1:3] != like.shape[1:3]:
        raise InvalidInput(
            f"the {name} images have another size",
            why=f"they are {shape[1]} x {shape[2]}, the generated ones {like.shape[1]} x {like.shape[2]}",
            hint="resize one set to the other's size, both with the same filter",
        )
    return pictures.astype(np.uint8, copy=False)


def in_content_order(pictures: Pictures) -> Pictures:
    """The same images sorted by a digest of their bytes.

    Any prefix is then a random sample, and no result depends on the input order. Equal images get distinct digests.
    """
    copies: Counter[bytes] = Counter()
    keys = []
    for picture in pictures:
        digest = hashlib.blake2b(picture.tobytes(), digest_size=16).digest()
        copies[digest] += 1
        keys.append(hashlib.blake2b(digest + str(copies[digest]).encode(), digest_size=16).digest())
    return pictures[sorted(range(len(keys)), key=keys.__getitem__)]


def features(pictures: Pictures) -> Features:
    """(number, 91): layout 48, colour quantiles over 8 x 8 cells 15, contrast quantiles 5, edges 3 + 8, hues 12."""
    step = max(1, _PIXELS // (pictures.shape[1] * pictures.shape[2]))
    parts = [_measure(pictures[start : start + step]) for start in range(0, len(pictures), step)]
    return np.concatenate(parts).astype(np.float64)


def _measure(pictures: Pictures) -> Floats:
    channels = _opponent(pictures)
    fine = _cells(channels, 8)  # (number, 8, 8, 3)
    squares = _cells(channels[..., :1] ** 2, 8)
    contrast = np.sqrt(np.maximum(squares - fine[..., :1] ** 2, 0))
    edges = [_edges(luma) for luma in _halved(channels[..., 0], times=2)]
    groups = [_PLACE * _flat(_cells(channels, 4)), _ranks(fine), _ranks(contrast)]
    groups += [_SHARPNESS * np.sqrt((strength**2).mean(axis=(1, 2)))[:, None] for strength, _ in edges]
    groups += [_SPARSE * _histogram(*edges[0], _DIRECTIONS), _SPARSE * _hues(channels)]
    return np.concatenate(groups, axis=1)


def _opponent(pictures: Pictures) -> Floats:
    """Channels: luminance in 0..1, scaled blue minus luminance, scaled red minus luminance."""
    red, green, blue = np.moveaxis(pictures.astype(np.float32) / np.float32(255), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return np.stack([luma, 0.564 * (blue - luma), 0.713 * (red - luma)], axis=-1).astype(np.float32)


def _cells(values: Floats, cells: int) -> Floats:
    """(number, cells, cells, channels): means over a grid of cells, equal in size up to a pixel."""
    rows, columns = (np.linspace(0, side, cells + 1).astype(int) for side in values.shape[1:3])
    sums = np.add.reduceat(np.add.reduceat(values, rows[:-1], axis=1), columns[:-1], axis=2)
    areas = np.diff(rows)[:, None] * np.diff(columns)
    means: Floats = sums / areas[..., None]
    return means


def _ranks(cells: Floats) -> Floats:
    """Each channel's quantiles over the cells: which colours occur, independent of position."""
    quantiles = np.quantile(cells, _RANKS, axis=(1, 2))  # (ranks, number, channels)
    return _flat(np.moveaxis(quantiles, 0, 1))


def _halved(luma: Floats, times: int) -> Sequence[Floats]:
    """The luminance at full size and halved `times` times; an odd last row or column is dropped."""
    scales = [luma]
    for _ in range(times):
        rows, columns = (side // 2 * 2 for side in scales[-1].shape[1:])
        even = scales[-1][:, :rows, :columns]
        scales.append((even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]) / 4)
    return scales


def _edges(luma: Floats) -> tuple[Floats, Floats]:
    """(strength, direction) of the gradient at each pixel; opposite gradients have the same direction."""
    across, down = np.diff(luma, axis=2)[:, :-1], np.diff(luma, axis=1)[:, :, :-1]
    return np.hypot(across, down), np.arctan2(down, across) / np.pi % 1


def _hues(channels: Floats) -> Floats:
    blue, red = channels[..., 1], channels[..., 2]
    return _histogram(np.hypot(blue, red), np.arctan2(red, blue) / (2 * np.pi) % 1, _HUES)


def _histogram(strength: Floats, angle: Floats, bins: int) -> Floats:
    """(number, bins): mean strength per angle bin (angles 0..1, cyclic), interpolated between neighbouring bins."""
    place = angle * bins
    lower = np.floor(place)
    share = (place - lower).astype(np.float32)
    row = np.arange(len(strength))[:, None, None] * bins
    total = np.zeros(len(strength) * bins)
    for offset, weight in ((0, 1 - share), (1, share)):
        index = row + (lower.astype(int) + offset) % bins
        total += np.bincount(index.ravel(), (strength * weight).ravel(), minlength=len(total))
    share_of_all: Floats = total.reshape(-1, bins) / strength[0].size
    return share_of_all


def _flat(values: Floats) -> Floats:
    return values.reshape(len(values), -1)
