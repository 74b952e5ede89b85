"""How far generated pictures are from rendered ones as a set: what a score per picture cannot see."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanac.core.errors import InvalidInput, UsageError
from sanac.judge.features import Features, checked, features, in_content_order
from sanac.judge.intervals import LEVEL, Interval, normal_interval, wilson

Floats = NDArray[np.float64]

_ROWS = 512  # of a table of all pairs at a time


@dataclass(frozen=True, slots=True)
class Distance:
    """Four views of two sets of pictures.

    `frechet` and `kid` grow with any difference; `frechet_floor` is what two halves of the rendered set are apart.
    `diversity` is 1 for as much variety as rendered, 0 for one picture over and over. `copies` is the share of
    generated pictures as near to a training picture as only `copies_expected` of the rendered are.
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
        """The form that measurements carry."""
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
    """How far `generated` is from `rendered`, and how near to `training`; the order of the pictures never matters.

    `rendered` must not be `training`: what it has in common with it would pass for normal.
    """
    if not 0 < percentile < 100:
        raise UsageError(f"{percentile} is not a percentile", hint="take one between 0 and 100, such as 5")
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
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2), between the normal distributions that fit best."""
    first, second = _covariance(one), _covariance(other)
    root = _root(first)
    values = np.linalg.eigvalsh(root @ second @ root)
    shared = np.sqrt(np.maximum(values, 0)).sum()
    apart = ((one.mean(axis=0) - other.mean(axis=0)) ** 2).sum()
    return float(max(apart + np.trace(first) + np.trace(second) - 2 * shared, 0))


def _covariance(values: Features) -> Floats:
    """With its off-diagonal shrunk by what of it is noise (Schaefer and Strimmer 2005), for few pictures."""
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
    """The symmetric square root; rounding below zero is cut off."""
    values, vectors = np.linalg.eigh(matrix)
    root: Floats = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return root


def kernel_distance(one: Features, other: Features, level: float = LEVEL) -> Interval:
    """KID: the unbiased squared mean discrepancy under the kernel (x.y / d + 1)^3. May fall below 0 where it is 0.

    Bounds by the jackknife: the spread of the estimate when each picture is left out in turn.
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
    """(len(one),): each one's kernel values with all others."""
    blocks = (one[start : start + _ROWS] @ other.T for start in range(0, len(one), _ROWS))
    return np.concatenate([((block / one.shape[1] + 1) ** 3).sum(axis=1) for block in blocks])


def _kernel_diagonal(values: Features) -> Floats:
    diagonal: Floats = ((values**2).sum(axis=1) / values.shape[1] + 1) ** 3
    return diagonal


def diversity(one: Features, other: Features, level: float = LEVEL) -> Interval:
    """The mean distance to the nearest neighbour within `one` over that within `other`, both cut to one size."""
    count = min(len(one), len(other))
    mine, theirs = (nearest_distances(values[:count], values[:count], itself=True) for values in (one, other))
    scale = theirs.mean()
    if scale <= 0:
        raise InvalidInput("the rendered pictures are copies of one another", hint="render different scenes")
    ratio = mine.mean() / scale
    error = np.sqrt((mine.var() + ratio**2 * theirs.var()) / count) / scale
    return normal_interval(float(ratio), float(error), count, level)


def copies(one: Features, other: Features, training: Features, percentile: float, level: float = LEVEL) -> Interval:
    """The share of `one` that is as near to a training picture as the nearest `percentile` percent of `other` are."""
    limit = np.percentile(nearest_distances(other, training), percentile)
    return wilson(int((nearest_distances(one, training) <= limit).sum()), len(one), level)


def nearest_distances(values: Features, among: Features, *, itself: bool = False) -> Floats:
    """The distance from each value to the nearest of `among`; `itself`: both are one set, and none is its own."""
    lengths = (among**2).sum(axis=1)
    distances = []
    for start in range(0, len(values), _ROWS):
        block = values[start : start + _ROWS]
        apart = lengths - 2 * block @ among.T  # less each block's own length, which changes no order
        if itself:
            rows = np.arange(len(block))
            apart[rows, start + rows] = np.inf
        distances.append(np.linalg.norm(block - among[apart.argmin(axis=1)], axis=1))
    return np.concatenate(distances)
