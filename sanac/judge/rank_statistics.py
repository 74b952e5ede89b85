"""Rank correlations with ties: Kendall's tau-b, Spearman's rho, top-k overlap."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sanac.core.errors import UsageError

Floats = NDArray[np.float64]


def kendall(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Kendall's tau-b of two score lists; None if all values of one list are equal.

    tau_b = (concordant - discordant) / sqrt(pairs not tied in one * pairs not tied in the other)
    """
    ours, theirs = _signs(one), _signs(other)
    if len(ours) != len(theirs):
        raise UsageError("the two score lists have different lengths")
    scale = float(np.abs(ours).sum() * np.abs(theirs).sum()) ** 0.5
    return float((ours * theirs).sum()) / scale if scale else None


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Spearman's rank correlation, with mean ranks for ties; None if all values of one list are equal."""
    ours, theirs = (ranks(values) - (len(values) + 1) / 2 for values in (one, other))
    scale = float((ours @ ours) * (theirs @ theirs)) ** 0.5
    return float(ours @ theirs) / scale if scale else None


def overlap(one: Sequence[float], other: Sequence[float], top: int) -> float:
    """The share of the `top` best of `one` that are among the `top` best of `other`; ties keep list order."""
    if not 0 < top <= len(one):
        raise UsageError(f"there is no top {top} of {len(one)}")
    ours, theirs = (set(np.argsort(-np.asarray(values), kind="stable")[:top].tolist()) for values in (one, other))
    return len(ours & theirs) / top


def ranks(values: Sequence[float]) -> Floats:
    """Ranks from 1 for the smallest value; equal values share their mean rank."""
    _, place, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Floats = ((last - counts + 1 + last) / 2)[place]
    return shared


def _signs(values: Sequence[float]) -> Floats:
    """The sign (1, 0 or -1) of the difference of every pair."""
    numbers = np.asarray(values, float)
    rows, columns = np.triu_indices(len(numbers), 1)
    signs: Floats = np.sign(numbers[columns] - numbers[rows])
    return signs
