"""Two stages: a cheap draft explores, and the model itself finishes the best candidates from the same noise.

The finished image is judged again, and the draft's is kept where it was better: a verdict that was paid for is not
given away.
"""

from collections.abc import Sequence

from sanac.nn.stepwise import Noise
from sanac.search.pool import Found, PromptSearch, affordable, forwards


def two_stage(search: PromptSearch, noises: Sequence[Noise], finished: int, batch: int) -> Found:
    """Draft as many candidates as the budget pays for beside the finished ones; finish the best drafts."""
    draft, each = search.draft(), forwards(search.costs)
    reserve = finished * each
    left = None if search.left is None else max(0, search.left - reserve)
    drafted = len(noises) if left is None else min(len(noises), left // forwards(draft.costs))
    found = Found()
    for start in range(0, drafted, batch):
        if found.candidates and not search.in_time:
            break
        found.candidates += draft.start(noises[start : min(drafted, start + batch)]).finish()
    ranked = sorted(found.candidates, key=lambda one: -one.score)[:finished]
    again = [one.origin.noise for one in ranked] or list(noises[:1])
    count = affordable(search, each, len(again))
    if count:
        found.candidates += search.start(again[:count]).finish()
    return found
