"""Connected regions of a mask, computed without a loop over pixels."""

import numpy as np
from numpy.typing import NDArray


def regions(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The mask's 4-connected regions, largest first.

    Every pixel starts with its own number. Along rows, then along columns, each run of set pixels takes its largest
    number, until nothing changes: a few rounds for compact shapes, for any image size.
    """
    numbers = np.where(mask, np.arange(1, mask.size + 1, dtype=np.int64).reshape(mask.shape), 0)
    while True:
        spread = _spread(_spread(numbers).T).T
        if np.array_equal(spread, numbers):
            break
        numbers = spread
    labels, counts = np.unique(numbers[mask], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [numbers == label for label in labels[order]]


def _spread(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Set every run of nonzero numbers along the rows to its largest number."""
    flat = np.pad(numbers, ((0, 0), (0, 1))).ravel()  # a zero ends each row, so no run crosses into the next
    inside = flat > 0
    starts = np.flatnonzero(inside & ~np.concatenate(([False], inside[:-1])))
    if not len(starts):
        return numbers
    ends = np.flatnonzero(inside & ~np.concatenate((inside[1:], [False]))) + 1
    cuts = np.stack((starts, ends), axis=1).ravel()  # the last cut may be at the padded end, which is a zero
    largest = np.maximum.reduceat(flat, cuts[cuts < flat.size])[::2]
    flat[inside] = np.repeat(largest, ends - starts)
    rows, columns = numbers.shape
    return flat.reshape(rows, columns + 1)[:, :columns]
