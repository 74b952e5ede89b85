"""The search strategies by name: what each does with the noises of a prompt, and where it looks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sanac.nn.stepwise import Noise
from sanac.search.best_of import best_of
from sanac.search.gated import Gates, gated
from sanac.search.greedy import greedy
from sanac.search.halving import halving
from sanac.search.paths import paths
from sanac.search.pool import Found, PromptSearch
from sanac.search.reflection import reflection
from sanac.search.two_stage import two_stage
from sanac.search.zero_order import zero_order

CUTS, LOOKS, LEVELS = (0.4, 0.65), (0.4, 0.5, 0.6, 0.7, 0.8), (0.5, 0.75)  # shares of all steps


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """A search of a prompt with all settings resolved."""

    strategy: str
    n: int  # noises
    batch: int
    looks: tuple[int, ...] = ()  # steps after which previews are compared
    keep: float = 0.5
    clarity: float = 0.5
    potential: float = 0.5
    until: float | None = None
    neighbours: int = 4
    cosine: float = 0.95
    back: float = 0.5  # share of all steps that a new start goes back

    def run(self, search: PromptSearch, noises: Sequence[Noise]) -> Found:
        """Search with this plan."""
        return STRATEGIES[self.strategy](search, noises, self)


Strategy = Callable[[PromptSearch, Sequence[Noise], SearchPlan], Found]

STRATEGIES: Mapping[str, Strategy] = {
    "best-of": lambda search, noises, plan: best_of(search, noises, plan.batch, plan.until),
    "halving": lambda search, noises, plan: halving(search, noises, [(step, plan.keep) for step in plan.looks]),
    "gated": lambda search, noises, plan: gated(
        search, noises, Gates(plan.looks, plan.clarity, plan.potential), plan.batch
    ),
    "two-stage": lambda search, noises, plan: two_stage(search, noises, 1, plan.batch),
    "reflection": lambda search, noises, plan: reflection(
        search, noises, -(-plan.n // 2), plan.until or 0.5, plan.back, plan.batch
    ),
    "zero-order": lambda search, noises, plan: zero_order(search, noises, plan.neighbours, plan.cosine),
    "paths": lambda search, noises, plan: paths(
        search,
        noises,
        max(1, min(plan.n // 4, plan.n // (1 + len(plan.looks)))),
        plan.looks,
        max(1, round(plan.back * len(search.costs) / 2)),
    ),
    "prm": lambda search, noises, plan: greedy(search, noises, 1 + (plan.n - 1) // max(1, len(plan.looks)), plan.looks),
}


def least_noises(strategy: str, looks: int) -> int:
    """The least number of noises with which a strategy does more than finish them."""
    return {"prm": 1 + looks, "paths": 1 + looks}.get(strategy, 1)


_DEFAULT_LOOKS: Mapping[str, tuple[float, ...]] = {"halving": CUTS, "gated": LOOKS, "prm": LOOKS, "paths": LEVELS}


def default_looks(strategy: str, steps: int) -> tuple[int, ...]:
    """Steps after which a strategy looks at previews; () for those that only see finished images."""
    shares = _DEFAULT_LOOKS.get(strategy, ())
    return tuple(dict.fromkeys(max(1, min(steps - 1, round(share * steps))) for share in shares if steps > 1))
