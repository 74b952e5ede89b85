"""Exact solver of the multiple-choice knapsack problem: one option per item, least total cost within a weight limit.

A Lagrangian price per unit of weight makes the items independent: each takes its cheapest option at that price. The
best price gives a lower bound on the cost. Items are then added one by one to a Pareto front of partial solutions
(none both cheaper and lighter than another). Partial solutions whose lower bound exceeds the best known cost are
dropped, so the front stays small. Its cheapest entry after the last item is the optimum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST = 200_000  # most partial solutions kept; if exceeded, the solution is optimal up to `gap`
_HALVINGS = 200

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Item:
    """Costs and weights of an item's options."""

    costs: Numbers
    weights: Numbers


@dataclass(frozen=True, slots=True)
class KnapsackSolution:
    """The chosen option of each item, and the total cost and weight."""

    options: tuple[int, ...]
    cost: float
    weight: float
    gap: float  # upper bound on the distance to the optimal cost; 0.0: optimal


def lightest(items: Sequence[Item]) -> float:
    """The least total weight of any solution."""
    return float(sum(item.weights.min() for item in items))


def cheapest(items: Sequence[Item], limit: float) -> KnapsackSolution | None:
    """The solution of least cost within the weight limit; None if no solution fits."""
    if lightest(items) > limit:
        return None
    price = _price(items, limit)
    reduced = [item.costs + price * item.weights for item in items]
    bound = sum(float(part.min()) for part in reduced) - price * limit
    known = _filled(items, _at(items, price), limit)
    order = sorted(range(len(items)), key=lambda index: -_decided(reduced[index]))
    found, exact = _front(items, reduced, order, price, limit, known.cost)
    best = found if found is not None and found.cost <= known.cost else known
    return KnapsackSolution(best.options, best.cost, best.weight, 0.0 if exact else max(0.0, best.cost - bound))


def swaps(items: Sequence[Item], options: Sequence[int], limit: float, count: int) -> list[tuple[int, ...]]:
    """Up to `count` solutions within the limit that differ from `options` in one or two items, cheapest first."""
    moves = [
        (place, option, item.costs[option] - item.costs[now], item.weights[option] - item.weights[now])
        for place, (item, now) in enumerate(zip(items, options, strict=True))
        for option in range(len(item.costs))
        if option != now
    ]
    if not moves:
        return []
    places, news, costs, weights = (np.array(column) for column in zip(*moves, strict=True))
    first, second = np.triu_indices(len(moves))  # the pair of a move with itself is the single move
    alone = first == second
    distinct = alone | (places[first] != places[second])
    first, second, alone = first[distinct], second[distinct], alone[distinct]
    cost = costs[first] + np.where(alone, 0.0, costs[second])
    weight = _weight(items, options) + weights[first] + np.where(alone, 0.0, weights[second])
    fitting = np.flatnonzero(weight <= limit)
    found = []
    for pick in fitting[np.argsort(cost[fitting], kind="stable")[:count]]:
        changed = list(options)
        for move in (first[pick], second[pick]):
            changed[places[move]] = int(news[move])
        found.append(tuple(changed))
    return found


def _at(items: Sequence[Item], price: float) -> list[int]:
    """Each item's cheapest option at a price; ties take the lighter one."""
    return [int(np.lexsort((item.weights, item.costs + price * item.weights))[0]) for item in items]


def _weight(items: Sequence[Item], options: Sequence[int]) -> float:
    return float(sum(item.weights[option] for item, option in zip(items, options, strict=True)))


def _cost(items: Sequence[Item], options: Sequence[int]) -> float:
    return float(sum(item.costs[option] for item, option in zip(items, options, strict=True)))


def _price(items: Sequence[Item], limit: float) -> float:
    """The lowest price at which the cheapest options fit into the limit."""
    if _weight(items, _at(items, 0.0)) <= limit:
        return 0.0
    low, high = 0.0, 2 * max(float(np.ptp(item.costs)) for item in items) / min(map(_least_step, items))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _weight(items, _at(items, middle)) <= limit:
            high = middle
        else:
            low = middle
    return high


def _least_step(item: Item) -> float:
    steps = np.diff(np.unique(item.weights))
    return float(steps.min()) if len(steps) else float("inf")


def _filled(items: Sequence[Item], options: list[int], limit: float) -> KnapsackSolution:
    """Greedily spend the remaining weight where it saves the most cost per unit."""
    options, weight = list(options), _weight(items, options)
    while True:
        best, gain = None, 0.0
        for place, item in enumerate(items):
            now = options[place]
            for option in range(len(item.costs)):
                more = item.weights[option] - item.weights[now]
                less = item.costs[now] - item.costs[option]
                if less > 0 and weight + more <= limit and less / max(more, 1e-12) > gain:
                    best, gain = (place, option), less / max(more, 1e-12)
        if best is None:
            return KnapsackSolution(tuple(options), _cost(items, options), weight, 0.0)
        weight += items[best[0]].weights[best[1]] - items[best[0]].weights[options[best[0]]]
        options[best[0]] = best[1]


def _decided(reduced: Numbers) -> float:
    """Difference between the reduced costs of an item's two best options."""
    return float(np.partition(reduced, 1)[1] - reduced.min()) if len(reduced) > 1 else float("inf")


def _front(
    items: Sequence[Item], reduced: Sequence[Numbers], order: Sequence[int], price: float, limit: float, known: float
) -> tuple[KnapsackSolution | None, bool]:
    """(the best solution that costs no more than `known`, or None; whether the front never exceeded MOST)."""
    costs, weights = np.zeros(1), np.zeros(1)
    ways: list[tuple[NDArray[np.intp], NDArray[np.int16]]] = []
    remaining = sum(float(part.min()) for part in reduced)
    light, exact = lightest(items), True
    slack = 1e-12 * max(1.0, abs(known))
    for index in order:
        item = items[index]
        remaining -= float(reduced[index].min())
        light -= float(item.weights.min())
        count = len(item.costs)
        all_costs = (costs[:, None] + item.costs).ravel()
        all_weights = (weights[:, None] + item.weights).ravel()
        bounds = all_costs + remaining + price * (all_weights - limit)
        sound = np.flatnonzero((all_weights + light <= limit * (1 + 1e-15)) & (bounds <= known + slack))
        sound = sound[np.lexsort((all_costs[sound], all_weights[sound]))]
        lowest = np.minimum.accumulate(np.r_[np.inf, all_costs[sound]])[:-1]
        sound = sound[all_costs[sound] < lowest]
        if len(sound) > MOST:
            exact = False
            sound = sound[np.sort(np.argpartition(bounds[sound], MOST)[:MOST])]
        ways.append(((sound // count), (sound % count).astype(np.int16)))
        costs, weights = all_costs[sound], all_weights[sound]
    if not len(costs):
        return None, exact
    place = int(costs.argmin())
    options, best = [0] * len(items), place
    for index, (before, option) in zip(reversed(order), reversed(ways), strict=True):
        options[index] = int(option[best])
        best = int(before[best])
    return KnapsackSolution(tuple(options), float(costs[place]), float(weights[place]), 0.0), exact
