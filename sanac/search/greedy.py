"""Greedy steps: PRM's search. At chosen steps the image is continued in several ways, and the best preview goes on.

A flow model's steps are deterministic, so the ways differ by new noise: the guess is made as noisy again as the state
was. The question is not what the image can become but whether the preview already shows the prompt. For comparison: in
the paper, and here, candidates of one path differ too little from each other.
"""

from collections.abc import Sequence
from itertools import islice

from sanac.nn.stepwise import Noise
from sanac.search.pool import Found, PromptSearch, Restart, affordable, best, forwards


def greedy(search: PromptSearch, noises: Sequence[Noise], branches: int, steps: Sequence[int]) -> Found:
    """One path from the first noise, continued in `branches` ways at each of `steps`, as the budget allows."""
    costs, found = search.costs, Found()
    if not affordable(search, forwards(costs), 1):
        return found
    pool, fresh = search.start(noises[:1]), iter(noises[1:])
    for step, following in zip(steps, (*steps[1:], len(costs)), strict=True):
        pool.advance(step)
        (row,) = pool.rows
        stage, rest = forwards(costs[step:following]), forwards(costs[following:])
        extra = branches - 1 if search.left is None else (search.left - rest) // stage - 1
        turns = [
            Restart(step, noise) for noise in islice(fresh, max(0, min(branches - 1, extra)) if search.in_time else 0)
        ]
        if not turns:
            continue
        origin, guess = pool.origins[row], pool.guesses[row]
        others = search.restart([origin] * len(turns), [guess] * len(turns), turns, step)
        pool.advance(following)
        others.advance(following)
        mine, theirs = pool.read(), others.read()
        ahead = best({row: reading.final for row, reading in theirs.items()}, 1)
        if ahead and theirs[ahead[0]].final > mine[row].final:
            others.keep(ahead)
            pool = others
    found.candidates = pool.finish()
    return found
