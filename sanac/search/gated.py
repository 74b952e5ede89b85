"""Gated search: PARM's two gates, and losing candidates leave the batch.

At each look from the step on where clarity begins, a preview that is clear enough is asked once whether it can end
well; one that can't is dropped. What is left is finished, and the best one wins. If no candidate would be left, the
one with the highest potential in the last batch is. What was saved pays for further candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sanac.nn.stepwise import Noise
from sanac.search.pool import Dropped, Found, PromptSearch, affordable, forwards


@dataclass(frozen=True, slots=True)
class Gates:
    """When candidates are looked at, and what they have to reach."""

    looks: tuple[int, ...]  # after so many steps
    clarity: float = 0.5
    potential: float = 0.5


def gated(search: PromptSearch, noises: Sequence[Noise], gates: Gates, batch: int) -> Found:
    """Begin candidates batch by batch while the budget pays for all of a batch; survivors are finished."""
    found, start, each = Found(), 0, forwards(search.costs)
    while start < len(noises):
        size = affordable(search, each, min(batch, len(noises) - start))
        if not size or (found.candidates and not search.in_time):
            break
        some, start = noises[start : start + size], start + size
        poor = search.left is not None and search.left - size * each < each
        last = start == len(noises) or poor or not search.in_time
        _batch(search, some, gates, found, rescue=last and not found.candidates)
    return found


def _batch(search: PromptSearch, noises: Sequence[Noise], gates: Gates, found: Found, *, rescue: bool) -> None:
    """Pass a batch through the gates; `rescue`: keep the most promising candidate if none would be left."""
    pool, judged = search.start(noises), set[int]()
    for step in gates.looks:
        if not (set(pool.rows) - judged):
            break
        pool.advance(step)
        readings = pool.read()
        clear = [row for row in pool.rows if row not in judged and readings[row].clarity >= gates.clarity]
        judged |= set(clear)
        lost = [row for row in clear if readings[row].potential < gates.potential]
        if rescue and len(lost) == len(pool.rows):
            lost.remove(max(lost, key=lambda row: (readings[row].potential, -row)))
        origins = pool.origins
        found.dropped += [Dropped(origins[row], step, readings[row].potential) for row in lost]
        pool.keep([row for row in pool.rows if row not in lost])
        if not pool.rows:
            return
    found.candidates += pool.finish()
