"""Reflection (PARM++): where the best candidate fails, the judge says what is missing, and the image is begun again.

The rejected image is made partly noisy again and continued for a prompt with the reasons added: it keeps what was right
and has room for what was missing. At most three rounds; where no reason is known the prompt stays as it is. The best
image of all rounds wins.
"""

from collections.abc import Sequence

from sanac.nn.stepwise import Noise
from sanac.search.pool import Bench, Candidate, Found, Restart, affordable, forwards

ROUNDS = 3


def reflection(
    bench: Bench, noises: Sequence[Noise], first: int, accept: float, back: float, batch: int, rounds: int = ROUNDS
) -> Found:
    """The best of `first` candidates, then up to three rounds of new starts until one scores `accept`.

    Each round shares the noises that are left; a new start goes back to the share `back` of all steps.
    """
    costs, found = bench.costs, Found()
    count = affordable(bench, forwards(costs), min(first, len(noises)))
    for start in range(0, count, batch):
        if found.candidates and not bench.in_time:
            break
        found.candidates += bench.start(noises[start : min(count, start + batch)]).finish()
    fresh = list(noises[count:])
    step = max(0, round(len(costs) * (1 - back)))
    each = -(-len(fresh) // rounds) if fresh else 0
    for _ in range(rounds if found.candidates else 0):
        some, fresh = fresh[:each], fresh[each:]
        size = affordable(bench, forwards(costs[step:]), len(some))
        if not size or found.winner.score >= accept or not bench.in_time:
            break
        found.candidates += _again(bench, found.winner, some[:size], step)
    return found


def _again(bench: Bench, rejected: Candidate, noises: Sequence[Noise], step: int) -> list[Candidate]:
    """New starts of a rejected image, for a prompt that says what was missing."""
    prompt = ", ".join([bench.request.prompt, *bench.reasons(rejected)])
    turns = [Restart(step, noise, prompt if prompt != bench.request.prompt else "") for noise in noises]
    taken = len(bench.costs)
    pool = bench.restart([rejected.origin] * len(turns), [rejected.guess] * len(turns), turns, taken)
    return pool.finish()
