"""Distances between the sets of generated and rendered images: Frechet, KID, diversity, copies of training images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanac.core.errors import InvalidInput, UsageError
from sanac.judge.features import Features, checked, features, in_content_order
from sanac.judge.intervals import LEVEL, Interval, normal_interval, wilson

Floats = NDArray[np.float64]

_ROWS = 512  # rows of the pairwise table computed at a time


@dataclass(frozen=True, slots=True)
class Distance:
    """Four comparisons of a generated with a rendered set of images.

    `frechet` and `kid` grow with any difference; `frechet_floor` is the distance between two halves of the rendered
    set. `diversity` is 1 for as much variety as the rendered set, 0 if all images are equal. `copies` is the share of
    generated images as near to a training image as only the share `copies_expected` of the rendered ones.
    """

    frechet: float
    frechet_floor: float
    kid: Interval
    diversity: Interval
    copies: Interval | None
    copies_expected: float
    generated: int
    rendered: int
    training: int

    def to_json(self) -> dict[str, Any]:
        """The JSON form used in measurements."""
        return {
            "frechet": self.frechet,
            "frechet_floor": self.frechet_floor,
            "kid": self.kid.to_json(),
            "diversity": self.diversity.to_json(),
            "copies": None if self.copies is None else self.copies.to_json(),
            "copies_expected": self.copies_expected,
            "generated": self.generated,
            "rendered": self.rendered,
            "training": self.training,
        }


def compare(
    generated: NDArray[np.generic],
    rendered: NDArray[np.generic],
    training: NDArray[np.generic] | None = None,
    *,
    percentile: float = 5.0,
    level: float = LEVEL,
) -> Distance:
    """The distance of `generated` from `rendered`, and its nearness to `training`; independent of image order.

    `rendered` must not contain `training` images: their copies would then count as expected.
    """
    if not 0 < percentile < 100:
        raise UsageError(f"{percentile} is not a percentile", hint="pass a number between 0 and 100, such as 5")
    pictures = checked("generated", generated)
    one = features(in_content_order(pictures))
    other = features(in_content_order(checked("rendered", rendered, pictures)))
    seen = None if training is None else features(in_content_order(checked("training", training, pictures)))
    return Distance(
        frechet(one, other),
        frechet(other[::2], other[1::2]),
        kernel_distance(one, other, level),
        diversity(one, other, level),
        None if seen is None else copies(one, other, seen, percentile, level),
        percentile / 100,
        len(one),
        len(other),
        0 if seen is None else len(seen),
    )


def frechet(one: Features, other: Features) -> float:
    """Frechet distance of two fitted normals: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)."""
    first, second = _covariance(one), _covariance(other)
    root = _root(first)
    values = np.linalg.eigvalsh(root @ second @ root)
    shared = np.sqrt(np.maximum(values, 0)).sum()
    apart = ((one.mean(axis=0) - other.mean(axis=0)) ** 2).sum()
    return float(max(apart + np.trace(first) + np.trace(second) - 2 * shared, 0))


def _covariance(values: Features) -> Floats:
    """Covariance with shrunk off-diagonal elements (Schaefer and Strimmer 2005), for small sets."""
    count = len(values)
    centred = values - values.mean(axis=0)
    products = centred.T @ centred / count
    noise = ((centred**2).T @ (centred**2) / count - products**2) / (count - 1)
    off = ~np.eye(len(products), dtype=bool)
    size = (products[off] ** 2).sum()
    shrink = min(1.0, float(noise[off].sum() / size)) if size > 0 else 1.0
    covariance: Floats = np.where(off, (1 - shrink) * products, products) * count / (count - 1)
    return covariance


def _root(matrix: Floats) -> Floats:
    """The symmetric square root; eigenvalues below zero (rounding) are clipped."""
    values, vectors = np.linalg.eigh(matrix)
    root: Floats = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root


def kernel_distance(one: Features, other: Features, level: float = LEVEL) -> Interval:
    """KID: the unbiased squared MMD with the kernel (x.y / d + 1)^3. Can be slightly negative.

    The bounds are from a jackknife: the spread of the estimate when each image is left out in turn.
    """
    m, n = len(one), len(other)
    within_one = _kernel_sums(one, one) - _kernel_diagonal(one)
    within_other = _kernel_sums(other, other) - _kernel_diagonal(other)
    from_one, from_other = _kernel_sums(one, other), _kernel_sums(other, one)
    total_one, total_other, total = within_one.sum(), within_other.sum(), from_one.sum()
    mean_one, mean_other = total_one / (m * (m - 1)), total_other / (n * (n - 1))
    value = mean_one + mean_other - 2 * total / (m * n)
    without_one = (total_one - 2 * within_one) / ((m - 1) * (m - 2)) - 2 * (total - from_one) / ((m - 1) * n)
    without_other = (total_other - 2 * within_other) / ((n - 1) * (n - 2)) - 2 * (total - from_other) / (m * (n - 1))
    variance = without_one.var() * (m - 1) + without_other.var() * (n - 1)
    return normal_interval(float(value), float(np.sqrt(variance)), min(m, n), level)


def _kernel_sums(one: Features, other: Features) -> Floats:
    """(len(one),): for each of `one`, the sum of its kernel values with all of `other`."""
    blocks = (one[start : start + _ROWS] @ other.T for start in range(0, len(one), _ROWS))
    return np.concatenate([((block / one.shape[1] + 1) ** 3).sum(axis=1) for block in blocks])


def _kernel_diagonal(values: Features) -> Floats:
    diagonal: Floats = ((values**2).sum(axis=1) / values.shape[1] + 1) ** 3
    return diagonal


def diversity(one: Features, other: Features, level: float = LEVEL) -> Interval:
    """Mean nearest-neighbour distance within `one` over that within `other`, both truncated to equal size."""
    count = min(len(one), len(other))
    mine, theirs = (nearest_distances(values[:count], values[:count], itself=True) for values in (one, other))
    scale = theirs.mean()
    if scale <= 0:
        raise InvalidInput("the rendered images are all equal", hint="render different scenes")
    ratio = mine.mean() / scale
    error = np.sqrt((mine.var() + ratio**2 * theirs.var()) / count) / scale
    return normal_interval(float(ratio), float(error), count, level)


def copies(one: Features, other: Features, training: Features, percentile: float, level: float = LEVEL) -> Interval:
    """The share of `one` that is as near to a training image as the nearest `percentile` percent of `other`."""
    limit = np.percentile(nearest_distances(other, training), percentile)
    return wilson(int((nearest_distances(one, training) <= limit).sum()), len(one), level)


def nearest_distances(values: Features, among: Features, *, itself: bool = False) -> Floats:
    """Distance of each value to the nearest of `among`; with `itself`, both are one set and self-pairs are skipped."""
    lengths = (among**2).sum(axis=1)
    distances = []
    for start in range(0, len(values), _ROWS):
        block = values[start : start + _ROWS]
        apart = lengths - 2 * block @ among.T  # without each block's own length, which doesn't change the order
        if itself:
            rows = np.arange(len(block))
            apart[rows, start + rows] = np.inf
        distances.append(np.linalg.norm(block - among[apart.argmin(axis=1)], axis=1))
    return np.concatenate(distances)
