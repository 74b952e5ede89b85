"""Each way for a set of pictures to go wrong is seen by the number that is there for it, and sameness by none."""

import json
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest

from sanac.core.errors import InvalidInput, UsageError
from sanac.judge.distribution import Distance, compare, copies, diversity, frechet, kernel_distance, nearest_distances
from sanac.judge.features import Features, features, in_content_order
from tests.judge.worlds import blurred, scenes

N = 200
RENDERED, TRAINING = scenes(N, 1), scenes(N, 9)
GENERATED = {
    "the same": scenes(N, 2),
    "fewer": scenes(N // 2, 2),
    "one picture": np.repeat(scenes(1, 2), N, axis=0),
    "five pictures": scenes(5, 2)[np.arange(N) % 5],
    "two prompts": scenes(N, 2, kinds=[(0, 1), (2, 3)]),
    "a colour less": scenes(N, 2, colors=4),
    "grey": np.repeat(scenes(N, 2).mean(axis=3, keepdims=True).astype(np.uint8), 3, axis=3),
    "blur": blurred(scenes(N, 2)),
    "memorised": TRAINING[::-1],
    "upside down in colour": scenes(N, 2)[..., ::-1],
}


@pytest.fixture(scope="module")
def seen() -> dict[str, Distance]:
    return {name: compare(pictures, RENDERED, TRAINING) for name, pictures in GENERATED.items()}


@pytest.mark.parametrize("name", ["the same", "fewer", "memorised"])
def test_the_same_is_near_zero(name: str, seen: dict[str, Distance]) -> None:
    found = seen[name]
    assert found.frechet < found.frechet_floor
    assert found.kid.low < 0 < found.kid.high
    assert found.kid.value < 0.0005
    assert found.diversity.value == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "name", ["one picture", "five pictures", "two prompts", "a colour less", "grey", "blur", "upside down in colour"]
)
def test_a_difference_is_far(name: str, seen: dict[str, Distance]) -> None:
    found = seen[name]
    assert found.frechet > 1.1 * found.frechet_floor
    assert found.kid.low > 0
    assert found.frechet > 2 * seen["the same"].frechet


def test_collapse_has_no_diversity(seen: dict[str, Distance]) -> None:
    assert seen["one picture"].diversity.value == 0
    assert seen["five pictures"].diversity.value == 0
    assert seen["two prompts"].diversity.high < 0.9
    assert seen["one picture"].kid.value > 10 * seen["two prompts"].kid.value


def test_only_what_is_memorised_is_copied(seen: dict[str, Distance]) -> None:
    for name, found in seen.items():
        assert found.copies is not None
        assert found.copies.value == 1 if name == "memorised" else found.copies.value < 0.15, name
    assert seen["the same"].copies_expected == 0.05
    noisy = np.clip(TRAINING + np.random.default_rng(0).integers(-2, 3, TRAINING.shape), 0, 255).astype(np.uint8)
    almost = compare(noisy, RENDERED, TRAINING).copies
    assert almost is not None
    assert almost.value > 0.9


def test_order_means_nothing_and_twice_is_the_same() -> None:
    rng = np.random.default_rng(0)
    one, other, training = scenes(60, 2), scenes(40, 1), scenes(30, 9)
    shuffled = compare(rng.permutation(one), rng.permutation(other), rng.permutation(training))
    assert shuffled == compare(one, other, training)
    copied = np.repeat(one[:6], 10, axis=0)
    assert compare(rng.permutation(copied), other) == compare(copied, other)


def test_a_beginning_of_copies_is_still_a_sample() -> None:
    beginning = in_content_order(np.repeat(scenes(4, 0), 50, axis=0))[:100]
    _, counts = np.unique(beginning.reshape(100, -1), axis=0, return_counts=True)
    assert len(counts) == 4
    assert counts.min() > 10


@pytest.mark.parametrize(("height", "width"), [(8, 8), (33, 47), (61, 29)])
def test_odd_sizes(height: int, width: int) -> None:
    one, other = scenes(40, 1, height=height, width=width), scenes(50, 2, height=height, width=width)
    found = compare(one, other)
    assert found.copies is None
    assert (found.generated, found.rendered, found.training) == (40, 50, 0)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["kid"]["n"] == 40
    assert features(one).shape == (40, 91)


def test_a_place_means_little_and_a_hue_much() -> None:
    corner, other, blue = (np.full((8, 32, 32, 3), 235, dtype=np.uint8) for _ in range(3))
    corner[:, 4:12, 4:12] = other[:, 8:16, 20:28] = (220, 40, 40)
    blue[:, 4:12, 4:12] = (40, 40, 220)
    place, hue = (np.linalg.norm(features(corner)[0] - features(one)[0]) for one in (other, blue))
    assert hue > 1.5 * place
    assert np.allclose(features(corner)[0, 48:], features(other)[0, 48:], atol=0.02)  # all but the layout


def test_features_don_t_depend_on_how_many_are_measured_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = features(RENDERED[:20])
    monkeypatch.setattr("sanac.judge.features._PIXELS", 3000)
    assert np.array_equal(features(RENDERED[:20]), whole)


def cloud(number: int, seed: int, size: int = 5) -> Features:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(number, size)) @ np.random.default_rng(7).normal(size=(size, size))


def test_frechet_where_it_is_known() -> None:
    one = cloud(50, 0)
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet(one, one + 2) == pytest.approx(2**2 * 5)
    twice = one.mean(axis=0) + 2 * (one - one.mean(axis=0))
    assert frechet(one, twice) == pytest.approx(one.var(axis=0, ddof=1).sum())
    point = np.repeat(one.mean(axis=0)[None], 50, axis=0)
    assert frechet(one, point) == pytest.approx(one.var(axis=0, ddof=1).sum())
    other = cloud(80, 1) * (1, 2, 3, 4, 5)
    assert frechet(one, other) == pytest.approx(frechet(other, one))
    assert frechet(cloud(4000, 1), cloud(4000, 2)) < 0.01 * frechet(one, other)


def test_frechet_of_few_pictures_is_not_all_noise() -> None:
    rng = np.random.default_rng(0)
    few = frechet(*rng.normal(size=(2, 30, 90)))
    assert few < 0.3 * 90  # without shrinking the two lie in different subspaces, 90 apart


def kernel(one: np.ndarray, other: np.ndarray) -> float:
    return float((one @ other / len(one) + 1) ** 3)


def by_hand(one: Features, other: Features) -> float:
    within = [
        np.mean([kernel(a, b) for (i, a), (j, b) in product(enumerate(values), repeat=2) if i != j])
        for values in (one, other)
    ]
    return float(sum(within) - 2 * np.mean([kernel(a, b) for a, b in product(one, other)]))


def test_kid_and_its_error_by_hand() -> None:
    one, other = cloud(7, 0), cloud(9, 1)
    found = kernel_distance(one, other)
    assert found.value == pytest.approx(by_hand(one, other))
    error = 0.0
    for number, left_out in (
        (7, [by_hand(np.delete(one, index, axis=0), other) for index in range(7)]),
        (9, [by_hand(one, np.delete(other, index, axis=0)) for index in range(9)]),
    ):
        error += np.var(left_out) * (number - 1)
    assert found.high - found.value == pytest.approx(NormalDist().inv_cdf(0.975) * error**0.5)


def test_kid_is_unbiased_and_covered() -> None:
    found = [kernel_distance(cloud(40, 2 * seed), cloud(30, 2 * seed + 1)) for seed in range(200)]
    values = np.asarray([interval.value for interval in found])
    assert abs(values.mean()) < 3 * values.std() / 200**0.5
    assert 0.3 < (values < 0).mean() < 0.8
    assert np.mean([interval.low <= 0 <= interval.high for interval in found]) > 0.9


def test_diversity_is_of_one_size() -> None:
    one = cloud(400, 0)
    assert diversity(one, cloud(100, 1)).n == 100
    assert diversity(one, cloud(100, 1)).value == pytest.approx(1, abs=0.15)
    assert diversity(one / 4, one).value == pytest.approx(0.25)
    with pytest.raises(InvalidInput, match="are all equal"):
        diversity(one, np.ones((10, 5)))


def test_copies_of_honest_pictures_are_as_many_as_expected() -> None:
    training = cloud(500, 0)
    for percentile in (5, 50):
        share = copies(cloud(500, 1), cloud(500, 2), training, percentile)
        assert share.value == pytest.approx(percentile / 100, abs=0.06)
    assert copies(training[:50], training[:80], training, 5).value == 1  # rendered copies hide no generated ones


def test_nearest_by_hand() -> None:
    one, other = cloud(30, 0), cloud(600, 1)
    apart = np.linalg.norm(one[:, None] - other, axis=2)
    assert nearest_distances(one, other) == pytest.approx(apart.min(axis=1))
    assert np.array_equal(nearest_distances(one, one), np.zeros(30))
    within = np.linalg.norm(other[:, None] - other, axis=2) + np.diag([np.inf] * 600)
    assert nearest_distances(other, other, itself=True) == pytest.approx(within.min(axis=1))


def test_what_cannot_be_compared() -> None:
    good = scenes(10, 0)
    for broken, said in (
        (good.astype(float), "have the wrong format"),
        (good[..., :1], "have the wrong format"),
        (good[0], "have the wrong format"),
        (good[:7], "too few"),
        (good[:, :4], "too small"),
        (good[:, :, :20], "another size"),
    ):
        with pytest.raises(InvalidInput, match=said):
            compare(good, broken)
    with pytest.raises(InvalidInput, match="training"):
        compare(good, good, good[:3])
    with pytest.raises(UsageError, match="not a percentile"):
        compare(good, good, percentile=0)
