"""Search over paths (2501.09732): the best previews are made noisy again in several ways, level after level.

The first candidates are denoised to the first level; each is continued from there in several ways, with new noise that
takes it some steps back; the best previews go on to the next level, and the last ones are finished.
"""

from collections.abc import Sequence
from itertools import islice

from sanac.nn.stepwise import Noise
from sanac.search.pool import Dropped, Found, Pool, PromptSearch, Restart, forwards


def paths(search: PromptSearch, noises: Sequence[Noise], width: int, levels: Sequence[int], back: int) -> Found:
    """Keep `width` paths; at each level their guesses go `back` steps, as often as there are noises for it.

    `levels` are numbers of steps after which previews are compared; one that the budget doesn't pay for ends them.
    """
    costs, found, before = search.costs, Found(), 0
    width = width if search.left is None else min(width, search.left // forwards(costs))
    if not width:
        return found
    ways = (len(noises) - width) // (width * max(1, len(levels)))
    pools, fresh = [search.start(noises[:width])], iter(noises[width:])
    for level in levels:
        start = max(0, level - back)
        needed = width * forwards(costs[before:]) + width * ways * forwards(costs[start:level])
        if not ways or not search.in_time or (search.left is not None and needed > search.left):
            break
        for pool in pools:
            pool.advance(level)
        origins, guesses = [], []
        for pool in pools:
            origins += [pool.origins[row] for row in pool.rows for _ in range(ways)]
            guesses += [pool.guesses[row] for row in pool.rows for _ in range(ways)]
        turns = [Restart(start, noise) for noise in islice(fresh, len(origins))]
        pools.append(search.restart(origins, guesses, turns, level))
        pools[-1].advance(level)
        pools, before = _best_paths(pools, width, level, found), level
    for pool in pools:
        found.candidates += pool.finish()
    return found


def _best_paths(pools: Sequence[Pool], width: int, level: int, found: Found) -> list[Pool]:
    """Leave the `width` best previews of all pools; pools without any are gone."""
    said = {(place, row): reading.potential for place, pool in enumerate(pools) for row, reading in pool.read().items()}
    order = sorted(said, key=lambda one: (-said[one], one))
    kept = set(order[:width])
    for place, pool in enumerate(pools):
        origins = pool.origins
        lost = [row for row in pool.rows if (place, row) not in kept]
        found.dropped += [Dropped(origins[row], level, said[place, row]) for row in lost]
        pool.keep([row for row in pool.rows if row not in lost])
    return [pool for pool in pools if pool.rows]
