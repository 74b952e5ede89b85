"""Reflection (PARM++): where the best candidate fails, the judge says what is missing, and the image is begun again.

The rejected image is made partly noisy again and continued for a prompt with the reasons added: it keeps what was right
and has room for what was missing. At most three rounds; where no reason is known the prompt stays as it is. The best
image of all rounds wins.
"""

from collections.abc import Sequence

from sanac.nn.stepwise import Noise
from sanac.search.pool import Candidate, Found, PromptSearch, Restart, affordable, forwards

ROUNDS = 3


def reflection(
    search: PromptSearch,
    noises: Sequence[Noise],
    first: int,
    accept: float,
    back: float,
    batch: int,
    rounds: int = ROUNDS,
) -> Found:
    """The best of `first` candidates, then up to three rounds of new starts until one scores `accept`.

    Each round shares the noises that are left; a new start goes back to the share `back` of all steps.
    """
    costs, found = search.costs, Found()
    count = affordable(search, forwards(costs), min(first, len(noises)))
    for start in range(0, count, batch):
        if found.candidates and not search.in_time:
            break
        found.candidates += search.start(noises[start : min(count, start + batch)]).finish()
    fresh = list(noises[count:])
    step = max(0, round(len(costs) * (1 - back)))
    each = -(-len(fresh) // rounds) if fresh else 0
    for _ in range(rounds if found.candidates else 0):
        some, fresh = fresh[:each], fresh[each:]
        size = affordable(search, forwards(costs[step:]), len(some))
        if not size or found.winner.score >= accept or not search.in_time:
            break
        found.candidates += _again(search, found.winner, some[:size], step)
    return found


def _again(search: PromptSearch, rejected: Candidate, noises: Sequence[Noise], step: int) -> list[Candidate]:
    """New starts of a rejected image, for a prompt that says what was missing."""
    prompt = ", ".join([search.request.prompt, *search.reasons(rejected)])
    turns = [Restart(step, noise, prompt if prompt != search.request.prompt else "") for noise in noises]
    taken = len(search.costs)
    pool = search.restart([rejected.origin] * len(turns), [rejected.guess] * len(turns), turns, taken)
    return pool.finish()
