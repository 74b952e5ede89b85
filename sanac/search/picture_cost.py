"""What a picture costs with a search, from settings alone: block-forwards, in the unit of `sanac schedule`."""

from collections.abc import Sequence

from sanac.nn.stepwise import StepCost
from sanac.search.halving import spent_by
from sanac.search.settings import SearchSettings
from sanac.search.strategies import default_looks

FORESEEN = ("single", "best-of", "halving")  # strategies whose cost follows from their settings
BRANCHES = 2  # of a guided step, which counts its blocks once


def picture_cost(settings: SearchSettings, n: int, costs: Sequence[StepCost]) -> float:
    """Block-forwards of a picture that is searched over `n` noises, an unguided step counting half.

    Exact for best-of and halving; an upper bound with `until`, and an estimate for strategies that aren't FORESEEN.
    """
    each = [cost.block_forwards for cost in costs]
    if settings.search == "single":
        return sum(each) / BRANCHES
    if settings.search == "halving":
        looks = settings.look or default_looks("halving", len(costs))
        return spent_by(n, each, [(look, settings.keep) for look in looks]) / BRANCHES
    return n * sum(each) / BRANCHES
