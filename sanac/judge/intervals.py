"""Confidence intervals: of shares, of means over tasks, of differences between two systems."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sanac.core.errors import InvalidInput, UsageError

Floats = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 10_000
FEW_PROMPTS = 30  # below so many, a percentile bootstrap's interval is too narrow
_CELLS = 4_000_000  # bootstrap draws at a time: about 60 MB
_NOTHING = 1e-12  # differences below this are rounding errors


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its bounds, from `n` independent observations (usually prompts)."""

    value: float
    low: float
    high: float
    level: float
    n: int

    def __str__(self) -> str:
        """Text such as '0.812 [0.795, 0.828]'."""
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def to_json(self) -> dict[str, Any]:
        """The JSON form used in measurements."""
        return {"value": self.value, "low": self.low, "high": self.high, "level": self.level, "n": self.n}


@dataclass(frozen=True, slots=True)
class PromptScore:
    """One prompt's score: the sum over its images (of 0 or 1, or of soft scores) and their number."""

    task: str
    prompt: str
    right: float
    images: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The first system's score minus the second's, and the share of resamples with a negative difference."""

    interval: Interval
    below_zero: float

    def to_json(self) -> dict[str, Any]:
        """The JSON form used in measurements."""
        return self.interval.to_json() | {"below_zero": self.below_zero}


def wilson(successes: float, trials: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a share of independent trials."""
    if trials < 1 or not 0 <= successes <= trials:
        raise UsageError(f"{successes} of {trials} is not a share")
    return _wilson(successes / trials, trials, trials, level)


def clustered_share(scores: Sequence[PromptScore], level: float = LEVEL) -> Interval:
    """Wilson's interval of the share of correct images, with images clustered by prompt.

    It uses the effective number of independent trials implied by the variance between prompts: at least one per prompt,
    at most one per image. With one image per prompt it equals `wilson`.
    """
    table = _table(scores)
    prompts, images = len(table), table[:, 1].sum()
    share = float(table[:, 0].sum() / images)
    spread = float(((table[:, 0] - share * table[:, 1]) ** 2).sum()) / images**2 * prompts / max(prompts - 1, 1)
    trials = share * (1 - share) / spread if spread > 0 else images if 0 < share < 1 else prompts
    return _wilson(share, float(np.clip(trials, prompts, images)), prompts, level)


def overall(scores: Sequence[PromptScore], level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The unweighted mean of the tasks' accuracies, with a bootstrap over the prompts within each task.

    Prompts are resampled, not images: images of one prompt are correlated, and the interval would be too narrow.
    """
    tasks = [table[:, None] for table in _by_task(_sorted(scores))]
    drawn = _bootstrap(tasks, resamples, seed)[:, 0]
    return _interval(float(_mean_of_tasks(tasks)[0]), drawn, len(scores), level)


def paired_difference(
    first: Sequence[PromptScore],
    second: Sequence[PromptScore],
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """`first` minus `second` for two systems on the same prompts; each resample draws the same prompts for both."""
    first, second = _sorted(first), _sorted(second)
    strangers = set(map(_key, first)) ^ set(map(_key, second))
    if strangers:
        listed = [f"{prompt} ({task})" for task, prompt in sorted(strangers)]
        raise InvalidInput("the two systems were not given the same prompts", why=listed[0], problems=listed)
    tasks = [np.stack(pair, axis=1) for pair in zip(_by_task(first), _by_task(second), strict=True)]
    drawn = _bootstrap(tasks, resamples, seed)
    ahead = _mean_of_tasks(tasks)
    differences = drawn[:, 0] - drawn[:, 1]
    interval = _interval(float(ahead[0] - ahead[1]), differences, len(first), level)
    return Difference(interval, float((differences < -_NOTHING).mean()))


def mean(values: Sequence[float], level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The mean of one number per prompt, with bootstrap bounds."""
    if not values:
        raise InvalidInput("there are no values")
    numbers = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // len(numbers))
    rows = (min(step, resamples - start) for start in range(0, resamples, step))
    drawn = np.concatenate([numbers[rng.integers(0, len(numbers), (some, len(numbers)))].mean(axis=1) for some in rows])
    return _interval(float(numbers.mean()), drawn, len(numbers), level)


def normal_interval(value: float, error: float, n: int, level: float = LEVEL) -> Interval:
    """The normal interval of a value with a known standard error."""
    reach = _quantile(level) * error
    return Interval(value, value - reach, value + reach, level, n)


def _key(score: PromptScore) -> tuple[str, str]:
    return (score.task, score.prompt)


def _sorted(scores: Sequence[PromptScore]) -> list[PromptScore]:
    """`scores` sorted by task and prompt, so that a seed draws the same prompts for any input order."""
    ordered = sorted(scores, key=_key)
    if len(set(map(_key, ordered))) < len(ordered):
        raise UsageError("a prompt has two scores", hint="sum its images into one score")
    return ordered


def _table(scores: Sequence[PromptScore]) -> Floats:
    """(prompts, 2): sum of scores, number of images."""
    if not scores:
        raise InvalidInput("there are no scores")
    if any(score.images < 1 or not 0 <= score.right <= score.images for score in scores):
        raise UsageError("a prompt's score is not between 0 and its number of images")
    return np.asarray([(score.right, score.images) for score in scores], dtype=np.float64)


def _by_task(scores: Sequence[PromptScore]) -> list[Floats]:
    table = _table(scores)
    tasks = np.asarray([score.task for score in scores])
    return [table[tasks == task] for task in dict.fromkeys(tasks.tolist())]


def _mean_of_tasks(tasks: Sequence[Floats]) -> Floats:
    """(systems,) from one (prompts, systems, 2) per task."""
    sums = np.stack([table.sum(axis=0) for table in tasks])
    means: Floats = (sums[..., 0] / sums[..., 1]).mean(axis=0)
    return means


def _bootstrap(tasks: Sequence[Floats], resamples: int, seed: int) -> Floats:
    """(resamples, systems): the mean over tasks, with each task's prompts resampled with replacement."""
    if resamples < 100:
        raise UsageError(f"{resamples} resamples are too few", hint="use 1,000 or more")
    rng = np.random.default_rng(seed)
    means = np.zeros((resamples, tasks[0].shape[1]))
    for table in tasks:
        prompts, systems, _ = table.shape
        step = max(1, _CELLS // prompts)
        for start in range(0, resamples, step):
            rows = min(step, resamples - start)
            drawn = rng.integers(0, prompts, (rows, prompts)) + prompts * np.arange(rows)[:, None]
            times = np.bincount(drawn.ravel(), minlength=rows * prompts).reshape(rows, prompts)  # each prompt is drawn
            sums = (times.astype(np.float64) @ table.reshape(prompts, -1)).reshape(rows, systems, 2)
            means[start : start + rows] += sums[..., 0] / sums[..., 1]
    return means / len(tasks)


def _interval(value: float, drawn: Floats, n: int, level: float) -> Interval:
    _quantile(level)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level, n)


def _wilson(share: float, trials: float, n: int, level: float) -> Interval:
    z = _quantile(level)
    shrink = 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / shrink
    reach = z / shrink * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(share, min(share, max(0.0, middle - reach)), max(share, min(1.0, middle + reach)), level, n)


def _quantile(level: float) -> float:
    """Half-width of a two-sided normal interval of this level, in standard errors."""
    if not 0 < level < 1:
        raise UsageError(f"{level} is not a level", hint="write 0.95 for 95 %")
    return NormalDist().inv_cdf((1 + level) / 2)
