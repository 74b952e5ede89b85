"""Zero-order search (2501.09732): the best noise so far is the pivot, and its neighbours on the sphere are tried.

A neighbour has the pivot's length and a fixed cosine to it. If one of them scores higher it is the next pivot.
"""

from collections.abc import Sequence

from sanac.nn.stepwise import Noise
from sanac.search.pool import Found, PromptSearch, affordable, forwards


def zero_order(search: PromptSearch, noises: Sequence[Noise], neighbours: int, cosine: float) -> Found:
    """The first noise and its neighbours, turned by the other noises' seeds, while noises and budget last."""
    found, each = Found(), forwards(search.costs)
    if not affordable(search, each, 1):
        return found
    found.candidates += search.start(noises[:1]).finish()
    for start in range(1, len(noises), neighbours):
        some = noises[start : start + neighbours]
        count = affordable(search, each, len(some))
        if not count or not search.in_time:
            break
        pivot = found.winner.origin.noise
        found.candidates += search.start([pivot.turned(noise.seed, cosine) for noise in some[:count]]).finish()
    return found
